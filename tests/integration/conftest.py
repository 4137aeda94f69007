"""The bundle in a folder of its own, and its command line."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import monai.bundle
import pytest
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.demo import demo_dataset
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.workers import folder_lock

ROOT = Path(__file__).parents[2]
#: a training of seconds
SMOKE = ROOT / "configs" / "presets" / "smoke.yaml"


class Bundle:
    def __init__(self, root, cache, forks):
        self.root, self.forks = root, forks
        self.environment = {**os.environ, "MEDI_CACHE": str(cache), "OMP_NUM_THREADS": "1"}

    def command(self, run_id, *configs, **options):
        files = [str(self.root / "configs" / name) if isinstance(name, str) else str(name) for name in configs]
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id]
        command += ["--bundle_root", str(self.root), "--config_file", str(files) if len(files) > 1 else files[0]]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        return command

    def run(self, run_id, *configs, own_process=False, **options):
        """Standard output and error of a command line, and its exit status.

        At least one command of each run id is a process of its own, as a user starts it; the others are forks.
        """
        command = self.command(run_id, *configs, **options)
        if own_process:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
            return done.stdout + done.stderr, done.returncode
        arguments = command[command.index("monai.bundle") + 1 :]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.txt"
            done = self.forks.run(arguments, Path.cwd(), log, 600.0, environment=self.environment)
        return done["output"], done["code"]

    def must_run(self, run_id, *configs, **options):
        output, code = self.run(run_id, *configs, **options)
        assert code == 0, output
        return output

    def error(self, run_id, *configs, **options):
        """The one line that a mistake ends with; a traceback fails the test."""
        output, code = self.run(run_id, *configs, **options)
        assert code == 1 and "Traceback" not in output, output
        lines = [line for line in output.splitlines() if line.startswith("medi_monai: error:")]
        assert len(lines) == 1, output
        return lines[0]

    def run_in_process(self, run_id, *configs, **options):
        """A run without the seconds that a new process takes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MEDI_CACHE", self.environment["MEDI_CACHE"])
            options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
            files = [str(self.root / "configs" / name) if isinstance(name, str) else str(name) for name in configs]
            monai.bundle.run(run_id, config_file=files, bundle_root=str(self.root), **options)

    def error_in_process(self, run_id, *configs, **options):
        """The message of a mistake, without the seconds that a new process takes."""
        with pytest.raises((InputError, RunStopped)) as caught:
            self.run_in_process(run_id, *configs, **options)
        return str(caught.value)


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory):
    """A cache with the demo slides, which the processes of pytest-xdist share: drawing them takes a minute."""
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "demo cache"
    with pytest.MonkeyPatch.context() as patch, folder_lock(cache):
        patch.setenv("MEDI_CACHE", str(cache))
        demo_dataset()
    return cache


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, demo_cache, forks):
    folder = tmp_path_factory.mktemp("bundle")
    source = ROOT / "bundles" / "pathology_medi_diffusion"
    shutil.copytree(source, folder / "b", ignore=shutil.ignore_patterns("models", "output"))
    return Bundle(folder / "b", demo_cache, forks)


@pytest.fixture(scope="session")
def prepared(bundle):
    """The bundle after ``preparing`` with nothing but its root and its config."""
    bundle.must_run("preparing", "prepare.json", own_process=True)
    (table,) = (bundle.root / "output" / "preparing").glob("*/cohort.csv")
    return table


@pytest.fixture(scope="session")
def cohorts(prepared, tmp_path_factory):
    """Side in pixels -> four patches of each combination of the prepared cohort, whole and at half the resolution."""
    cohort = Cohort.read(prepared)
    combinations = cohort.table.groupby(["project_id", "center", "split"], sort=False)
    table = combinations.head(4).query("split in ['train', 'val', 'holdout']")
    folders = {}
    for side, mpp in ((32, "1"), (16, "2")):
        folders[side] = tmp_path_factory.mktemp(f"cohort {side}")
        for name in table["image"]:
            (folders[side] / name).parent.mkdir(parents=True, exist_ok=True)
            patch = Image.open(cohort.root / name).convert("RGB")
            patch.resize((side, side), Image.Resampling.BOX).save(folders[side] / name)
        Cohort(table.assign(mpp=mpp), folders[side]).write()
    return folders


@pytest.fixture(scope="session")
def trained(bundle, prepared):
    """The bundle after a short training of both arms."""
    bundle.must_run("training", "train.json", SMOKE, own_process=True)
    bundle.must_run("run", "train.json", "class_only.json", SMOKE)
    return bundle.root / "models"
