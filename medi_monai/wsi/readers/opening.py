"""Open a slide or plain image with a suitable back end."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.optional import is_installed
from medi_monai.wsi.readers.array import ArrayReader
from medi_monai.wsi.readers.base import SlideReader
from medi_monai.wsi.readers.cucim import CuCIMReader
from medi_monai.wsi.readers.formats import content_type, tiff_damage
from medi_monai.wsi.readers.openslide import OpenSlideReader
from medi_monai.wsi.readers.plain import check_file, read_image
from medi_monai.wsi.readers.resolution import resolution
from medi_monai.wsi.readers.rules import PixelRules
from medi_monai.wsi.readers.tiff import several_pages, tiff_resolution

__all__ = ["BACKENDS", "open_slide"]

BACKENDS = ("auto", "cucim", "openslide")
PLAIN_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".jp2")
TIFF_NAMES = (".svs", ".tif", ".tiff")


def open_slide(
    path: str | os.PathLike,
    mpp: float | None = None,
    backend: str = "auto",
    on_conflict: str = "error",
    pixels: PixelRules | None = None,
) -> SlideReader:
    """Open a slide or a plain image.

    Args:
        path: slide or plain image; plain images such as PNG and JPEG, and TIFFs that are not slides, are read whole.
        mpp: microns per pixel at level 0; required if the file does not contain it.
        backend: ``cucim``, ``openslide``, or ``auto``, which uses cuCIM if it is installed and safe for the layout of
            the file, else OpenSlide.
        on_conflict: what to do if the resolution in the file and ``mpp`` differ by more than 0.5%: raise an ``error``,
            or use that of the ``file`` or the one that is ``given``.
        pixels: rules for the values, pages and transparent pixels of files that are read whole.

    Raises:
        InputError: for a missing, empty, unreadable or truncated file, an unknown or conflicting resolution, or an
            unknown back end.
    """
    if backend not in BACKENDS:
        raise unknown_value("back end", backend, BACKENDS)
    path = Path(path)
    check_file(path)
    pixels = pixels or PixelRules()
    if path.suffix.lower() in PLAIN_IMAGES:
        return _plain(path, mpp, on_conflict, pixels)
    if path.suffix.lower() in TIFF_NAMES:
        _check_tiff(path)
    if backend == "cucim":
        return CuCIMReader(path, mpp, on_conflict)
    use_cucim = backend == "auto" and is_installed("cucim")
    return _open_best(path, mpp, on_conflict, use_cucim, pixels)


def _open_best(path: Path, mpp: float | None, on_conflict: str, use_cucim: bool, pixels: PixelRules) -> SlideReader:
    try:
        reader = OpenSlideReader(path, mpp, on_conflict)
    except InputError:
        if content_type(path) == "TIFF" and not OpenSlideReader.detects(path):
            return _plain(path, mpp, on_conflict, pixels)
        raise
    if reader.vendor == "generic-tiff" and several_pages(path) > 1:
        # OpenSlide reads only the first page and its levels
        reader.close()
        return _plain(path, mpp, on_conflict, pixels)
    if use_cucim:
        with suppress(InputError):
            faster = CuCIMReader(path, mpp, on_conflict)
            reader.close()
            return faster
    return reader


def _plain(path: Path, mpp: float | None, on_conflict: str, pixels: PixelRules) -> ArrayReader:
    said = tiff_resolution(path) if content_type(path) == "TIFF" else (None, None)
    spacing = resolution(path, said, mpp, on_conflict)
    return ArrayReader(read_image(path, pixels), spacing, path)


def _check_tiff(path: Path) -> None:
    content = content_type(path)
    if content not in ("TIFF", ""):
        raise InputError(
            f"cannot read the slide {path}: it contains {content}, but its name ends in {path.suffix}. Rename the file."
        )
    damage = tiff_damage(path)
    if damage:
        raise InputError(f"cannot read the slide {path}: {damage}. Copy it again from its source.")
