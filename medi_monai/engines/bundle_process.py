"""A run of a bundle in a process of its own, without importing everything anew."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Sequence
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

__all__ = ["run_bundle"]

#: what each run needs; imported once, by the process that all runs are forked from
PRELOADED = ["monai.bundle", "medi_monai.engines", "medi_monai.handlers", "ignite.engine", "tensorboard.summary"]


def run_bundle(arguments: Sequence[str]) -> int:
    """``python -W ignore -m monai.bundle`` with these arguments; returns its exit code.

    A run neither sees the memory of this process nor leaves anything in it. Importing MONAI takes some seconds, which
    an experiment of many runs pays once: where the system can fork, runs begin as copies of a process that has done so
    and nothing else.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(PRELOADED)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    process = context.Process(target=_run, args=(list(arguments),))
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    return 1 if code is None else code


def _run(arguments: list[str]) -> None:
    Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    # what loads data in a run starts its workers as in any other run
    multiprocessing.set_start_method(None, force=True)
    warnings.simplefilter("ignore")
    sys.argv = ["monai.bundle", *arguments]
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except Exception:
        # multiprocessing would print a traceback also where a run has set a hook for users' mistakes
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        sys.exit(130)


def _end_with(parent: Any) -> None:
    # as by Ctrl-C, so that a training saves its state: nobody would wait for this run or stop it
    wait([parent.sentinel])
    # what a shell has started in the background may not hear it
    deaf = signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None)
    os.kill(os.getpid(), signal.SIGTERM if deaf else signal.SIGINT)
