"""Handle the console and the signals of a run, so that a closed terminal or a full disk of a log does not end it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

__all__ = ["OUT_OF_TIME", "STOP_SIGNALS", "keep_console", "note_out_of_time", "say", "stop_like_ctrl_c"]

#: signal for the limit of CPU time, which is repeated every second once it is reached; None if the system has none
OUT_OF_TIME = getattr(signal, "SIGXCPU", None)
#: signals that ask a run to stop: Ctrl-C, the end of a session or job, a closed terminal, and the limit of CPU time
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
    if getattr(signal, name, None) is not None
)


def say(line: str) -> None:
    """Print a line; among several processes of torchrun, only the first one prints."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


class _Lasting:
    """A stream that discards text once writing fails, because ``| head -1`` closed it or the disk of a log is full."""

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
            # replace the file descriptor, because native code and loggers use it and Python flushes it at exit
            os.dup2(nowhere.fileno(), self._stream.fileno())
        except (OSError, ValueError):
            self._stream = nowhere


def keep_console() -> None:
    """Make errors of writing to stdout and stderr, such as a closed console, have no effect from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115
        if not isinstance(stream, _Lasting):
            setattr(sys, name, _Lasting(stream))


def stop_like_ctrl_c() -> None:
    """Make the end of a session or job, a closed terminal, and the limit of CPU time stop a run as Ctrl-C does.

    Signals that are ignored, for example because of ``nohup``, are still ignored.
    """
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, stop_out_of_time if number == OUT_OF_TIME else signal.default_int_handler)


def stop_out_of_time(number: int, frame: object) -> None:
    """Handle the signal for the limit of CPU time: stop as Ctrl-C does."""
    note_out_of_time()
    raise KeyboardInterrupt


def note_out_of_time() -> None:
    """Print that the limit of CPU time is reached, and ignore its further signals, so that results can be written."""
    signal.signal(OUT_OF_TIME, signal.SIG_IGN)  # type: ignore[arg-type]
    with suppress(OSError):
        # not `print`, which the signal may have interrupted
        os.write(2, b"\nwarning: the limit of CPU time (ulimit -t) is reached\n")
