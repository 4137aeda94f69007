"""Fixtures that several test modules share."""

import os
import signal
from pathlib import Path

import pytest
import torch

pytest_plugins = ["tiny_cohort"]
torch.set_num_threads(1)

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


def pytest_collection_modifyitems(items):
    """Files of real runs come first: the longest, begun last, would keep one of two workers waiting.

    pytest-xdist would put files of few tests, as these are, at the end; ``--no-loadscope-reorder`` keeps it from that.
    """
    items.sort(key=lambda item: "integration" not in item.path.parts)
