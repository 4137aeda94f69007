"""Images in memory, and plain image files, which are read whole."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers.base import SlideReader

__all__ = ["ArrayReader", "read_image"]


class ArrayReader(SlideReader):
    """A tile or any image in memory, with one level.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        mpp: microns per pixel.
        path: where it came from, for messages.
    """

    def __init__(self, pixels: np.ndarray, mpp: float, path: str | os.PathLike = "the image") -> None:
        self._array = pixels
        self.path = path
        self.spacing = (mpp, mpp)
        self.level_dimensions = ((pixels.shape[1], pixels.shape[0]),)

    def _pixels(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        return np.ascontiguousarray(self._array[top : top + height, left : left + width])


def read_image(path: str | os.PathLike) -> np.ndarray:
    """``(H, W, 3)`` uint8 pixels of a PNG or JPEG; an unreadable or truncated one is named in an InputError."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"image not found: {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error
