"""Work spread over processes, with a progress bar, that stops at once when it is interrupted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from medi_monai.utils.progress import progress

__all__ = ["map_processes"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int | None, task: str, unit: str
) -> Generator[Result, None, None]:
    """``map(function, jobs)`` over processes, in order; on an error or Ctrl-C the jobs not yet begun are dropped.

    Args:
        function: importable by name; processes are spawned, never forked, for forking breaks threads of torch.
        jobs: arguments.
        num_workers: processes; by default one per core.
        task: what is being done, for the progress bar.
        unit: what is counted.
    """
    workers = max(1, min(num_workers or os.cpu_count() or 1, len(jobs)))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent)
    try:
        yield from progress(pool.map(function, jobs), len(jobs), task, unit)
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    # Ctrl-C reaches every process of the group; the parent alone acts on it, and takes its workers along when it ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
