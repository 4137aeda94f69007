"""Every way to start a run is checked, also where no entry point calls the hook."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles" / "pathology_medi_diffusion"
TRAIN = BUNDLE / "configs" / "train.json"
COMMAND = ["run", "training", "--bundle_root", str(BUNDLE), "--config_file", str(TRAIN)]
#: as for a user who has this package in PYTHONPATH alone
WITHOUT_ENTRY_POINT = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
REFUSED = f"""
try:
    monai.bundle.run("training", config_file={str(TRAIN)!r}, bundle_root={str(BUNDLE)!r}, max_step=3)
except ValueError as error:
    print(type(error).__name__, error)
"""


def python(*arguments, folder, **environment):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "imports",
    [
        "import medi_monai, monai.bundle",
        "import monai.bundle, medi_monai",
        "import torch, monai, medi_monai\nimport monai.bundle",
    ],
)
def test_the_package_extends_monai_when_it_is_imported(tmp_path, imports):
    done = python("-W", "ignore", "-c", imports + REFUSED, folder=tmp_path, **WITHOUT_ENTRY_POINT)
    assert done.stdout.startswith("InputError unknown option '--max_step': did you mean '--max_steps'"), done.stderr


def test_a_run_that_was_not_checked_says_what_to_install_and_begins_nothing(tmp_path):
    done = python("-m", "monai.bundle", *COMMAND, "--output_dir", "out", folder=tmp_path, **WITHOUT_ENTRY_POINT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "medi_monai: error: the settings of this bundle were not read: medi_monai has"
    )
    assert not list(tmp_path.iterdir())


def test_torchrun_starts_runs_that_are_checked(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m", "monai.bundle"]
    done = python(*launch, *COMMAND, "--max_step", "3", folder=tmp_path, OMP_NUM_THREADS="1")
    lines = [line for line in done.stderr.splitlines() if "medi_monai: error" in line]
    assert done.returncode and len(lines) == 1 and "did you mean '--max_steps'" in lines[0]
    assert not list(tmp_path.iterdir())
