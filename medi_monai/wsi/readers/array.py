"""Reader of images in memory."""

from __future__ import annotations

import os

import numpy as np

from medi_monai.wsi.readers.base import SlideReader

__all__ = ["ArrayReader"]


class ArrayReader(SlideReader):
    """A tile or any other image in memory, with a single level.

    Args:
        pixels: ``(H, W, 3)`` uint8 pixels.
        mpp: microns per pixel, or (horizontal, vertical) microns per pixel.
        path: source of the image, for messages.
    """

    def __init__(
        self, pixels: np.ndarray, mpp: float | tuple[float, float], path: str | os.PathLike = "the image"
    ) -> None:
        self._array = pixels
        self.path = path
        self.spacing = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        self.level_dimensions = ((pixels.shape[1], pixels.shape[0]),)

    def _pixels(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        return np.ascontiguousarray(self._array[top : top + height, left : left + width])
