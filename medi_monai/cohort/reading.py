"""Read the pixels of a cohort: from one file per patch, or from regions of slides."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medi_monai.cohort.folder import SETTINGS_FILE
from medi_monai.cohort.table import Cohort
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import read_json
from medi_monai.utils.pixels import stacked
from medi_monai.wsi.readers import BACKENDS, PixelRules, SlideReader, open_slide, read_image

__all__ = ["PatchReader", "image_blocks"]

#: images per block
BLOCK = 256


class PatchReader:
    """Reads patches by row number and keeps slides open; the least recently used one is closed first.

    If the table has a column ``source_mpp`` (see :func:`medi_monai.cohort.prepare`), its rows are regions of larger
    images, read at ``x, y``; otherwise, they are patch files. The reader may be pickled and forked: each process opens
    its own slides. Threads of a process share slides and take turns.

    Args:
        cohort: the patches.
        image_size: side of a patch in pixels.
        backend: slide reader; see :func:`medi_monai.wsi.open_slide`.
        threads: number of threads that decode the regions of a slide; by default one per core, or one in a worker
            process.
        max_open: maximum number of open slides.

    Raises:
        InputError: for a number below 1, an unknown back end, or regions that were planned for a different patch size.
    """

    def __init__(
        self, cohort: Cohort, image_size: int, backend: str = "auto", threads: int | None = None, max_open: int = 16
    ) -> None:
        if max_open < 1 or (threads is not None and threads < 1):
            raise InputError(f"max_open {max_open} and threads {threads} must be 1 or more")
        if backend not in BACKENDS:
            raise unknown_value("back end", backend, BACKENDS)
        table = cohort.table
        self._root, self._size, self._backend = cohort.root, (image_size, image_size), backend
        self._threads, self._max_open = threads, max_open
        # arrays instead of a table, because worker processes can share a million rows of them without copies
        self._codes, images = pd.factorize(table["image"])
        self._images = [str(image) for image in images]
        self.on_the_fly = "source_mpp" in table.columns
        planned = _planned(cohort.root)
        self._rules = PixelRules(**planned.get("pixels", {}))
        # if the resolution in the file took precedence during planning (for example, non-square pixels), it does here
        # as well
        self._on_conflict = "file" if planned.get("mpp_conflict") == "file" else "given"
        if self.on_the_fly:
            _check_size(cohort.root, planned, image_size)
            self._corners = table[["x", "y"]].to_numpy(np.int64)
            self._mpp = table["mpp"].to_numpy(np.float64)
            self._source_mpp = pd.to_numeric(table["source_mpp"], errors="coerce").to_numpy(np.float64)
        self._begin()

    def _begin(self) -> None:
        self._open: OrderedDict[int, SlideReader] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    def __len__(self) -> int:
        return len(self._codes)

    def read(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Return the patches of ``rows``, in this order: ``(image_size, image_size, 3)`` uint8 each.

        Raises:
            InputError: for an image that cannot be read, or a patch file of the wrong size.
        """
        if not self.on_the_fly:
            return [self._file(self._images[self._codes[row]]) for row in rows]
        if self._process != os.getpid():
            # after a fork, file positions are shared with the parent, and the lock may be held by a thread that does
            # not exist here
            self._begin()
        with self._lock:
            return self._on_the_fly(rows)

    def _on_the_fly(self, rows: Sequence[int]) -> list[np.ndarray]:
        order = sorted(range(len(rows)), key=lambda index: (self._codes[rows[index]], rows[index]))
        patches: list[np.ndarray] = [np.empty(0)] * len(rows)
        start = 0
        while start < len(order):
            image = self._codes[rows[order[start]]]
            stop = start
            while stop < len(order) and self._codes[rows[order[stop]]] == image:
                stop += 1
            indices = order[start:stop]
            for index, patch in zip(indices, self._regions(image, [rows[index] for index in indices])):
                patches[index] = patch
            start = stop
        return patches

    def _file(self, image: str) -> np.ndarray:
        patch = read_image(self._root / image, self._rules)
        if patch.shape[:2] != self._size[::-1]:
            raise InputError(f"{image} has {patch.shape[1]} x {patch.shape[0]} pixels, expected {self._size[0]}")
        return patch

    def _regions(self, image: int, rows: list[int]) -> list[np.ndarray]:
        slide = self._slide(image, rows[0])
        mpp = self._mpp[rows]
        corners = self._corners[rows].tolist()
        if len(rows) == 1 or (mpp != mpp[0]).any():
            fields = [self._field(slide, float(value)) for value in mpp]
            return [slide.read(x, y, field, self._size) for (x, y), field in zip(corners, fields)]
        field = self._field(slide, float(mpp[0]))
        threads = self._threads or (1 if parent_process() else os.cpu_count() or 1)
        return list(slide.read_many(corners, field, self._size, threads))

    def _field(self, slide: SlideReader, mpp: float) -> tuple[float, float]:
        # patch files may be up to half a pixel smaller than their field (see `scanning`)
        field = slide.field(self._size, mpp)
        return min(field[0], slide.dimensions[0]), min(field[1], slide.dimensions[1])

    def _slide(self, image: int, row: int) -> SlideReader:
        if image in self._open:
            self._open.move_to_end(image)
            return self._open[image]
        while len(self._open) >= self._max_open:
            self._open.popitem(last=False)[1].close()
        mpp = float(self._source_mpp[row])
        path = self._root / self._images[image]
        slide = open_slide(path, mpp, self._backend, self._on_conflict, self._rules)
        self._open[image] = slide
        return slide

    def close(self) -> None:
        """Close all slides."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock", "_process")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._begin()


def image_blocks(cohort: Cohort, image_size: int, size: int = BLOCK) -> Iterator[torch.Tensor]:
    """Yield all images of a cohort in the order of its rows, in blocks, to limit memory use.

    Args:
        cohort: the images.
        image_size: side in pixels.
        size: number of images per block; the last block may have fewer.

    Yields:
        ``(n, 3, image_size, image_size)`` uint8.

    Raises:
        InputError: see :class:`PatchReader`.
    """
    reader = PatchReader(cohort, image_size)
    try:
        for start in range(0, len(reader), size):
            yield stacked(reader.read(range(start, min(start + size, len(reader)))))
    finally:
        reader.close()


def _planned(root: Path) -> dict:
    """Return the settings with which the slides of a prepared cohort were cut; empty for other cohorts."""
    if not (root / SETTINGS_FILE).is_file():
        return {}
    settings = read_json(root / SETTINGS_FILE)
    cutting = settings.get("cutting") if isinstance(settings, dict) else None
    return cutting if isinstance(cutting, dict) else {}


def _check_size(root: Path, cutting: dict, image_size: int) -> None:
    # patch files have a fixed size, but regions could be read at any size and would then cover a different field
    # unnoticed
    planned = cutting.get("grid", {}).get("image_size", image_size)
    if planned != image_size:
        raise InputError(f"the patches in {root} were planned with image_size {planned}, not {image_size}")
