import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Listener
from pathlib import Path

import pytest
import torch

from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.workers import (
    claim_folders,
    folder_lock,
    map_processes,
    process_context,
    release_locks,
    torch_threads,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")


def test_results_come_in_the_order_of_the_jobs():
    assert list(map_processes(math.sqrt, [9.0, 1.0, 4.0], 2, "taking roots", "root")) == [3.0, 1.0, 2.0]


def test_no_job_starts_no_process(monkeypatch):
    monkeypatch.setattr("medi_monai.utils.workers.ProcessPoolExecutor", None)
    assert list(map_processes(math.sqrt, [], 4, "taking roots", "root")) == []


def test_an_error_drops_the_jobs_not_yet_begun():
    start = time.perf_counter()
    with pytest.raises(ValueError):
        # a negative time to sleep is the error, and the others would take a minute
        list(map_processes(time.sleep, [-1.0, *[1.0] * 60], 1, "sleeping", "nap"))
    assert time.perf_counter() - start < 20


def test_closing_drops_the_jobs_not_yet_begun():
    start = time.perf_counter()
    results = map_processes(time.sleep, [0.01, *[1.0] * 60], 1, "sleeping", "nap")
    next(results)
    results.close()
    assert time.perf_counter() - start < 20


@posix
def test_a_process_that_crashes_ends_in_one_clear_line():
    with pytest.raises(RunStopped, match="a process died while crashing: .*The same command resumes"):
        list(map_processes(os._exit, [3], 1, "crashing", "crash"))


NAPS = """
import os, pathlib, sys, time
from medi_monai.utils.errors import report_user_errors
from medi_monai.utils.workers import map_processes

def nap(seconds):
    half_done = pathlib.Path(sys.argv[1], str(os.getpid()))
    half_done.touch()
    try:
        time.sleep(seconds)
    finally:
        half_done.unlink()

if __name__ == "__main__":
    report_user_errors()
    for _ in map_processes(nap, [1.0, 600.0, 600.0], 2, "sleeping", "nap"):
        print("begun", flush=True)
"""


def _descendants(process):
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [*children, *(below for child in children for below in _descendants(child))]


def _is_running(process):
    return Path(f"/proc/{process}").is_dir()


@posix
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list processes there")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_signal_leaves_a_worker_behind_and_ctrl_c_does_not_wait_for_long_jobs(tmp_path, sent):
    (tmp_path / "naps.py").write_text(NAPS)
    (tmp_path / "work").mkdir()
    command = [sys.executable, tmp_path / "naps.py", tmp_path / "work"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True)
    assert process.stdout.readline() == b"begun\n"
    children = _descendants(process.pid)
    assert len(children) >= 3  # the process from which the others are forked is one of them
    # as a terminal does, to all of the group; the others reach the parent alone
    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
    error = process.communicate(timeout=30)[1].decode()
    assert process.returncode != 0 and "Traceback" not in error
    if sent == signal.SIGINT:
        assert "medi_monai: interrupted" in error
        assert not list((tmp_path / "work").iterdir()), "who is interrupted tidies up"
    for _ in range(100):
        if not any(map(_is_running, children)):
            break
        time.sleep(0.1)
    assert not any(map(_is_running, children))


PLAIN = """
import math
from medi_monai.utils.workers import map_processes
print("started", *map_processes(math.sqrt, [9.0, 4.0], 2, "taking roots", "root"))
"""


def test_a_script_without_a_guard_does_not_start_itself_again(tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    done = subprocess.run([sys.executable, tmp_path / "plain.py"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "started 3.0 2.0\n" and done.returncode == 0, done.stderr


@posix
def test_a_long_folder_for_temporary_files_has_no_room_for_a_socket(tmp_path, monkeypatch):
    for length, method in ((60, "forkserver"), (120, "spawn")):
        folder = tmp_path / ("x" * max(1, length - len(str(tmp_path))))
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr("tempfile.tempdir", str(folder)[:length])
        assert process_context([]).get_start_method() == method
    with pytest.raises(OSError, match="too long"):
        Listener(str(folder / "pymp-12345678" / "listener-12345678"))


HOLD = """
import sys, time
from medi_monai.utils.workers import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@posix
def test_a_lock_is_waited_for_and_ends_with_its_process_however_that_ends(tmp_path, capfd):
    folder = tmp_path / "made" / "here"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    waiting = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    assert waiting.stdout.readline().decode() == f"another process is using {folder}: waiting for it to finish\n"
    holder.kill()
    assert waiting.stdout.readline() == b"held\n"
    waiting.kill()
    for process in (holder, waiting):
        process.wait(30)
        process.stdout.close()
    for _ in range(2):
        with folder_lock(folder):
            assert (folder / ".lock").is_file()
    assert capfd.readouterr().out == ""


CLAIM = """
import sys, time
from medi_monai.utils.workers import claim_folders
claim_folders(sys.argv[1:])
print("claimed", flush=True)
time.sleep(600)
"""


@posix
def test_a_claimed_folder_is_refused_until_its_process_has_ended_however_that_ends(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", CLAIM, theirs], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"claimed\n"
    with pytest.raises(InputError, match=f"another run is using {theirs}: wait until it finishes"):
        claim_folders([mine, theirs])
    # the one that could be had is not kept
    other = subprocess.run([sys.executable, "-c", CLAIM.replace("600", "0"), mine], capture_output=True)
    assert other.stdout == b"claimed\n"
    holder.kill()
    holder.wait(30)
    holder.stdout.close()
    claim_folders([mine, theirs])
    release_locks()


def test_what_a_process_claims_anew_it_had_and_what_it_lets_go_others_may_have(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    def others_may(folder):
        # a lock belongs to the file as it was opened, so that this process is refused as another one is
        with open(folder / ".run.lock", "a") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    claim_folders([first, first])
    claim_folders([first, second])
    assert not others_may(first)
    claim_folders([second])
    assert others_may(first) and not others_may(second)
    release_locks()
    assert others_may(second)


@pytest.mark.parametrize("case", ["no locks on this system", "no locks on this file system"])
def test_without_locks_the_work_goes_on(tmp_path, monkeypatch, case):
    if case == "no locks on this system":
        monkeypatch.setattr("medi_monai.utils.workers.fcntl", None)
    else:
        fcntl = pytest.importorskip("fcntl")

        def refuse(*arguments):
            raise OSError("no locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    claim_folders([tmp_path])
    with folder_lock(tmp_path):
        done = True
    assert done


def test_threads_of_torch_are_as_before_afterwards_also_behind_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ValueError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before


FOLLOWING = """
import time
from medi_monai.utils.workers import follow_launcher
follow_launcher()
print("follows", flush=True)
time.sleep(600)
"""
LAUNCHING = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_ends_with_the_launcher_that_is_killed():
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHING, FOLLOWING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert launcher.stdout.readline() == "follows\n"
    launcher.kill()
    start = time.monotonic()
    # the pipes close when the process that inherited them has ended
    _, errors = launcher.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert errors.startswith("medi_monai: error: torchrun has ended") and len(errors.splitlines()) == 1
