"""Fixtures that several test modules share."""

import os
import signal
from pathlib import Path

import pytest
import torch

pytest_plugins = ["tiny_cohort"]
torch.set_num_threads(1)

#: folders and files that begin first
LONGEST = {"integration", "faults"}
#: files whose tests use the fixtures ``prepared`` and ``trained`` of ``tests/integration/conftest.py``
SHARE_PREPARED = ("test_demo_cohort.py", "test_larger_images.py", "test_pathology_bundle.py")

# a shell starts what it runs in the background with Ctrl-C ignored, and nohup ignores SIGHUP; tests send both
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real slides and tables, which is not part of the repository."""
    folder = Path(os.environ.get("MEDI_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MEDI_REAL_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """A process that has imported MONAI and runs command lines in forks of itself: importing takes ten seconds."""
    from tests.faults.world import Runner

    runner = Runner(tmp_path_factory.mktemp("cache"))
    yield runner
    runner.close()


def pytest_collection_modifyitems(items):
    """Files of real runs come first: the longest, begun last, would keep one of two workers waiting.

    pytest-xdist would put files of few tests, as these are, at the end; ``--no-loadscope-reorder`` keeps it from that.
    """
    items.sort(key=lambda item: not LONGEST & {*item.path.parts, item.path.name})


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One worker makes the demo cohort and the models trained on it, for all files that need them."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "prepared demo cohort" if file.endswith(SHARE_PREPARED) else file

    return Scheduling(config, log)
