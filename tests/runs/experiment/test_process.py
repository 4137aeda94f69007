"""Runs in processes of their own: exit codes, what a user reads, and that nothing is shared between them."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medi_monai.runs.experiment.process import PRELOADED

IMPORTS = [
    "$import os",
    "$import sys",
    "$from medi_monai.utils import errors",
    "$import multiprocessing",
    "$import torch",
]
IMPORTS.append("$from threadpoolctl import threadpool_info as pools")
SCRIPT = """
import sys
from medi_monai.runs.experiment.process import start_bundle
for name in sys.argv[2:]:
    arguments = ["run", name, "--bundle_root", sys.argv[1], "--config_file", sys.argv[1] + "/run.json"]
    given = {"apart": (1, sys.argv[1] + "/log"), "idle": (1, None, True)}
    process = start_bundle(arguments, *given.get(name, ()))
    process.join()
    print("code", name, process.exitcode, "left", getattr(sys, "left_behind", "nothing"), flush=True)
"""
RUNS = {
    "first": [
        "$print('seen', os.getppid(), getattr(sys, 'left_behind', 'nothing'))",
        "$setattr(sys, 'left_behind', 1)",
    ],
    "second": ["$print('seen', os.getppid(), getattr(sys, 'left_behind', 'nothing'))"],
    "apart": [
        "$print('threads', torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])",
        "$print('of libraries', {library['num_threads'] for library in pools()})",
        "$os.system('echo by another process')",
    ],
    "idle": ["$print('lowest', os.sched_getscheduler(0) == 5 if hasattr(os, 'SCHED_IDLE') else os.nice(0) == 19)"],
    "exit": ["$sys.exit(7)"],
    "killed": ["$os._exit(9)"],
    "method": ["$print('method', multiprocessing.get_start_method())"],
    "mistake": ["$errors.report_user_errors()", "$exec('raise errors.InputError(\"too few\")')"],
    "bug": ["$errors.report_user_errors()", "$1 / 0"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All runs, one after the other; what was printed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "run.json").write_text(json.dumps({"imports": IMPORTS, **RUNS}))
    command = [sys.executable, "-c", SCRIPT, str(folder), *RUNS]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300)
    made.log = (folder / "log").read_text()
    return made


def test_exit_codes_are_those_of_the_runs(made):
    lines = [line.split() for line in made.stdout.splitlines() if line.startswith("code ")]
    codes = {name: int(code) for _, name, code, *_ in lines}
    assert codes == {
        "first": 0,
        "second": 0,
        "apart": 0,
        "idle": 0,
        "exit": 7,
        "killed": 9,
        "method": 0,
        "mistake": 1,
        "bug": 1,
    }
    assert all(left == "nothing" for *_, left in lines)


def test_runs_share_nothing_and_come_from_one_process_that_has_imported_monai(made):
    (parent, left), (same, still) = (line.split()[1:] for line in made.stdout.splitlines() if line.startswith("seen "))
    assert parent == same and left == still == "nothing"


@pytest.mark.skipif(os.name != "posix", reason="priorities of POSIX")
def test_a_run_in_idle_time_has_the_lowest_priority(made):
    assert "lowest True\n" in made.stdout


def test_a_mistake_is_one_line_and_any_other_error_has_its_traceback(made):
    assert made.stderr.count("medi_monai: error: too few\n") == 1
    assert made.stderr.count("ZeroDivisionError") >= 1
    assert "InputError" not in made.stderr


def test_a_run_computes_with_the_threads_and_prints_into_the_log_that_it_is_given(made):
    assert "threads 1 1\n" in made.log and "of libraries {1}\n" in made.log and "by another process\n" in made.log
    assert "threads" not in made.stdout and "another" not in made.stdout


NO_STAGES = (
    "medi_monai.runs.auditing",
    "medi_monai.runs.shortcuts",
    "medi_monai.engines.adaptation",
    "medi_monai.engines.autoencoding",
    "medi_monai.engines.cascade",
)


def test_what_the_stages_of_an_experiment_import_is_preloaded():
    bundles = Path(__file__).parents[3] / "bundles"
    named = {
        name
        for file in bundles.glob("*/configs/*.json")
        for name in re.findall(r"import (medi_monai[\w.]+)", file.read_text())
        # the experiment itself is no stage, nor are the runs of these modules
        if not name.startswith(("medi_monai.runs.experiment", *NO_STAGES))
    }
    code = f"import sys\nfor name in {PRELOADED}: __import__(name)\nprint(*sorted({named} - {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    assert len(named) > 10


def test_workers_within_a_run_start_as_in_any_other(made):
    assert f"method {multiprocessing.get_start_method()}\n" in made.stdout


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler], ids=["background", "foreground"])
def test_a_run_ends_with_the_process_that_waits_for_it(tmp_path, handler):
    line = "$(open(os.environ['PLACE'], 'w').write(str(os.getpid())), __import__('time').sleep(120))"
    (tmp_path / "run.json").write_text(json.dumps({"imports": IMPORTS, "long": [line]}))
    place = tmp_path / "pid"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "long"]
    settings = {"env": {**os.environ, "PLACE": str(place)}, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, handler), **settings) as waiting:
        until(lambda: place.is_file() and place.read_text())
        waiting.kill()
    until(lambda: not alive(int(place.read_text())))


def until(condition, seconds=100):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
        # one that has ended and was not yet waited for
        return not Path("/proc").is_dir() or Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


LATE = """
import multiprocessing, os, signal, sys
import medi_monai.runs.experiment.process as process

if __name__ == "__main__":
    # as where the process that waits is killed while the run begins
    process.Thread = lambda **_: signal.raise_signal(signal.SIGINT)
    multiprocessing.parent_process = lambda: None
    process._run([], None, None, False)
"""


def test_a_run_whose_parent_is_killed_as_it_begins_ends_without_a_traceback(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    done = subprocess.run([sys.executable, tmp_path / "late.py"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 130 and done.stderr.startswith("medi_monai: interrupted."), done.stderr
