"""Run a bundle in its own process, without importing everything again."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from medi_monai.utils.errors import report_user_errors

__all__ = ["interrupt", "start_bundle"]

#: modules that each run needs, imported once by the process from which all runs are forked
PRELOADED = [
    "medi_monai.runs.experiment.parent",
    "monai.bundle",
    "medi_monai.runs.preparing",
    "medi_monai.runs.sampling",
    "medi_monai.runs.settings",
    "medi_monai.evaluation.alignment.run",
    "medi_monai.evaluation.metadata",
    "medi_monai.evaluation.probing.run",
    "medi_monai.alignment.prompts",
    "medi_monai.alignment.resampling",
    "medi_monai.alignment.roles",
    "medi_monai.alignment.tuning",
    "medi_monai.cohort.selection",
    "medi_monai.engines.classifiers.training",
    "medi_monai.engines.text_model",
    "medi_monai.engines.trainer",
    "medi_monai.networks.autoencoder",
    "medi_monai.networks.initialization",
    "ignite.engine",
    "tensorboard.summary",
]

#: bytes in the path of a socket of Unix, at most (104 with its end on macOS)
LONGEST_SOCKET = 103


def start_bundle(
    arguments: Sequence[str], threads: int | None = None, log: str | os.PathLike | None = None
) -> BaseProcess:
    """Start ``python -W ignore -m monai.bundle`` and return its process, whose exit code is that of the run.

    A run does not share memory with this process. Importing MONAI takes several seconds, which an experiment of many
    runs needs only once: if the system can fork, runs start as copies of a process that has done only the imports.

    Args:
        arguments: arguments of the command line.
        threads: number of threads of the run, as with ``OMP_NUM_THREADS``; by default as many as this process has.
        log: file to which its output is appended; with None, it prints to the output of this process.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods() and _has_room_for_socket()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(PRELOADED)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    process: BaseProcess = context.Process(target=_run, args=(list(arguments), threads, log and os.fspath(log)))
    process.start()
    return process


def _has_room_for_socket() -> bool:
    # of the process that forks, below the folder for temporary files
    return len(os.fsencode(tempfile.gettempdir())) + len("/pymp-12345678/listener-12345678") <= LONGEST_SOCKET


def interrupt(process: BaseProcess) -> None:
    """Interrupt a run like Ctrl-C, which reaches only the waiting process; a training then saves its state."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, _stop_signal())


def _run(arguments: list[str], threads: int | None, log: str | None) -> None:
    # also for what happens before the bundle sets it
    report_user_errors()
    try:
        Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
        if hasattr(os, "setpgrp"):
            # a second Ctrl-C ends a run at once: it has to hear of each once, from who waits for it
            os.setpgrp()
        # what loads data in a run starts its workers as in any other run
        multiprocessing.set_start_method(None, force=True)
        warnings.simplefilter("ignore")
        if log is not None:
            _print_into(log)
        if threads is not None:
            _compute_with(threads)
        sys.argv = ["monai.bundle", *arguments]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except Exception:
        # multiprocessing would print a traceback also where a run has set a hook for users' mistakes
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        sys.exit(130)


def _print_into(log: str) -> None:
    file = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    # the descriptors too, for processes that the run starts and for what holds the streams of before
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file


def _compute_with(threads: int) -> None:
    # of what the run starts, of torch, and of BLAS and OpenMP libraries that are loaded
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _end_with(parent: Any) -> None:
    # as by Ctrl-C: nobody would wait for this run or stop it
    wait([parent.sentinel])
    os.kill(os.getpid(), _stop_signal())


def _stop_signal() -> signal.Signals:
    # what a shell has started in the background may not hear Ctrl-C
    deaf = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    return signal.SIGTERM if deaf else signal.SIGINT
