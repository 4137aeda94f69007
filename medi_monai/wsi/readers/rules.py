"""Rules for a whole cohort that convert the values of image files to 8-bit gray levels and colors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["BACKGROUNDS", "MAX_PIXELS", "PixelRules", "laid_on", "oriented"]

BACKGROUNDS = ("white", "black", "border")
#: default of the largest number of pixels in a file that is read whole: half a gigabyte in color
MAX_PIXELS = 178_956_970
#: a 16-bit image whose values reach this uses the highest bit, so that white is 65535
HIGHEST_BIT = 2**15
WHITE16 = 2**16 - 1


@dataclass(frozen=True)
class PixelRules:
    """How the values in image files are interpreted.

    Args:
        intensity_range: values that become black and white in images with more than 8 bits. If this and ``percentiles``
            are None, white is 65535 in 16-bit images whose values reach 32768, and other images with more than 8 bits
            are refused.
        percentiles: percentiles of the values of each image with more than 8 bits that become black and white, if there
            is no range; meant for MR, whose values have no unit.
        page: index, from 0, of the page, frame, slice or channel to read from a file with several; if None, such files
            are refused.
        max_pixels: maximum number of pixels in a file that is read whole.
        background: color behind transparent pixels: ``white``, ``black``, or the median of the opaque pixels at the
            ``border`` (black if there are none).

    Raises:
        InputError: for a value out of range.
    """

    intensity_range: Sequence[float] | None = None
    percentiles: Sequence[float] | None = None
    page: int | None = None
    max_pixels: int = MAX_PIXELS
    background: str = "white"

    def __post_init__(self) -> None:
        if self.intensity_range is not None:
            low, high = _pair("intensity_range", self.intensity_range, "two values, such as [0, 4095]")
            if not np.isfinite([low, high]).all() or low >= high:
                raise InputError(f"intensity_range = {[low, high]}: the values must be finite and increase")
        if self.percentiles is not None:
            low, high = _pair("intensity_percentiles", self.percentiles, "two percentiles, such as [0.5, 99.5]")
            if not 0 <= low < high <= 100:
                raise InputError(f"intensity_percentiles = {[low, high]}: they must increase and be in [0, 100]")
        if self.background not in BACKGROUNDS:
            raise unknown_value("background of transparent images", self.background, BACKGROUNDS)

    def check_size(self, path: str | os.PathLike, width: int, height: int, samples: int = 3) -> None:
        """Raise an :class:`InputError` if a file that is read whole has too many pixels."""
        if width * height > self.max_pixels:
            raise InputError(
                f"{path} has {width} x {height} pixels, more than max_pixels = {self.max_pixels:,}. Such files are "
                f"read whole: set max_pixels to {width * height} or more (each process needs about "
                f"{width * height * samples * 2 / 2**30:.1f} GB for it), or convert the file to a pyramidal TIFF"
            )

    def chosen_page(self, path: str | os.PathLike, about: str, count: int) -> int:
        """Return the page to read from a file.

        Args:
            path: path of the file, for messages.
            about: contents of the file, for messages, such as ``3 pages``.
            count: number of pages, frames, slices or channels.

        Raises:
            InputError: if there are several and :attr:`page` is None, or the page does not exist.
        """
        if self.page is None and count > 1:
            raise InputError(f"{path} has {about}, of which one is read: set `page` to its number, 0 to {count - 1}")
        if self.page is not None and self.page >= count > 1:
            raise InputError(f"page = {self.page}: {path} has {about}; use a number from 0 to {count - 1}")
        # `page` is ignored for a single page, because a cohort of stacks may also contain such files
        return self.page if self.page is not None and count > 1 else 0

    def gray_levels(self, values: np.ndarray, path: str | os.PathLike) -> np.ndarray:
        """Convert values of any type and shape to uint8; 8-bit values are unchanged.

        Raises:
            InputError: for values that are not finite, or if no rule defines which values are black and white.
        """
        if values.dtype == np.uint8:
            return values
        if values.dtype == bool:
            return values.astype(np.uint8) * 255
        if values.dtype.kind not in "uif":
            raise InputError(f"cannot read the image {path}: its values are of type {values.dtype}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"cannot read the image {path}: it contains values that are not finite")
        low, high = self.limits(values, path)
        shares = (values.astype(np.float64) - low) / max(high - low, np.finfo(float).tiny)
        return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)

    def limits(self, values: np.ndarray, path: str | os.PathLike) -> tuple[float, float]:
        """Return the values of an image that become black and white.

        Raises:
            InputError: if no rule defines them.
        """
        if self.intensity_range is not None:
            return float(self.intensity_range[0]), float(self.intensity_range[1])
        low, high = float(values.min()), float(values.max())
        if self.percentiles is not None:
            inner = np.percentile(values, self.percentiles)
            # if the percentiles are equal, most of the image has a single value: use the full range
            return (float(inner[0]), float(inner[1])) if inner[0] < inner[1] else (low, high)
        if values.dtype == np.uint16 and high >= HIGHEST_BIT:
            return 0.0, float(WHITE16)
        bits = f"{values.dtype.itemsize * 8}-bit {'floats' if values.dtype.kind == 'f' else 'values'}"
        raise InputError(
            f"{path} has {bits} from {low:g} to {high:g}, and nothing says which of them are black and white. Prepare "
            f"the cohort with these two values as intensity_range, for example {_example(values, low, high)}, or "
            "convert the images to 8 bits"
        )


def _pair(name: str, value: Any, remedy: str) -> tuple[float, float]:
    numbers = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(numbers) != 2 or not all(isinstance(edge, (int, float)) and edge is not True for edge in numbers):
        raise InputError(f"{name} = {value!r}: use {remedy}")
    return numbers


def _example(values: np.ndarray, low: float, high: float) -> str:
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return "[0, 1]"
    if values.dtype.kind != "f" and low >= 0:
        return f"[0, {2 ** max(8, int(high).bit_length()) - 1}]"
    return f"[{low:g}, {high:g}]"


def laid_on(pixels: np.ndarray, background: str) -> np.ndarray:
    """Blend an image with an opacity channel (the last one) onto a background.

    Args:
        pixels: ``(H, W, 2)`` or ``(H, W, 4)`` uint8 pixels.
        background: color behind transparent pixels, one of :data:`BACKGROUNDS`.

    Returns:
        ``(H, W)`` or ``(H, W, 3)`` uint8.
    """
    color, opacity = pixels[..., :-1], pixels[..., -1:]
    if (opacity < 255).any():
        behind = _behind(color, opacity[..., 0], background)
        share = opacity.astype(np.float32) / 255
        color = np.rint(color * share + behind * (1 - share)).astype(np.uint8)
    return color[..., 0] if color.shape[-1] == 1 else color


def _behind(color: np.ndarray, opacity: np.ndarray, background: str) -> Any:
    if background != "border":
        return np.float32(255 if background == "white" else 0)
    border = np.zeros(opacity.shape, bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    border &= opacity == 255
    return np.rint(np.median(color[border], axis=0)).astype(np.float32) if border.any() else np.float32(0)


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and mirror ``(H, W, …)`` pixels according to the *Orientation* tag of EXIF and TIFF (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    # first transpose, then mirror left to right, then top to bottom
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
