"""One way to read a region of a slide or a tile: at a field of view and a size in pixels, never "at 20x"."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import openslide
from PIL import Image, UnidentifiedImageError

from medi_monai.utils.errors import InputError

__all__ = ["SlideReader", "OpenSlideReader", "ArrayReader", "open_slide", "read_image"]

PLAIN_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class SlideReader(Protocol):
    """An open slide. Coordinates are pixels of level 0, ``x`` to the right and ``y`` down."""

    #: (width, height) at level 0
    dimensions: tuple[int, int]
    #: microns per pixel at level 0
    mpp: float

    def read(self, x: int, y: int, field: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
        """Read a region.

        Args:
            x, y: upper left corner, level 0 pixels.
            field: (width, height) of the field of view, in level 0 pixels, real-valued.
            size: (width, height) of the result in pixels.

        Returns:
            ``(height, width, 3)`` uint8.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> SlideReader: ...

    def __exit__(self, *args: object) -> None: ...


class _Reader:
    dimensions: tuple[int, int]
    mpp: float

    def close(self) -> None:
        return None

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class OpenSlideReader(_Reader):
    """A slide through OpenSlide: SVS, NDPI, MRXS, DICOM, generic pyramidal TIFF and the like.

    Args:
        path: the slide.
        mpp: microns per pixel at level 0, for a slide whose file does not say; the file's own value has precedence.

    Raises:
        InputError: if OpenSlide cannot read the file, or nothing gives its resolution.
    """

    def __init__(self, path: str | os.PathLike, mpp: float | None = None) -> None:
        try:
            self._slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            raise InputError(f"cannot read the slide {path}: {error}") from error
        self._path = path
        found = self._slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
        self.dimensions = self._slide.dimensions
        self.mpp = _resolution(path, found, mpp)

    def read(self, x: int, y: int, field: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
        # the level is the coarsest that is at least as fine as the target, by its real downsample
        level = self._slide.get_best_level_for_downsample(min(field[0] / size[0], field[1] / size[1]) * (1 + 1e-6))
        downsample = self._slide.level_downsamples[level]
        width, height = field[0] / downsample, field[1] / downsample
        try:
            region = self._slide.read_region((x, y), level, (int(np.ceil(width)), int(np.ceil(height))))
        except openslide.OpenSlideError as error:
            raise InputError(f"cannot read the slide {self._path} at x {x}, y {y}: {error}") from error
        white = Image.new("RGB", region.size, "white")
        white.paste(region, mask=region.getchannel("A"))
        return _resized(white, (0.0, 0.0, width, height), size)

    def close(self) -> None:
        self._slide.close()


class ArrayReader(_Reader):
    """A tile or any image in memory, with one level.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        mpp: microns per pixel.
    """

    def __init__(self, pixels: np.ndarray, mpp: float) -> None:
        self._image = Image.fromarray(pixels)
        self.dimensions = self._image.size
        self.mpp = mpp

    def read(self, x: int, y: int, field: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
        width, height = self.dimensions
        if x < 0 or y < 0 or x + field[0] > width + 1e-6 or y + field[1] > height + 1e-6:
            raise InputError(f"a field of {field} at x {x}, y {y} leaves the image of {width} x {height} pixels")
        return _resized(self._image, (x, y, x + field[0], y + field[1]), size)


def open_slide(path: str | os.PathLike, mpp: float | None = None) -> SlideReader:
    """Open a slide or a plain image by its file type.

    Args:
        path: PNG and JPEG are read whole; anything else goes to OpenSlide.
        mpp: microns per pixel at level 0; needed where the file does not say.

    Raises:
        InputError: for a missing, unreadable or truncated file, or one whose resolution nothing gives.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no image {path}")
    if Path(path).suffix.lower() in PLAIN_IMAGES:
        return ArrayReader(read_image(path), _resolution(path, None, mpp))
    return OpenSlideReader(path, mpp)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """``(H, W, 3)`` uint8 pixels of a PNG or JPEG; an unreadable or truncated one is named in an InputError."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"there is no image {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error


def _resized(image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    if image.size == size and box == (0, 0, *size):
        return np.asarray(image)
    return np.asarray(image.resize(size, Image.Resampling.BOX if _whole(box, size) else Image.Resampling.BICUBIC, box))


def _whole(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    # an integer reduction on the pixel grid is exactly the mean of its pixels
    steps = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    return all(abs(value - round(value)) < 1e-9 for value in (*steps, *box))


def _resolution(path: str | os.PathLike, found: str | None, given: float | None) -> float:
    value = found if found is not None else given
    try:
        mpp = float(value) if value is not None else math.nan
    except ValueError:
        mpp = math.nan
    if not 0 < mpp < 100:
        raise InputError(
            f"{path} does not say its resolution (microns per pixel: {value}). Give it: name the table's column of it "
            "as `mpp` among the columns, or set `source_mpp`."
        )
    return mpp
