"""Every way to start a run is checked, also where no entry point calls the hook; bundles of others are left alone."""

import json
import os
import re
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


#: a bundle that is not ours
FOREIGN = {"a": "x", "b": 1, "numbers": [1], "run": "$print('got', repr(@a), repr(@b), @numbers)", "broken": "$1 / 0"}
#: command lines with what this package reads in another way for its own bundles: comments, tuples, None, and typos
LEFT_TO_MONAI = [
    ["run", "run", "--a", "x #1"], ["run", "run", "--a", "#1"], ["run", "run", "--a", "a,b", "--b", "None"],
    ["run", "run", "--a=2024", "--b", "1e-3"], ["run", "run", "--aa", "3", "--bundle_root", "$NOWHERE/x"],
    ["run", "nowhere"], ["run", "broken"],
]  # fmt: skip
#: each command line as a process would run it, one after the other
EACH = """
import json, os, runpy, sys, traceback
import torch, monai.bundle
for words in json.loads(sys.argv[1]):
    print("==", words, "medi_monai" in sys.modules, file=sys.stderr)
    sys.argv = [os.path.join(os.path.dirname(monai.bundle.__file__), "__main__.py"), *words]
    sys.orig_argv = [sys.executable, "-m", "monai.bundle", *words]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except BaseException as error:
        print(type(error).__name__, error, sys.excepthook.__module__)
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


def test_bundles_of_others_run_as_without_this_package(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"version": "1"}')
    (tmp_path / "configs" / "train.json").write_text(json.dumps(FOREIGN))
    commands = [[*words, "--config_file", "configs/train.json"] for words in LEFT_TO_MONAI]
    script = ["-W", "ignore", "-c", EACH, json.dumps(commands)]
    plain = python(*script, folder=tmp_path, **WITHOUT_ENTRY_POINT)
    hooked = python(*script, folder=tmp_path, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    assert plain.returncode == hooked.returncode == 0, plain.stderr + hooked.stderr
    assert "'run', '--a', 'x #1', '--config_file', 'configs/train.json'] False" in plain.stderr
    assert hooked.stderr.count("'configs/train.json'] True") == len(LEFT_TO_MONAI)
    said = [re.sub(r"\d{4}-\d\d-\d\d[ T][\d:,.]+|0x[0-9a-f]+", "", done.stdout) for done in (plain, hooked)]
    assert said[0] == said[1]
    assert said[0].count("got ") == 5 and "got ('a', 'b') 1 [1]" in said[0] and "RuntimeError Failed to" in said[0]
    assert "medi_monai" not in said[0]
