"""Read slides with OpenSlide."""

from __future__ import annotations

import os
from contextlib import suppress
from ctypes import ArgumentError
from typing import Any

import numpy as np
import openslide
from PIL import Image
from scipy import ndimage

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers.base import SlideReader
from medi_monai.wsi.readers.resolution import is_resolution, resolution
from medi_monai.wsi.readers.tiff import tiff_resolution

__all__ = ["OpenSlideReader", "openslide_version"]

#: shift, in pixels of a level, below which no pixel changes by more than half a gray level
NO_SHIFT = 0.002
#: number of neighboring pixels that are used to correct a shift
REACH = 6


def openslide_version() -> str:
    """Return the version of the OpenSlide library, not that of its Python package."""
    return openslide.__library_version__


class OpenSlideReader(SlideReader):
    """A slide read by OpenSlide: SVS, NDPI, MRXS, DICOM, generic pyramidal TIFF and other formats.

    Args:
        path: path of the slide.
        mpp: microns per pixel at level 0, if the file does not contain it.
        on_conflict: what to do if resolutions conflict; see :func:`medi_monai.wsi.open_slide`.

    Raises:
        InputError: if OpenSlide cannot read the file, or the resolution is unknown or conflicting.
    """

    def __init__(self, path: str | os.PathLike, mpp: float | None = None, on_conflict: str = "error") -> None:
        self.path = path
        try:
            self._slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            raise InputError(f"cannot read the slide {path}: {error}") from error
        properties = self._slide.properties
        self.vendor: str = properties.get(openslide.PROPERTY_NAME_VENDOR, "")
        self.level_dimensions = self._slide.level_dimensions
        self._scales = self._slide.level_downsamples
        keys = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
        stored: tuple[Any, Any] = properties.get(keys[0]), properties.get(keys[1])
        if self.vendor == "generic-tiff" and not is_resolution(stored):
            # OpenSlide reads the tags, but not OME-XML
            stored = tiff_resolution(path)
        try:
            self.spacing = resolution(path, stored, mpp, on_conflict)
        except InputError:
            self.close()
            raise

    @staticmethod
    def detects(path: str | os.PathLike) -> bool:
        """Return whether OpenSlide recognizes the file as a slide."""
        return openslide.OpenSlide.detect_format(str(path)) is not None

    def _pixels(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        (x, shift_x), (y, shift_y) = self._to_level_0(level, left), self._to_level_0(level, top)
        if max(abs(shift_x), abs(shift_y)) < NO_SHIFT:
            return self._region(level, x, y, width, height)
        limits = self.level_dimensions[level]
        outer_left, outer_top = max(left - REACH, 0), max(top - REACH, 0)
        right, bottom = min(left + width + REACH, limits[0]), min(top + height + REACH, limits[1])
        (x, shift_x), (y, shift_y) = self._to_level_0(level, outer_left), self._to_level_0(level, outer_top)
        pixels = self._region(level, x, y, right - outer_left, bottom - outer_top)
        left, top = left - outer_left, top - outer_top
        return _unshifted(pixels, shift_x, shift_y)[top : top + height, left : left + width]

    def _to_level_0(self, level: int, pixel: int) -> tuple[int, float]:
        # OpenSlide takes positions in whole pixels of level 0: return the one nearest to a pixel of the level, and its
        # offset from that in pixels of the level
        scale = self._scales[level]
        level_0 = round(pixel * scale)
        return level_0, level_0 / scale - pixel

    def _region(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        try:
            region = self._slide.read_region((x, y), level, (width, height))
        except (openslide.OpenSlideError, ArgumentError) as error:
            # an ArgumentError means that the slide was closed
            raise InputError(f"cannot read the slide {self.path} at x {x}, y {y}: {error}") from error
        return _on_white(region)

    def close(self) -> None:
        with suppress(ArgumentError):
            self._slide.close()


def _on_white(region: Image.Image) -> np.ndarray:
    # unscanned areas are transparent; nearly all regions are opaque and need no blending
    alpha = region.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return np.asarray(region.convert("RGB"))
    white = Image.new("RGB", region.size, "white")
    # partially transparent pixels are at the edge of the scanned area and have its color
    white.paste(region, mask=alpha.point([0] * 128 + [255] * 128))
    return np.asarray(white)


def _unshifted(pixels: np.ndarray, shift_x: float, shift_y: float) -> np.ndarray:
    # OpenSlide interpolates linearly between pixels of a level, r[i] = (1 - a) p[i] + a p[i + 1], which blurs; the
    # inverse is a geometric series that restores the pixels of the level within 2 gray levels
    values = pixels.astype(np.float32)
    for axis, shift in ((1, shift_x), (0, shift_y)):
        if abs(shift) >= NO_SHIFT:
            weight = 1 - abs(shift)
            kernel = np.zeros(2 * REACH + 1)
            kernel[REACH:] = (1 / weight) * (-abs(shift) / weight) ** np.arange(REACH + 1)
            values = ndimage.correlate1d(values, kernel if shift > 0 else kernel[::-1], axis, mode="nearest")
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
