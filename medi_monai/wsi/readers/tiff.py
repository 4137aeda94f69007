"""Read TIFFs that are not slides, with their pages, bit depth and resolution."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import tifffile

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers.formats import tiff_pages
from medi_monai.wsi.readers.rules import MAX_PIXELS, PixelRules, laid_on, oriented

__all__ = ["read_tiff", "several_pages", "tiff_resolution"]

#: microns per unit in OME-XML and ImageJ, which has several spellings
UNITS = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "μm": 1.0,
    "\\u00b5m": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nm": 1e-3,
    "å": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
#: microns per unit, by the value of the tag ResolutionUnit
TAG_UNITS = {2: 25400.0, 3: 10000.0}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6
JPEG = 7


def read_tiff(
    file: BinaryIO, path: str | os.PathLike, rules: PixelRules, decode: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Read a page of a TIFF as ``(H, W)`` or ``(H, W, 3)`` uint8.

    Args:
        file: open file.
        path: path of the file, for messages.
        rules: rules for pages and values.
        decode: function that reads the page with a given number, for pages that Pillow supports.

    Raises:
        InputError: for several pages if ``rules`` do not select one, too many pixels, or an unsupported kind of pixels.
    """
    with tifffile.TiffFile(file) as tiff:
        number = _chosen(tiff, path, rules)
        page: Any = tiff.pages[number]
        page = page.aspage() if isinstance(page, tifffile.TiffFrame) else page
        rules.check_size(path, page.imagewidth, page.imagelength, page.samplesperpixel * page.bitspersample // 8 or 1)
        # Pillow supports neither colors with more than 8 bits nor pages beyond its own limit
        if (page.bitspersample > 8 or page.imagewidth * page.imagelength > MAX_PIXELS) and page.imagedepth == 1:
            return _deep(page, path, rules)
    return decode(number)


def _deep(page: Any, path: str | os.PathLike, rules: PixelRules) -> np.ndarray:
    kind, samples = int(page.photometric), int(page.samplesperpixel)
    if kind == YCBCR and int(page.compression) == JPEG:
        # tifffile decodes it as RGB
        kind = RGB
    opacity = bool(page.extrasamples) and int(page.extrasamples[0]) in (1, 2)
    colors = samples - opacity
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or colors != (3 if kind == RGB else 1):
        raise InputError(
            f"cannot read the image {path}: it has {samples} channels of {page.bitspersample} bits "
            f"({getattr(page.photometric, 'name', kind)}); convert it to grayscale or RGB"
        )
    values = page.asarray()
    if values.ndim == 3 and page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    pixels = rules.gray_levels(values[..., :colors] if opacity else values, path)
    if kind == WHITE_IS_ZERO:
        pixels = 255 - pixels
    if opacity:
        opaque = np.iinfo(values.dtype).max if values.dtype.kind != "f" else 1
        share = np.rint(values[..., -1:].astype(np.float64) / opaque * 255).clip(0, 255).astype(np.uint8)
        pixels = laid_on(np.concatenate([pixels.reshape(*values.shape[:2], colors), share], axis=-1), rules.background)
    tag = page.tags.get(ORIENTATION)
    return oriented(pixels, int(tag.value) if tag is not None else 1)


def several_pages(path: str | os.PathLike) -> int:
    """Return the number of pages of a TIFF that are separate images, not levels or thumbnails; 1 for other files."""
    with suppress(Exception), tifffile.TiffFile(path) as tiff:
        return len(_alternatives(tiff))
    return 1


def _alternatives(tiff: tifffile.TiffFile) -> list[int]:
    # levels and thumbnails are marked as such, or are smaller in both directions
    pages: list[Any] = tiff_pages(tiff)
    images = [number for number, page in enumerate(pages) if not (page.is_reduced or page.is_mask)] or [0]
    largest = max((pages[number] for number in images), key=lambda page: page.imagewidth * page.imagelength)
    return [
        number
        for number in images
        if pages[number].imagewidth >= largest.imagewidth or pages[number].imagelength >= largest.imagelength
    ]


def _chosen(tiff: tifffile.TiffFile, path: str | os.PathLike, rules: PixelRules) -> int:
    numbers = _alternatives(tiff)
    images = int((tiff.imagej_metadata or {}).get("images", 1))
    if images > len(numbers):
        raise InputError(
            f"cannot read the image {path}: it is a stack of {images} images in a single page of ImageJ. Save the one "
            "to use as a separate TIFF"
        )
    about = f"{len(numbers)} pages"
    if len(numbers) > 1:
        with suppress(Exception):
            # tifffile knows from OME-XML and ImageJ how the pages are related
            names = {"Z": "z", "C": "channels", "T": "times"}
            series = tiff.series[0]
            sizes = [f"{size} {names[axis]}" for axis, size in zip(series.axes, series.shape) if axis in names]
            about += f" ({' x '.join(sizes)})" if sizes else ""
    return numbers[rules.chosen_page(path, about, len(numbers))]


def tiff_resolution(path: str | os.PathLike) -> tuple[float | None, float | None]:
    """Return (horizontal, vertical) microns per pixel from OME-XML, ImageJ or the tags of a TIFF; None if unknown.

    Args:
        path: path of any file.
    """
    with suppress(Exception), tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        spacing = _ome(tiff.ome_metadata) or _tags(page, (tiff.imagej_metadata or {}).get("unit"))
        if spacing:
            tag = page.tags.get(ORIENTATION)
            turned = tag is not None and int(tag.value) >= 5
            return spacing[::-1] if turned else spacing
    return None, None


def _ome(xml: str | None) -> tuple[float, float] | None:
    if not xml:
        return None
    for item in ElementTree.fromstring(xml).iter():
        if item.tag.rpartition("}")[2] != "Pixels":
            continue
        sizes = [
            float(item.get(f"PhysicalSize{axis}", "nan")) * UNITS[item.get(f"PhysicalSize{axis}Unit", "µm").lower()]
            for axis in "XY"
        ]
        return (sizes[0], sizes[1]) if all(map(math.isfinite, sizes)) else None
    return None


def _tags(page: Any, imagej_unit: object) -> tuple[float, float] | None:
    tag = page.tags.get(RESOLUTION_UNIT)
    unit = TAG_UNITS.get(int(tag.value)) if tag is not None else TAG_UNITS[2]
    unit = UNITS.get(str(imagej_unit).lower(), unit) if imagej_unit else unit
    values = [page.tags.get(code) for code in (X_RESOLUTION, Y_RESOLUTION)]
    if unit is None or any(value is None for value in values):
        return None
    pixels = [value.value[0] / value.value[1] for value in values]
    return unit / pixels[0], unit / pixels[1]
