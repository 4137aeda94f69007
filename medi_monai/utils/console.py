"""The console of a run from the command line: nothing that happens to it ends the run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

__all__ = ["OUT_OF_TIME", "STOP_SIGNALS", "keep_console", "note_out_of_time", "say", "stop_like_ctrl_c"]

#: its number, where the system has a limit of CPU time; from then on it comes every second
OUT_OF_TIME = getattr(signal, "SIGXCPU", None)
#: that ask a run to stop: Ctrl-C, the end of a session or of a job, a closed terminal, and the limit of CPU time
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
    if getattr(signal, name, None) is not None
)


def say(line: str) -> None:
    """Print a line; of several processes of torchrun, the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


class _Lasting:
    """A stream that goes nowhere once it cannot be written: ``| head -1`` closed it, or the disk of a log is full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._end()
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _end(self) -> None:
        nowhere = open(os.devnull, "w")  # noqa: SIM115
        try:
            # native code and loggers have it by its number, and Python flushes it at its end
            os.dup2(nowhere.fileno(), self._stream.fileno())
        except (OSError, ValueError):
            self._stream = nowhere


def keep_console() -> None:
    """From now on, a console that is closed or cannot be written is no error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115
        if not isinstance(stream, _Lasting):
            setattr(sys, name, _Lasting(stream))


def stop_like_ctrl_c() -> None:
    """Let the end of a session or a job, a closed terminal and the limit of CPU time stop a run as Ctrl-C does.

    A signal that is ignored, as ``nohup`` asks for, stays ignored.
    """
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, stop_out_of_time if number == OUT_OF_TIME else signal.default_int_handler)


def stop_out_of_time(number: int, frame: object) -> None:
    """Stop as Ctrl-C does at the limit of CPU time."""
    note_out_of_time()
    raise KeyboardInterrupt


def note_out_of_time() -> None:
    """Say that the limit of CPU time is reached; its repeated signal does not interrupt what is then written."""
    signal.signal(OUT_OF_TIME, signal.SIG_IGN)  # type: ignore[arg-type]
    with suppress(OSError):
        # print is not for handlers of signals: they may have interrupted it
        os.write(2, b"\nwarning: the limit of CPU time (ulimit -t) is reached\n")
