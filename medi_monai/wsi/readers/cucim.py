"""Read slides with cuCIM, which decodes batches of regions in a thread pool."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, islice
from types import ModuleType

import numpy as np

from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import quiet_stderr, require
from medi_monai.wsi.readers.base import Corner, SlideReader, Window, batched, rescaled
from medi_monai.wsi.readers.formats import DEFLATE, Tiles, cucim_obstacle
from medi_monai.wsi.readers.openslide import OpenSlideReader

__all__ = ["CuCIMReader", "cucim_version"]

#: numbers of regions per batch of cuCIM, and per call, which is limited
BATCH_SIZE, REGIONS_PER_CALL = 8, 4096
CUCIM_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError, OSError)


def _cucim() -> ModuleType:
    with quiet_stderr():
        return require("cucim", "to read slides with the back end 'cucim'")


def cucim_version() -> str:
    """Return the version of cuCIM.

    Raises:
        InputError: if it is not installed, or cannot be imported.
    """
    return _cucim().__version__


class CuCIMReader(SlideReader):
    """A TIFF or SVS slide, read by cuCIM on the CPU.

    Levels and resolution are those of OpenSlide, so that both back ends agree on them.

    Args:
        path: path of the slide.
        mpp: microns per pixel at level 0; see :class:`OpenSlideReader`.
        on_conflict: what to do if resolutions conflict; see :func:`medi_monai.wsi.open_slide`.

    Raises:
        InputError: if cuCIM is not installed or cannot read the file. Files that could crash cuCIM are refused without
            trying.
    """

    def __init__(self, path: str | os.PathLike, mpp: float | None = None, on_conflict: str = "error") -> None:
        cucim = _cucim()
        self._known = known = OpenSlideReader(path, mpp, on_conflict)
        self.path, self.spacing, self.level_dimensions = path, known.spacing, known.level_dimensions
        try:
            obstacle = cucim_obstacle(path, known.vendor, known.level_dimensions)
            if not obstacle:
                with quiet_stderr():
                    self._slide = cucim.CuImage(str(path))
                sizes = [tuple(size) for size in self._slide.resolutions["level_dimensions"]]
                if sizes[: len(known.level_dimensions)] != list(known.level_dimensions):
                    obstacle = "its levels differ from those of OpenSlide"
            if obstacle:
                raise InputError(f"cuCIM cannot read {path}: {obstacle}. Use the back end 'auto' or 'openslide'.")
            self._tiles = Tiles(path, known.level_dimensions)
        except InputError:
            known.close()
            raise
        except CUCIM_ERRORS as error:
            known.close()
            raise InputError(f"cannot read the slide {path} with cuCIM: {error}") from error
        self._scales = self._slide.resolutions["level_downsamples"]

    def read_many(
        self,
        corners: Sequence[Corner],
        field: tuple[float, float],
        size: tuple[int, int],
        threads: int = 1,
    ) -> Iterator[np.ndarray]:
        windows = (self.window(x, y, field, size) for x, y in corners)
        for (level, safe), group in groupby(windows, self._batches):
            for batch in batched(group, REGIONS_PER_CALL):
                if safe:
                    yield from self._batch(level, batch, size, max(1, threads))
                else:
                    yield from (self._patch(window, size) for window in batch)

    def _batches(self, window: Window) -> tuple[int, bool]:
        # an error in a thread of cuCIM kills the process, so regions that may fail are read individually
        level = window.level
        return level, self._tiles.compression[level] not in DEFLATE and self._tiles.whole(*window[:5])

    def _batch(
        self, level: int, windows: Sequence[Window], size: tuple[int, int], threads: int
    ) -> Iterator[np.ndarray]:
        # all regions of a call must have the same size: use the largest, move regions inward at the far borders, then
        # crop
        width = max(window.right - window.left for window in windows)
        height = max(window.bottom - window.top for window in windows)
        limits = self.level_dimensions[level]
        corners = [(min(window.left, limits[0] - width), min(window.top, limits[1] - height)) for window in windows]
        locations = [self._location(level, left, top) for left, top in corners]
        batch_size = min(BATCH_SIZE, len(windows))
        try:
            batches = self._slide.read_region(
                locations, (width, height), level, batch_size=batch_size, num_workers=threads
            )
            # a batch is a view of memory that cuCIM reuses
            blocks = (np.array(batch, copy=True).reshape(-1, height, width, 3) for batch in batches)
            pixels = chain.from_iterable(blocks)
            if size == (width, height) and all(window.box == window[1:5] for window in windows):
                yield from islice(pixels, len(windows))
                return
            for window, (left, top), region in zip(windows, corners, pixels):
                inner = region[window.top - top : window.bottom - top, window.left - left : window.right - left]
                yield rescaled(inner, window, size)
        except CUCIM_ERRORS as error:
            raise InputError(f"cannot read the slide {self.path} with cuCIM: {error}") from error

    def _pixels(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        if not self._tiles.whole(level, left, top, left + width, top + height):
            # some tiles look damaged: let OpenSlide read them, which reports an error if they are
            return self._known._pixels(level, left, top, width, height)
        try:
            region = self._slide.read_region(self._location(level, left, top), (width, height), level)
        except CUCIM_ERRORS as error:
            raise InputError(f"cannot read the slide {self.path} with cuCIM at x {left}, y {top}: {error}") from error
        return np.array(region, copy=True)

    def _location(self, level: int, left: int, top: int) -> tuple[int, int]:
        # cuCIM divides by the downsample and truncates; give the center of the pixel, so that rounding cannot select
        # its neighbor
        if level == 0:
            return left, top
        scale = self._scales[level]
        return round((left + 0.5) * scale), round((top + 0.5) * scale)

    def close(self) -> None:
        self._slide.close()
        self._tiles.close()
        self._known.close()
