"""Tell from the headers of an image file how its pixels are compressed, and at which JPEG quality."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import openslide
import tifffile

from medi_monai.wsi.readers.formats import content_type, tiff_pages

__all__ = ["Compression", "image_compression", "jpeg_quality", "luminance_table", "scheme_of_properties"]

#: luminance table of the JPEG standard (ITU-T T.81, table K.1), which libjpeg scales by the quality
STANDARD_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
#: schemes by the number of the tag Compression of a TIFF
TIFF_SCHEMES = {
    1: "none",
    5: "LZW",
    6: "JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34892: "JPEG",
    50000: "Zstandard",
    50001: "WebP",
    22610: "JPEG XR",
    34934: "JPEG XR",
}
#: schemes of plain images by their content
PLAIN_SCHEMES = {"JPEG": "JPEG", "JPEG2000": "JPEG 2000", "PNG": "PNG", "BMP": "none", "GIF": "GIF", "WEBP": "WebP"}
#: schemes that lose information; files of JPEG 2000, JPEG XR and WebP may be lossless, but seldom are
LOSSY = ("JPEG", "JPEG 2000", "JPEG XR", "WebP")
#: leading bytes of a JPEG in which the table is searched; an ICC profile and previews may precede it
HEADER_BYTES = 2**20
JPEG_TABLES = 347
#: markers of a JPEG
DEFINE_TABLES, START_OF_SCAN, END_OF_IMAGE = 0xDB, 0xDA, 0xD9
#: properties of OpenSlide that name the scheme of slides that are not TIFFs, and schemes by their values
SCHEME_PROPERTIES = ("mirax.LAYER_0_LEVEL_0_SECTION.IMAGE_FORMAT", "dicom.LossyImageCompressionMethod")
PROPERTY_SCHEMES = {
    **{"JPEG": "JPEG", "ISO_10918_1": "JPEG", "ISO_15444_1": "JPEG 2000"},
    **{"PNG": "PNG", "BMP24": "none"},
}


@dataclass(frozen=True)
class Compression:
    """Compression of an image.

    Args:
        scheme: name of the scheme, such as ``JPEG``, ``JPEG 2000``, ``LZW``, ``PNG`` or ``none``.
        quality: JPEG quality, from 1 to 100; None for other schemes and if the file does not tell.
    """

    scheme: str
    quality: int | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether the scheme loses information."""
        return self.scheme in LOSSY


def image_compression(path: str | os.PathLike) -> Compression | None:
    """Return the compression of a slide or plain image; None if it is missing, unreadable or of an unknown kind.

    Only headers are read. Of a TIFF, the page with the most pixels counts, which is level 0 of a slide.

    Args:
        path: slide or plain image; its suffix does not matter.
    """
    with suppress(Exception):
        # with corrupt bytes, parsers can raise any error
        if os.fspath(path).lower().endswith(".mrxs"):
            # the file itself holds a small preview
            return _of_openslide(path)
        content = content_type(path)
        if content == "TIFF":
            return _of_tiff(path)
        if content == "JPEG":
            with open(path, "rb") as file:
                return _jpeg(luminance_table(file.read(HEADER_BYTES)))
        if content == "WEBP" and _is_lossless_webp(path):
            return Compression("lossless WebP")
        if content in PLAIN_SCHEMES:
            return Compression(PLAIN_SCHEMES[content])
        return _of_openslide(path)
    return None


def jpeg_quality(table: Sequence[int]) -> int:
    """Estimate the JPEG quality from a luminance quantization table.

    The estimate is the quality for which the table of libjpeg is nearest (least sum of absolute differences), and exact
    for files written by libjpeg. libjpeg (``jcparam.c``) scales the standard table by ``5000 / quality`` percent below
    a quality of 50 and by ``200 - 2 * quality`` percent from there on. Larger entries are larger at every quality, so
    the order of the entries does not matter.

    Args:
        table: 64 entries in any order.
    """
    differences = np.abs(_tables() - np.sort(np.asarray(table, np.int64))).sum(axis=1)
    # of equal tables, as at the lowest qualities, the best quality
    return 100 - int(np.argmin(differences[::-1]))


def _tables() -> np.ndarray:
    """Return ``(100, 64)`` tables of libjpeg, sorted, for the qualities from 1 to 100."""
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    return np.clip((np.sort(STANDARD_LUMINANCE) * scales[:, None] + 50) // 100, 1, 255)


def luminance_table(stream: bytes) -> list[int] | None:
    """Return the 64 entries of the luminance quantization table of a JPEG stream, in the order of the stream.

    Args:
        stream: a JPEG, its beginning, or the tables that the tiles of a TIFF share.

    Returns:
        The entries of table 0, or None if the stream is not a JPEG or does not define this table.
    """
    if stream[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:
            # fill byte
            position += 1
            continue
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return None
        (length,) = struct.unpack_from(">H", stream, position + 2)
        if marker == DEFINE_TABLES:
            table = _table_0(stream[position + 4 : position + 2 + length])
            if table is not None:
                return table
        position += 2 + length
    return None


def _table_0(segment: bytes) -> list[int] | None:
    start = 0
    while start < len(segment):
        precision, number = divmod(segment[start], 16)
        kind = np.dtype(">u2" if precision else "u1")
        end = start + 1 + 64 * kind.itemsize
        if number == 0 and end <= len(segment):
            return [int(entry) for entry in np.frombuffer(segment[start + 1 : end], kind)]
        start = end
    return None


def _jpeg(table: Sequence[int] | None) -> Compression:
    return Compression("JPEG", None if table is None else jpeg_quality(table))


def _of_tiff(path: str | os.PathLike) -> Compression:
    with tifffile.TiffFile(path) as tiff:
        page = max(tiff_pages(tiff), key=lambda page: page.imagewidth * page.imagelength)
        code = int(page.compression)
        scheme = TIFF_SCHEMES.get(code, str(getattr(page.compression, "name", code)))
        if scheme != "JPEG":
            return Compression(scheme)
        # the tables of the tiles, if they have some, take precedence over those that they share
        offset, count = next(pair for pair in zip(page.dataoffsets, page.databytecounts) if pair[1])
        tiff.filehandle.seek(offset)
        table = luminance_table(tiff.filehandle.read(min(count, HEADER_BYTES)))
        shared = page.tags.get(JPEG_TABLES)
        if table is None and shared is not None:
            table = luminance_table(bytes(shared.value))
        return _jpeg(table)


def _is_lossless_webp(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        return file.read(16)[12:] == b"VP8L"


def _of_openslide(path: str | os.PathLike) -> Compression | None:
    with openslide.OpenSlide(os.fspath(path)) as slide:
        return scheme_of_properties(slide.properties)


def scheme_of_properties(properties: Mapping[str, str]) -> Compression | None:
    """Return the compression that OpenSlide's properties of a MIRAX or DICOM slide name; None if they name none.

    Args:
        properties: properties of a slide; they do not tell the quality.
    """
    named = next((properties[name] for name in SCHEME_PROPERTIES if name in properties), None)
    return None if named is None else Compression(PROPERTY_SCHEMES.get(named.upper(), named))
