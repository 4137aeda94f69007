"""Base class of readers, which selects the level and the window to read, and rescales to the requested size."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice, product
from types import TracebackType
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from medi_monai.utils.errors import InputError

__all__ = ["SlideReader", "Window", "batched", "rescaled"]

Item = TypeVar("Item")
Corner = tuple[float, float]

#: offset from a level's pixel grid, in pixels of the level, up to which a patch counts as aligned with it: a level with
#: a downsample such as 3.9996 does not share the grid of level 0, half a pixel of which is an eighth of its pixels
ON_GRID = 0.13
#: deviation of a field from a whole number of pixels of a level, in these pixels, up to which it is treated as whole
SAME_FIELD = 0.1
#: relative difference between horizontal and vertical downsample of a level up to which it counts as rounding
MAX_DISTORTION = 0.02
#: side in pixels of the blocks in which a thumbnail is read, for slides with several levels and with one; read from a
#: level that is 32 times finer, a block of 64 pixels needs 2,048 pixels per side
THUMBNAIL_BLOCK, FINE_BLOCK = 256, 64
#: number of windows per thread that are decoded in advance
AHEAD = 4


class Window(NamedTuple):
    """Pixels of a level needed for a patch: a window of whole pixels, and the real-valued box of the patch."""

    level: int
    left: int
    top: int
    right: int
    bottom: int
    box: tuple[float, float, float, float]


class SlideReader(ABC):
    """An open slide. Coordinates are pixels of level 0, with ``x`` to the right and ``y`` down.

    Readers are context managers. They cannot be pickled: open the slide in the process that reads it.
    """

    #: minimum number of level pixels per patch pixel and direction, if the two grids do not coincide. With 2, patches
    #: are within one gray level of those from level 0; with 1, they are read from coarser levels, up to 16 times
    #: faster, and differ by two gray levels in sharp tissue.
    oversampling: float = 2.0
    #: source of the slide, for messages
    path: str | os.PathLike
    #: microns per pixel at level 0, horizontally and vertically
    spacing: tuple[float, float]
    #: (width, height) of every level, finest first
    level_dimensions: Sequence[tuple[int, int]]

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) at level 0."""
        return self.level_dimensions[0]

    @property
    def mpp(self) -> float:
        """Microns per pixel at level 0, averaged over both directions."""
        return sum(self.spacing) / 2

    @cached_property
    def level_downsamples(self) -> list[tuple[float, float]]:
        """Real-valued (horizontal, vertical) downsample of every level, computed from the dimensions."""
        width, height = self.dimensions
        return [(width / across, height / down) for across, down in self.level_dimensions]

    @cached_property
    def _levels(self) -> list[int]:
        # a page with a different aspect ratio is a label or macro image, even if it is marked as a level
        width, height = self.dimensions
        return [
            level
            for level, (across, down) in enumerate(self.level_dimensions)
            if level == 0 or abs(across * height / width - down) <= max(2.0, MAX_DISTORTION * down)
        ]

    def field(self, size: tuple[int, int], mpp: float) -> tuple[float, float]:
        """Return the real-valued (width, height) in level 0 pixels of ``size`` pixels at ``mpp`` microns per pixel."""
        return size[0] * mpp / self.spacing[0], size[1] * mpp / self.spacing[1]

    def read(self, x: float, y: float, field: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
        """Read a region.

        Args:
            x: left edge in level 0 pixels.
            y: upper edge in level 0 pixels.
            field: real-valued (width, height) of the field of view in level 0 pixels.
            size: (width, height) of the result in pixels.

        Returns:
            ``(height, width, 3)`` uint8 pixels.

        Raises:
            InputError: if the region extends beyond the slide, or its pixels cannot be read.
        """
        return self._patch(self.window(x, y, field, size), size)

    def read_many(
        self,
        corners: Sequence[tuple[float, float]],
        field: tuple[float, float],
        size: tuple[int, int],
        threads: int = 1,
    ) -> Iterator[np.ndarray]:
        """Yield regions of the same field and size in order, as :meth:`read` returns them; several threads decode.

        Args:
            corners: upper left corner (x, y) of every region in level 0 pixels.
            field: real-valued (width, height) of the field of view in level 0 pixels.
            size: (width, height) of the results in pixels.
            threads: number of decoding threads, which does not affect the results.
        """
        windows = (self.window(x, y, field, size) for x, y in corners)
        if threads <= 1:
            yield from (self._patch(window, size) for window in windows)
            return
        with ThreadPoolExecutor(threads) as pool:
            # a bounded look-ahead keeps memory constant for any number of patches
            batches = batched(windows, threads * AHEAD)
            yield from chain.from_iterable(
                pool.map(lambda window: self._patch(window, size), batch) for batch in batches
            )

    def thumbnail(self, size: tuple[int, int]) -> np.ndarray:
        """Return the whole slide as ``(height, width, 3)`` uint8 of ``size`` (width, height), read block by block."""
        (width, height), (across, down) = self.dimensions, size
        result = np.empty((down, across, 3), np.uint8)
        side = THUMBNAIL_BLOCK if len(self._levels) > 1 else FINE_BLOCK
        for top, left in product(range(0, down, side), range(0, across, side)):
            tile = min(side, across - left), min(side, down - top)
            field = tile[0] * width / across, tile[1] * height / down
            block = self.read(left * width / across, top * height / down, field, tile)
            result[top : top + tile[1], left : left + tile[0]] = block
        return result

    @abstractmethod
    def _pixels(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Return ``(height, width, 3)`` uint8 pixels of a level."""

    def close(self) -> None:  # noqa: B027 (an array has nothing to release)
        """Release the file."""

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def window(self, x: float, y: float, field: tuple[float, float], size: tuple[int, int]) -> Window:
        """Return the window to read for a region, in the best level; for the arguments, see :meth:`read`.

        The best level is the coarsest one whose pixels coincide with those of the patch, or that is finer than the
        patch by a factor of at least :attr:`oversampling`, according to real-valued downsamples.
        """
        width, height = self.dimensions
        inside = x >= -1e-6 and y >= -1e-6 and x + field[0] <= width + 1e-3 and y + field[1] <= height + 1e-3
        if not inside or min(field) <= 0 or min(size) <= 0:
            raise InputError(
                f"a region of {field[0]:g} x {field[1]:g} pixels at x {x}, y {y} is empty or extends beyond "
                f"{self.path} ({width} x {height} pixels)"
            )
        if (field, x, y) == (size, int(x), int(y)):
            # pixels of level 0 without rescaling, by far the most frequent case
            right, bottom = x + size[0], y + size[1]
            return Window(0, int(x), int(y), int(right), int(bottom), (x, y, right, bottom))
        for level in reversed(self._levels):
            across, down = self.level_downsamples[level]
            box = (x / across, y / down, (x + field[0]) / across, (y + field[1]) / down)
            finer = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
            own_pixels = _lies_on_grid(box, size, largest=1)
            if own_pixels or finer >= self.oversampling * 0.999 or level == 0:
                break
        return self._around(level, _rounded(box) if own_pixels else box)

    def _around(self, level: int, box: tuple[float, float, float, float]) -> Window:
        limits = self.level_dimensions[level]
        # a box that reaches into a pixel only by rounding error does not need that pixel
        left, top = (min(int(np.floor(edge + 1e-6)), limit - 1) for edge, limit in zip(box[:2], limits))
        right, bottom = (min(int(np.ceil(edge - 1e-6)), limit) for edge, limit in zip(box[2:], limits))
        return Window(level, left, top, max(right, left + 1), max(bottom, top + 1), box)

    def _patch(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        level, left, top, right, bottom, _ = window
        return rescaled(self._pixels(level, left, top, right - left, bottom - top), window, size)


def _lies_on_grid(box: tuple[float, float, float, float], size: tuple[int, int], largest: float = math.inf) -> bool:
    # whether there is a whole number of box pixels per result pixel, at most ``largest``, with a field deviation below
    # 0.4%
    for low, high, pixels in zip(box[:2], box[2:], size):
        side = round(high) - round(low)
        if not pixels <= side <= pixels * largest or side % pixels or abs(low - round(low)) > ON_GRID:
            return False
        if abs(high - low - side) > min(0.004 * side, SAME_FIELD):
            return False
    return True


def _rounded(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return (float(round(box[0])), float(round(box[1])), float(round(box[2])), float(round(box[3])))


def batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """Yield consecutive tuples of up to ``size`` items (``itertools.batched`` of Python 3.12)."""
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch


def rescaled(pixels: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Resample the box of a window, given the window's pixels, to ``size``."""
    height, width = pixels.shape[:2]
    if size == (width, height) and window.box == window[1:5]:
        return pixels
    x0, y0, x1, y1 = window.box
    box = (
        max(x0 - window.left, 0.0),
        max(y0 - window.top, 0.0),
        min(x1 - window.left, float(width)),
        min(y1 - window.top, float(height)),
    )
    if window.level > 0 or not _lies_on_grid(box, size):
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC, box))
    # a reduction by a whole number on the pixel grid is the exact mean of the pixels, as in the levels of a pyramid
    left, top, right, bottom = map(round, box)
    pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    factors = (right - left) // size[0], (bottom - top) // size[1]
    # not PIL's box filter, which rounds once per direction
    return pixels if factors == (1, 1) else np.asarray(Image.fromarray(pixels).reduce(factors))
