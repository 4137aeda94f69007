"""What every reader does alike: choose the level, place the window, rescale to the size asked."""

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

#: a patch that lies this near to the pixels of a level, in pixels of the level, is taken to lie on them: levels with
#: downsamples of 3.9996 have no common grid with level 0, and half a pixel of level 0 is an eighth of theirs
ON_GRID = 0.13
#: how far a field may be off, in pixels of a level, to be taken for a whole number of them
SAME_FIELD = 0.1
#: relative difference between the downsamples of a level in both directions that is more than rounding
MAX_DISTORTION = 0.02
#: side of the blocks of a thumbnail, and of a slide that has no coarser level to read it from: 2,048 pixels of one
#: that is 32 times finer
THUMBNAIL_BLOCK, FINE_BLOCK = 256, 64
#: windows decoded ahead of the caller, per thread
AHEAD = 4


class Window(NamedTuple):
    """The pixels of one level that a patch needs: a whole-numbered window, and the real-valued box within the level."""

    level: int
    left: int
    top: int
    right: int
    bottom: int
    box: tuple[float, float, float, float]


class SlideReader(ABC):
    """An open slide. Coordinates are pixels of level 0, ``x`` to the right and ``y`` down.

    A reader is a context manager. It cannot be pickled: open it in the process that reads.
    """

    #: pixels of a level, per direction, that a pixel of a patch is made of at least, where the two do not coincide.
    #: With 2, patches stay within a gray level of those made from level 0; with 1 they are read from coarser levels,
    #: up to 16 times faster, and differ by two gray levels on sharp tissue.
    oversampling: float = 2.0
    #: where it was read from, for messages
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
        """Microns per pixel at level 0, the mean of both directions."""
        return sum(self.spacing) / 2

    @cached_property
    def level_downsamples(self) -> list[tuple[float, float]]:
        """Real-valued (horizontal, vertical) downsample of every level, from the dimensions themselves."""
        width, height = self.dimensions
        return [(width / across, height / down) for across, down in self.level_dimensions]

    @cached_property
    def _levels(self) -> list[int]:
        # a page of another shape is no level, though its writer marked it as one: a label, a picture of the glass
        width, height = self.dimensions
        return [
            level
            for level, (across, down) in enumerate(self.level_dimensions)
            if level == 0 or abs(across * height / width - down) <= max(2.0, MAX_DISTORTION * down)
        ]

    def field(self, size: tuple[int, int], mpp: float) -> tuple[float, float]:
        """The (width, height) in level 0 pixels, real-valued, of ``size`` pixels at ``mpp`` microns per pixel."""
        return size[0] * mpp / self.spacing[0], size[1] * mpp / self.spacing[1]

    def read(self, x: float, y: float, field: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
        """Read a region.

        Args:
            x, y: upper left corner, level 0 pixels.
            field: (width, height) of the field of view, in level 0 pixels, real-valued.
            size: (width, height) of the result in pixels.

        Returns:
            ``(height, width, 3)`` uint8.

        Raises:
            InputError: where the region leaves the slide, or its pixels cannot be read.
        """
        return self._patch(self.window(x, y, field, size), size)

    def read_many(
        self,
        corners: Sequence[tuple[float, float]],
        field: tuple[float, float],
        size: tuple[int, int],
        threads: int = 1,
    ) -> Iterator[np.ndarray]:
        """Read regions of one field and size, in order; as :meth:`read`, with several threads where it helps.

        Args:
            corners: (x, y) of every region.
            field: as for :meth:`read`.
            size: as for :meth:`read`.
            threads: that decode; each patch comes out the same with any number.
        """
        windows = (self.window(x, y, field, size) for x, y in corners)
        if threads <= 1:
            yield from (self._patch(window, size) for window in windows)
            return
        with ThreadPoolExecutor(threads) as pool:
            # a bounded look-ahead keeps memory flat however many patches there are
            batches = batched(windows, threads * AHEAD)
            yield from chain.from_iterable(
                pool.map(lambda window: self._patch(window, size), batch) for batch in batches
            )

    def thumbnail(self, size: tuple[int, int]) -> np.ndarray:
        """The whole slide in ``size`` (width, height) pixels: ``(height, width, 3)`` uint8, read block by block."""
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
        """``(height, width, 3)`` uint8 of a level."""

    def close(self) -> None:  # noqa: B027 (an array has nothing to release)
        """Release the file."""

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def window(self, x: float, y: float, field: tuple[float, float], size: tuple[int, int]) -> Window:
        """The window of the level that serves a region best; arguments as for :meth:`read`.

        That is the coarsest level whose pixels are those of the patch, or that is finer than the patch by
        :attr:`oversampling`; both by real-valued downsamples.
        """
        width, height = self.dimensions
        inside = x >= -1e-6 and y >= -1e-6 and x + field[0] <= width + 1e-3 and y + field[1] <= height + 1e-3
        if not inside or min(field) <= 0 or min(size) <= 0:
            raise InputError(
                f"a region of {field[0]:g} x {field[1]:g} pixels at x {x}, y {y} is empty or extends beyond "
                f"{self.path} ({width} x {height} pixels)"
            )
        if (field, x, y) == (size, int(x), int(y)):
            # pixels of level 0 as they are, by far the most frequent case
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
        # a box that ends a rounding error behind a pixel does not need that pixel
        left, top = (min(int(np.floor(edge + 1e-6)), limit - 1) for edge, limit in zip(box[:2], limits))
        right, bottom = (min(int(np.ceil(edge - 1e-6)), limit) for edge, limit in zip(box[2:], limits))
        return Window(level, left, top, max(right, left + 1), max(bottom, top + 1), box)

    def _patch(self, window: Window, size: tuple[int, int]) -> np.ndarray:
        level, left, top, right, bottom, _ = window
        return rescaled(self._pixels(level, left, top, right - left, bottom - top), window, size)


def _lies_on_grid(box: tuple[float, float, float, float], size: tuple[int, int], largest: float = math.inf) -> bool:
    # whole pixels of the box for each of the result, at most ``largest``, and a field that is off by less than 0.4 %
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
    """Consecutive tuples of up to ``size`` items (``itertools.batched`` of Python 3.12)."""
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch


def rescaled(pixels: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """The box of a window, whose pixels these are, resampled to ``size``."""
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
    # a whole-numbered reduction on the pixel grid is exactly the mean of its pixels, as in the levels of a pyramid
    left, top, right, bottom = map(round, box)
    pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    factors = (right - left) // size[0], (bottom - top) // size[1]
    # unlike PIL's box filter, which rounds once per direction
    return pixels if factors == (1, 1) else np.asarray(Image.fromarray(pixels).reduce(factors))
