"""Run parallel processes that stop immediately when interrupted, lock folders, and remove leftover temporary files."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from multiprocessing import active_children, get_all_start_methods, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import is_temporary
from medi_monai.utils.progress import progress

__all__ = [
    "LOCK_FILES",
    "claim_folders",
    "folder_lock",
    "follow_launcher",
    "main_left_out",
    "map_processes",
    "process_context",
    "release_locks",
    "remove_temporaries",
    "torch_threads",
]

Job = TypeVar("Job")
Result = TypeVar("Result")

#: lock files of a folder: for a single step that several runs may need, and for a whole run
LOCK_FILES = STEP_LOCK, RUN_LOCK = ".lock", ".run.lock"
#: maximum length of the path of a Unix socket in bytes (104 on macOS, including the terminating null byte)
LONGEST_SOCKET = 103
#: locks held by the run of this process
_claims = ExitStack()
#: whether this worker process must not start another job
_ended = threading.Event()
#: whether this process ends with its launcher
_following = threading.Event()


def map_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int | None, task: str, unit: str
) -> Generator[Result, None, None]:
    """Yield the results of ``map(function, jobs)`` in order, computed in several processes.

    On an error, on Ctrl-C, and when the generator is closed, all jobs end immediately; running jobs get a
    :class:`SystemExit`, so that ``function`` can clean up.

    Args:
        function: function that can be imported by name. Processes are not forked from this one, which would break
            torch's threads, but from one that has only imported the function's module; see :func:`process_context`.
        jobs: arguments of the function.
        num_workers: number of processes; by default one per core.
        task: description of the task, for the progress bar.
        unit: name of a job, singular, for the progress bar.

    Raises:
        RunStopped: if a process was killed or crashed in native code.
    """
    if not jobs:
        return
    workers = max(1, min(num_workers or os.cpu_count() or 1, len(jobs)))
    others = active_children()
    pool = ProcessPoolExecutor(workers, mp_context=process_context([_module_of(function)]), initializer=_follow_parent)
    try:
        with main_left_out() if _module_of(function) != "__main__" else nullcontext():
            results = pool.map(partial(_run, function), jobs)
        yield from progress(results, len(jobs), task, unit)
    except BrokenProcessPool as error:
        raise RunStopped(
            f"a process died while {task}: out of memory, or a file crashed its decoder. The same command resumes; "
            "--num_workers 1 needs less memory"
        ) from error
    except BaseException:
        for process in active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def process_context(preloaded: Sequence[str]) -> Any:
    """Return the context of ``multiprocessing`` for processes that share no memory with this one.

    If the system can fork, they start as copies of a process that has only done the imports, so that many processes
    import PyTorch and MONAI once. That process starts with the first of them, and ends with this one.

    Args:
        preloaded: modules to import there; no effect if the process has been started before.
    """
    forks = "forkserver" in get_all_start_methods() and _has_room_for_socket()
    context = get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(list(preloaded))
    return context


def _has_room_for_socket() -> bool:
    # the socket of the process that forks is below the folder for temporary files
    return len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678") <= LONGEST_SOCKET


def _module_of(function: Callable) -> str:
    return _module_of(function.func) if isinstance(function, partial) else function.__module__


@contextmanager
def main_left_out() -> Iterator[None]:
    """Start processes that do not import the main module of this one.

    ``multiprocessing`` would execute it again in each: the jobs do not need it, importing MONAI's command line takes
    seconds, and a script without ``if __name__ == "__main__"`` would start itself over and over.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        main.update(kept)


def _run(function: Callable[[Job], Result], job: Job) -> Result:
    try:
        if _ended.is_set():
            raise SystemExit
        return function(job)
    except SystemExit:
        # end the process: the pool would treat the exception as a result and start the next job
        os._exit(1)


def _end(*_: object) -> None:
    # set the flag for the case that no job is running, where the pool catches the exception
    _ended.set()
    raise SystemExit


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Limit torch to ``count`` threads; for small matrices, synchronizing threads takes longer than the computation."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def folder_lock(folder: str | os.PathLike) -> Iterator[bool]:
    """Hold the lock of a folder, the file ``.lock`` in it, after waiting for any other process that holds it.

    The lock is released when the process ends for any reason. On a file system without locks, this has no effect.
    Yields whether the folder is locked.
    """
    with ExitStack() as held:
        locked = False
        with suppress(OSError):
            Path(folder).mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(Path(folder) / STEP_LOCK, "a"))
            try:
                _lock(file)
            except BlockingIOError:
                print(f"another process is using {folder}: waiting for it to finish", flush=True)
                _lock(file, wait=True)
            locked = fcntl is not None
        yield locked


def claim_folders(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Lock folders against runs of other processes until :func:`release_locks`, or the end of this process.

    Earlier locks of this process are released. On a file system without locks, this has no effect.

    Args:
        folders: existing folders.

    Returns:
        The folders that are locked, resolved.

    Raises:
        InputError: if a run of another process uses one of them.
    """
    release_locks()
    locked = []
    for folder in {Path(folder).resolve() for folder in folders}:
        with suppress(OSError):
            file = _claims.enter_context(open(folder / RUN_LOCK, "a"))  # noqa: SIM115
            try:
                _lock(file)
            except BlockingIOError:
                release_locks()
                raise InputError(
                    f"another run is using {folder}: wait until it finishes, or choose another folder"
                ) from None
            if fcntl is not None:
                locked.append(folder)
    return locked


def remove_temporaries(folder: str | os.PathLike, depth: int = 0, min_age: float = 0.0) -> list[Path]:
    """Remove temporary files and folders that a killed run left behind.

    No other process may be writing there, unless ``min_age`` excludes its files. Symbolic links are neither followed
    nor removed, and folders that cannot be read are skipped.

    Args:
        folder: folder to search; it need not exist.
        depth: number of folder levels below it to search.
        min_age: minimum number of seconds since the last change.

    Returns:
        The paths that were removed.
    """
    removed = []
    with suppress(OSError), os.scandir(os.fspath(folder)) as entries:
        for entry in entries:
            is_dir = entry.is_dir(follow_symlinks=False)
            if is_temporary(entry.name) and (is_dir or entry.is_file(follow_symlinks=False)):
                with suppress(OSError):
                    if min_age and time.time() - entry.stat(follow_symlinks=False).st_mtime < min_age:
                        continue
                    shutil.rmtree(entry.path) if is_dir else os.unlink(entry.path)
                    removed.append(Path(entry.path))
            elif is_dir and depth:
                removed += remove_temporaries(entry.path, depth - 1, min_age)
    return removed


def release_locks() -> None:
    """Release the folders that this process has locked with :func:`claim_folders`."""
    _claims.close()


def _lock(file: IO, wait: bool = False) -> None:
    if fcntl is not None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def follow_launcher() -> None:
    """From now on, end this process when its launcher has ended.

    torchrun ends its workers itself, unless it is killed.
    """
    launcher = os.getppid()

    def follow() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        with suppress(OSError, ValueError):
            print(
                "medi_monai: error: torchrun has ended, and with it this process. Finished files are complete; repeat "
                "the command to resume",
                file=sys.stderr,
                flush=True,
            )
        os._exit(1)

    if not _following.is_set():
        _following.set()
        threading.Thread(target=follow, daemon=True).start()


def _follow_parent() -> None:
    # Ctrl-C and the end of a terminal reach every process of the group; only the parent acts on them, and its workers
    # end with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
