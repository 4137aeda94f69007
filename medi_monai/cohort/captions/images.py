"""Reading images of any size and bit depth, and making them square."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["FITS", "PADS", "SquareFit", "area_resize"]

FITS = ("pad", "crop")
PADS = ("border", "black")


@dataclass(frozen=True)
class SquareFit:
    """How images are made square.

    Args:
        image_size: side in pixels.
        fit: ``pad`` pads the shorter side equally at both ends; ``crop`` takes the center of the longer side.
        pad: value of the padding: the median of the image's ``border``, or ``black``.

    Raises:
        InputError: for an unknown choice, or a number out of range.
    """

    image_size: int
    fit: str = "pad"
    pad: str = "border"

    def __post_init__(self) -> None:
        if isinstance(self.image_size, bool) or not isinstance(self.image_size, int) or self.image_size < 1:
            raise InputError(f"image_size = {self.image_size!r}: it has to be a whole number of 1 or more")
        if self.fit not in FITS:
            raise unknown_value("choice of `fit`", self.fit, FITS)
        if self.pad not in PADS:
            raise unknown_value("choice of `pad`", self.pad, PADS)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Make an image square.

        Args:
            pixels: ``(H, W)`` or ``(H, W, 3)`` uint8.

        Returns:
            ``(image_size, image_size)`` or ``(image_size, image_size, 3)`` uint8.
        """
        square = _cropped(pixels) if self.fit == "crop" else _padded(pixels, self.pad)
        if square.shape[0] == self.image_size:
            return np.ascontiguousarray(square)
        return np.rint(np.clip(area_resize(square, self.image_size), 0, 255)).astype(np.uint8)


def _cropped(pixels: np.ndarray) -> np.ndarray:
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _padded(pixels: np.ndarray, pad: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = max(height, width)
    if height == width:
        return pixels
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    value = np.rint(np.median(border, axis=0)) if pad == "border" else 0
    square = np.empty((side, side, *pixels.shape[2:]), np.uint8)
    square[:] = value
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def area_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize ``(S, S)`` or ``(S, S, C)`` pixels to ``size`` x ``size``, float32.

    When shrinking, a new pixel is the mean over the area that it covers, with fractions of old pixels at its edges.
    When enlarging, pixel centers are interpolated linearly.
    """
    weights = _weights(pixels.shape[0], size)
    down = np.tensordot(weights, pixels.astype(np.float32), axes=(1, 0))
    return np.ascontiguousarray(np.moveaxis(np.tensordot(weights, down, axes=(1, 1)), 0, 1))


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> np.ndarray:
    """``(new, old)`` float32 weights; each row sums to one."""
    if new <= old:
        edges, pixels = np.linspace(0, old, new + 1), np.arange(old)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return (np.clip(overlap, 0, None) * new / old).astype(np.float32)
    centers = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.clip(1 - np.abs(centers[:, None] - np.arange(old)), 0, None).astype(np.float32)
