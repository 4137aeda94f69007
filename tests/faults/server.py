"""Runs command lines in forks of this process, which has imported MONAI: reads one job a line, answers one line a job.

Started by :class:`tests.faults.world.Runner` as ``python -m tests.faults.server``.
"""

import ctypes
import json
import mmap
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
import warnings
from contextlib import suppress

#: what runs import as they go
MORE = ("medi_monai.runs.workflow", "medi_monai.runs.auditing", "matplotlib.pyplot", "pyarrow.parquet", "transformers")


def drop_rights() -> None:
    """Let permissions count for the root user too, as they do for others."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset(header, none)


def watch_writes(job: dict) -> None:
    """Count the files that get their names, over all forks of the run; kill the run before or after the given one."""
    counted, run = mmap.mmap(-1, 8), os.getpid()
    when, last = job["at_write"] or ("", 0)

    def watched(rename):
        def watching(*arguments, **more):
            number = int.from_bytes(counted[:], "little") + 1
            counted[:] = number.to_bytes(8, "little")
            if when == "before" and number == last:
                kill_run(run)
            result = rename(*arguments, **more)
            if when == "after" and number == last:
                kill_run(run)
            return result

        return watching

    os.replace, os.rename = watched(os.replace), watched(os.rename)
    job["writes"] = counted


def kill_run(run: int) -> None:
    os.kill(run, signal.SIGKILL)
    if os.getpid() != run:
        # a worker of a run that is gone
        time.sleep(600)


def be_the_run(job: dict, output: int) -> None:
    """Turn this process into the run; does not return."""
    import monai.bundle

    from medi_monai.utils import workers

    os.setpgid(0, 0)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN if name == "SIGPIPE" else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not job.get("spawn"):
        # processes of a run begin as copies of it: to import everything anew takes each of them some seconds
        workers.get_context = lambda method: multiprocessing.get_context("fork")
    if "at_write" in job:
        watch_writes(job)
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    drop_rights()
    file = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 2), os.dup2(output if output >= 0 else file, 1)
    if job.get("file_size"):
        # what is printed goes to no disk
        os.dup2(output, 2)
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    sys.stdout, sys.stderr = (open(number, "w", encoding=encoding, closefd=False) for number in (1, 2))  # noqa: SIM115
    if job.get("stdout") == "closed":
        # as Python begins where it finds it so
        os.close(1)
        sys.stdout = None
    if job.get("file_size"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    for name, most in job.get("limits", {}).items():
        if name == "RLIMIT_AS":
            # beyond what the imports take
            with open("/proc/self/statm") as pages:
                most += int(pages.read().split()[0]) * resource.getpagesize()
        # a process is killed at its last second of computing, and warned before
        last = most + 5 if name == "RLIMIT_CPU" else most
        resource.setrlimit(getattr(resource, name), (most, last))
    sys.argv = [os.path.join(os.path.dirname(monai.bundle.__file__), "__main__.py"), *job["arguments"]]
    code = 0
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except AttributeError:
                pass
            except (OSError, ValueError):
                code = code or 120
        if "writes" in job:
            with open(f"{job['log']}.writes", "w") as file:
                file.write(str(int.from_bytes(job["writes"][:], "little")))
        os._exit(code)


def read_on(reading: int, job: dict) -> None:
    """What reads the output of a run in place of a file: a line of it, or all of it for the log; does not return."""
    block = os.read(reading, 1)
    if job.get("file_size"):
        with open(job["log"], "ab") as log:
            while block:
                log.write(block)
                block = os.read(reading, 1 << 16)
    os._exit(0)


def end_of(child: int, job: dict) -> dict:
    """Wait for a run, send it what the job says, and end it at its limit."""
    start, told = time.monotonic(), None
    while True:
        passed = time.monotonic() - start
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": passed,
                "left": group_stays(child, job.get("alone_after") or 5.0),
            }
        if job.get("kill") and told is None and passed >= job["kill"][1]:
            told = job["kill"][0]
            os.kill(child, getattr(signal, told))
        if passed > job["limit"]:
            kill_group(child)
            os.waitpid(child, 0)
            group_stays(child)
            return {"code": None, "seconds": passed, "left": False}
        time.sleep(0.003)


def group_stays(group: int, seconds: float = 30.0) -> bool:
    """Whether what a run started outlives it by so long; it is then ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        time.sleep(0.01)
    kill_group(group)
    return True


def others_stay(seconds: float) -> bool:
    """Whether processes that a run has started in groups of their own are there after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.01)
        except ChildProcessError:
            return False
    return True


def kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # what a run leaves behind becomes a child of this process
    ctypes.CDLL(None).prctl(36, 1)
    warnings.simplefilter("ignore")
    sys.orig_argv = [sys.executable, "-m", "monai.bundle"]
    import importlib

    from medi_monai.runs.experiment.process import PRELOADED

    for module in (*PRELOADED, *MORE):
        importlib.import_module(module)
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe() if job.get("stdout") == "head" or job.get("file_size") else (-1, -1)
        child = os.fork()
        if not child:
            be_the_run(job, writing)
        if reading >= 0:
            os.close(writing)
            reader = os.fork()
            if not reader:
                read_on(reading, job)
            os.close(reading)
        answer = end_of(child, job)
        if reading >= 0:
            os.waitpid(reader, 0)
        if job.get("alone_after"):
            answer["left"] = others_stay(job["alone_after"]) or answer["left"]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
