"""TensorBoard's events of a run: nothing that ends a training."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

__all__ = ["EventWriter", "event_files"]

#: ends the names of our files, so that those of other programs in the folder are told apart
ENDING = ".medi_monai"
_numbers = count()


def event_files(folder: str | os.PathLike) -> list[Path]:
    """The event files that runs of this package left in a folder, oldest first."""
    return sorted(Path(folder).glob(f"events.out.tfevents.*{ENDING}"))


class EventWriter:
    """Writes events as TensorBoard reads them, into a file that appears with the first of them.

    A disk that is full ends the events, with one warning, and not the run, whose checkpoints may lie elsewhere. Events
    are written at once and in this thread: the writer of TensorBoard keeps them in a queue that can block for ever
    once its thread has failed.

    Args:
        log_dir: of the file.
    """

    def __init__(self, log_dir: str | os.PathLike) -> None:
        self.log_dir = Path(log_dir)
        self._file: IO[bytes] | None = None
        self._failed = False

    def add_scalar(self, tag: str, value: Any, step: int) -> None:
        """A point of a curve."""
        self._add(lambda: summary.scalar(tag, float(value)), step)

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str = "HWC") -> None:
        """An image: uint8, its axes in the order of ``dataformats``."""
        self._add(lambda: summary.image(tag, image, dataformats=dataformats), step)

    def flush(self) -> None:
        """For those who know TensorBoard's writer: all is written already."""

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
    """Collects one record, so that it is written by one call or not at all."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, content: bytes) -> None:
        self.content += content
