"""Make images of any size square."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["FITS", "PADS", "SquareFit", "area_resize"]

FITS = ("pad", "crop")
PADS = ("border", "black")
#: relative difference between the sides of a pixel up to which it counts as square (rounding)
SQUARE = 0.005


@dataclass(frozen=True)
class SquareFit:
    """How images are made square.

    Args:
        image_size: side in pixels.
        fit: ``pad`` pads the shorter side equally at both ends; ``crop`` crops the longer side to its center.
        pad: value of the padding: ``border`` is the median of the pixels at the image's border, ``black`` is 0.
        spacing: millimeters per pixel of the square. The square is then centered in the image and its sides are
            ``image_size`` times this long, regardless of ``fit``. If None, the square covers the image.

    Raises:
        InputError: for an unknown choice, or a number out of range.
    """

    image_size: int
    fit: str = "pad"
    pad: str = "border"
    spacing: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.image_size, bool) or not isinstance(self.image_size, int) or self.image_size < 1:
            raise InputError(f"image_size = {self.image_size!r}: it has to be a whole number of 1 or more")
        if self.fit not in FITS:
            raise unknown_value("choice of `fit`", self.fit, FITS)
        if self.pad not in PADS:
            raise unknown_value("choice of `pad`", self.pad, PADS)
        if self.spacing is not None and not 0 < self.spacing < float("inf"):
            raise InputError(f"spacing = {self.spacing!r}: it has to be a number of millimeters above 0, or null")

    def apply(self, pixels: np.ndarray, spacing: tuple[float, float] | None = None) -> np.ndarray:
        """Make an image square.

        Args:
            pixels: ``(H, W)`` or ``(H, W, 3)`` uint8.
            spacing: millimeters per pixel (vertical, horizontal), if known. Images with non-square pixels are resampled
                to square pixels.

        Returns:
            ``(image_size, image_size)`` or ``(image_size, image_size, 3)`` uint8.

        Raises:
            InputError: if the square has a spacing but that of the image is unknown.
        """
        if self.spacing is not None:
            if spacing is None:
                raise InputError("it does not contain the size of its pixels, which `spacing` needs")
            return self._at_spacing(pixels, spacing)
        if spacing is not None and abs(spacing[0] / spacing[1] - 1) > SQUARE:
            finer = min(spacing)
            size = [max(1, round(length * side / finer)) for length, side in zip(pixels.shape[:2], spacing)]
            pixels = _rounded(_weighted(pixels, *(_weights(*ends) for ends in zip(pixels.shape[:2], size))))
        square = _cropped(pixels) if self.fit == "crop" else _padded(pixels, self.pad)
        if square.shape[0] == self.image_size:
            return np.ascontiguousarray(square)
        return _rounded(area_resize(square, self.image_size))

    def _at_spacing(self, pixels: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        down, across = (
            _centered_weights(length, self.image_size, float(self.spacing or 1) / side)
            for length, side in zip(pixels.shape[:2], spacing)
        )
        covered = np.outer(down.sum(axis=1), across.sum(axis=1)).reshape(
            *[self.image_size] * 2, *[1] * (pixels.ndim - 2)
        )
        return _rounded(_weighted(pixels, down, across) + (1 - covered) * _padding(pixels, self.pad))


def _cropped(pixels: np.ndarray) -> np.ndarray:
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _padded(pixels: np.ndarray, pad: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = max(height, width)
    if height == width:
        return pixels
    square = np.empty((side, side, *pixels.shape[2:]), np.uint8)
    square[:] = _padding(pixels, pad)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _padding(pixels: np.ndarray, pad: str) -> np.ndarray:
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return np.rint(np.median(border, axis=0)) if pad == "border" else np.zeros(pixels.shape[2:])


def _rounded(pixels: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def area_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize ``(S, S)`` or ``(S, S, C)`` pixels to ``size`` x ``size``, float32.

    When shrinking, a new pixel is the mean over the area that it covers, with fractions of old pixels at its edges.
    When enlarging, pixel centers are interpolated linearly.
    """
    weights = _weights(pixels.shape[0], size)
    return _weighted(pixels, weights, weights)


def _weighted(pixels: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    rows = np.tensordot(down, pixels.astype(np.float32), axes=(1, 0))
    return np.ascontiguousarray(np.moveaxis(np.tensordot(across, rows, axes=(1, 1)), 0, 1))


def _centered_weights(old: int, new: int, scale: float) -> np.ndarray:
    """``(new, old)`` weights of centered new pixels, each ``scale`` old pixels wide; zero outside the old image."""
    edges, pixels = old / 2 + (np.arange(new + 1) - new / 2) * scale, np.arange(old)
    if scale >= 1:
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return (np.clip(overlap, 0, None) / scale).astype(np.float32)
    centers = (edges[:-1] + edges[1:]) / 2 - 0.5
    inside = (centers > -0.5) & (centers < old - 0.5)
    weights = np.clip(1 - np.abs(np.clip(centers, 0, old - 1)[:, None] - pixels), 0, None)
    return (weights * inside[:, None]).astype(np.float32)


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> np.ndarray:
    """``(new, old)`` float32 weights; each row sums to one."""
    if new <= old:
        edges, pixels = np.linspace(0, old, new + 1), np.arange(old)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return (np.clip(overlap, 0, None) * new / old).astype(np.float32)
    centers = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.clip(1 - np.abs(centers[:, None] - np.arange(old)), 0, None).astype(np.float32)
