"""Run a bundle in a separate process, without importing all packages again."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from medi_monai.utils.errors import report_user_errors
from medi_monai.utils.workers import main_left_out, process_context

__all__ = ["interrupt", "start_bundle"]

#: modules that runs need; the process from which all runs are forked imports them once
PRELOADED = [
    "medi_monai.runs.experiment.parent",
    "monai.bundle",
    "medi_monai.runs.preparing",
    "medi_monai.runs.sampling",
    "medi_monai.runs.settings",
    "medi_monai.evaluation.alignment.run",
    "medi_monai.evaluation.metadata",
    "medi_monai.evaluation.probing.run",
    "medi_monai.evaluation.real_embedding",
    "medi_monai.alignment.prompts",
    "medi_monai.alignment.resampling",
    "medi_monai.alignment.subgroup_prompts",
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


def start_bundle(
    arguments: Sequence[str],
    threads: int | None = None,
    log: str | os.PathLike | None = None,
    idle: bool = False,
    processes: int = 1,
) -> BaseProcess:
    """Start ``python -W ignore -m monai.bundle`` and return its process, whose exit code is that of the run.

    A run does not share memory with this process. Importing MONAI takes several seconds; if the system can fork, runs
    start as copies of a process that has only done the imports, so an experiment with many runs imports it once.

    Args:
        arguments: arguments of the command line.
        threads: number of threads of the run, as with ``OMP_NUM_THREADS``; None for the default of this process.
        log: file to which the output of the run is appended; None to print to the output of this process.
        idle: whether the run gets a processor only while no other process needs it.
        processes: number of processes of ``torchrun`` among which the run is divided; 1 to run without it.
    """
    context = process_context(PRELOADED)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    given = list(arguments), threads, log and os.fspath(log), idle, processes
    process: BaseProcess = context.Process(target=_run, args=given)
    with main_left_out():
        process.start()
    return process


def interrupt(process: BaseProcess) -> None:
    """Interrupt a run as Ctrl-C does, so that a training saves its state; Ctrl-C itself reaches only this process."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, _stop_signal())


def _run(arguments: list[str], threads: int | None, log: str | None, idle: bool, processes: int = 1) -> None:
    # set the hook here as well, for errors before the bundle sets it
    report_user_errors()
    try:
        if idle:
            # before any thread is started, because each inherits it
            _give_way()
        Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
        if hasattr(os, "setpgrp"):
            # a second Ctrl-C ends a run at once, so each must reach it only once, from the process that waits for it
            os.setpgrp()
        # data loaders in the run start their workers with the default method, as in any other run
        multiprocessing.set_start_method(None, force=True)
        warnings.simplefilter("ignore")
        if log is not None:
            _print_into(log)
        if threads is not None:
            _compute_with(threads)
        module, launcher = "monai.bundle", []
        if processes > 1:
            module = "torch.distributed.run"
            launcher = ["--standalone", "--nproc_per_node", str(processes), "-m", "monai.bundle"]
            os.environ["PYTHONWARNINGS"] = "ignore"
        sys.argv = [module, *launcher, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        # call the hook that prints user errors in one line; multiprocessing would always print a traceback
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        sys.exit(130)


def _print_into(log: str) -> None:
    file = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    # redirect the descriptors too, for processes that the run starts and for code that holds the original streams
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    sys.stdout = sys.stderr = file


def _compute_with(threads: int) -> None:
    # for processes that the run starts, for PyTorch, and for BLAS and OpenMP libraries that are already loaded
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _give_way() -> None:
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(19)


def _end_with(parent: Any) -> None:
    # when the parent dies, end as by Ctrl-C, because nothing else would stop this run
    wait([parent.sentinel])
    os.kill(os.getpid(), _stop_signal())


def _stop_signal() -> signal.Signals:
    # processes that a shell started in the background may ignore SIGINT
    deaf = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    return signal.SIGTERM if deaf else signal.SIGINT
