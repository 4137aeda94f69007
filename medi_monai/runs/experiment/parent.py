"""Imported first by the process from which the runs of an experiment are forked: it ends as soon as it is not needed.

Otherwise, Python would clear all modules that it has imported, a second of computing after the experiment is done.
"""

import atexit
import os

_PID = os.getpid()


def _end() -> None:
    # runs, which are its copies, end as they would otherwise, with their own exit codes
    if os.getpid() == _PID:
        os._exit(0)


atexit.register(_end)
