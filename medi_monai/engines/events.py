"""TensorBoard events of a run; failing to write them does not end the run."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from ignite.engine import Engine
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

__all__ = ["EventWriter", "event_files"]

#: ending of our files' names, which distinguishes them from files of other programs in the folder
ENDING = ".medi_monai"
_numbers = count()


def event_files(folder: str | os.PathLike) -> list[Path]:
    """Return the event files that runs of this package left in a folder, oldest first."""
    return sorted(Path(folder).glob(f"events.out.tfevents.*{ENDING}"))


class EventWriter:
    """Writes events for TensorBoard to a file, which is created with the first event.

    If the disk is full, events are no longer written and a warning is printed once, but the run continues, because its
    checkpoints may be on another disk. Events are written immediately and in the calling thread: TensorBoard's own
    writer keeps them in a queue that can block forever once its thread has failed.

    Args:
        log_dir: folder of the file.
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        self.log_dir = Path(log_dir)
        self._file: IO[bytes] | None = None
        self._failed = False

    def add_scalar(self, tag: str, value: Any, step: int) -> None:
        """Add a point to the curve ``tag``."""
        self._add(lambda: summary.scalar(tag, float(value)), step)

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str = "HWC") -> None:
        """Add a uint8 image, with its axes in the order of ``dataformats``."""
        self._add(lambda: summary.image(tag, image, dataformats=dataformats), step)

    def follow(self, engine: Engine) -> None:
        """Do nothing; writers that also send to a tracking server begin and finish their record with the engine."""

    def flush(self) -> None:
        """Do nothing, because all events are already written; for compatibility with TensorBoard's writer."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._attempt(self._file.close)
            self._file = None

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, make: Callable[[], Any], step: int) -> None:
        if not self._failed:
            event = Event(wall_time=time.time(), step=step, summary=make())
            self._attempt(lambda: self._write(event))

    def _write(self, event: Any) -> None:
        if self._file is None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
            self._file = open(self.log_dir / f"{name}{ENDING}", "xb", buffering=0)  # noqa: SIM115
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        record = _Record()
        RecordWriter(record).write(event.SerializeToString())
        if self._file.write(record.content) != len(record.content):
            raise OSError("the disk is full")

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            self._failed = True
            reason = error.strerror or str(error)
            print(
                f"warning: TensorBoard's events cannot be written to {self.log_dir} ({reason}): the run goes on "
                "without them",
                flush=True,
            )


class _Record:
    """Buffer for one record, so that it is written by a single call."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, content: bytes) -> None:
        self.content += content
