"""Make the process from which the runs of an experiment are forked end immediately when it is no longer needed.

It imports this module first. Otherwise, Python would spend a second on clearing its modules after the experiment.
"""

import atexit
import os

_PID = os.getpid()


def _end() -> None:
    # only in the original process: the runs forked from it end normally, with their own exit codes
    if os.getpid() == _PID:
        os._exit(0)


atexit.register(_end)
