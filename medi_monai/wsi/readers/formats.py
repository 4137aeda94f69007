"""Inspect TIFF files before decoding, because some layouts and damaged files crash cuCIM or give wrong pixels."""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Sequence
from io import FileIO
from operator import add
from pathlib import Path

import tifffile

__all__ = ["HEAD", "Tiles", "content_of", "content_type", "cucim_obstacle", "tiff_damage", "tiff_pages"]

#: vendors, as named by OpenSlide, whose files cuCIM 26.10 reads in the same way as OpenSlide
CUCIM_VENDORS = ("aperio", "generic-tiff")
#: compressions that cuCIM 26.10 decodes, by their number in TIFF; it does not decode zstd, JPEG 2000, WebP and PackBits
CUCIM_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate"}
RAW, LZW, JPEG, DEFLATE = 1, 5, 7, (8, 32946)
#: formats by the first bytes of a file
MAGIC = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"DDS ": "DDS",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\x1f\x8b": "GZIP",
    b"PK\x03\x04": "ZIP",
    b"%PDF": "PDF",
}
#: formats by signature bytes at other positions
INNER_MAGIC = (
    (8, b"WEBP", "WEBP"),
    (4, b"jP  ", "JPEG2000"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "HEIF"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
)
#: number of leading bytes that contain all signatures
HEAD = 348
#: maximum number of pixels in a tile; more indicate a damaged directory, and decoders would run out of memory
MAX_TILE = 2**26
#: number of trailing bytes in which to search for the end marker of a JPEG tile, since some programs add padding
PADDING = 8
#: byte sequences that never occur in the coded pixels of a JPEG with a single scan, where 255 is followed by 0, a
#: restart marker or fill bytes; progressive files and those with several scans also contain other markers
OUT_OF_PLACE = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
#: run of zeros, as left by an incomplete copy; among coded pixels, only plain glass may produce it
HOLE = bytes(64)


def cucim_obstacle(path: str | os.PathLike, vendor: str, levels: Sequence[tuple[int, int]]) -> str:
    """Return why cuCIM must not be used to read a slide; the empty string if it can be.

    Args:
        path: slide that OpenSlide can open.
        vendor: name of the vendor according to OpenSlide.
        levels: (width, height) of each level according to OpenSlide.
    """
    if vendor not in CUCIM_VENDORS:
        return f"its format is {vendor or 'unknown'}"
    damage = tiff_damage(path)
    if damage:
        return damage
    with tifffile.TiffFile(path) as file:
        pages = tiff_pages(file)
        if any(page.subifds for page in pages):
            return "the levels are in TIFF sub-directories, which cuCIM does not read"
        by_size = _by_size(pages)
        for level in levels:
            if level not in by_size:
                return f"there is no TIFF page for the level of {level[0]} x {level[1]} pixels"
            obstacle = _page_obstacle(by_size[level])
            if obstacle:
                return obstacle
    return ""


def tiff_pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return all pages of a TIFF with their tags.

    Raises:
        ValueError: if its directories form a loop.
    """
    pages: dict[int, tifffile.TiffPage] = {}
    for page in file.pages:
        if page.offset in pages:
            # without this check, tifffile would loop forever
            raise ValueError("the TIFF directories form a loop")
        pages[page.offset] = page.aspage() if isinstance(page, tifffile.TiffFrame) else page
    return list(pages.values())


def _by_size(pages: list[tifffile.TiffPage]) -> dict[tuple[int, int], tifffile.TiffPage]:
    return {(page.imagewidth, page.imagelength): page for page in reversed(pages)}


def _page_obstacle(page: tifffile.TiffPage) -> str:
    if page.compression not in CUCIM_COMPRESSIONS:
        return f"compression {getattr(page.compression, 'name', page.compression)} is not supported by cuCIM"
    if page.compression in DEFLATE and page.predictor not in (0, 1):
        return "cuCIM crashes on deflate with a predictor"
    if page.samplesperpixel != 3 or page.bitspersample != 8 or page.planarconfig != 1 or not page.is_tiled:
        return "the pixels are not tiles of interleaved 8-bit RGB"
    if 0 in page.databytecounts:
        return "some tiles are empty"
    if page.compression == RAW and set(page.databytecounts) != {page.tilewidth * page.tilelength * 3}:
        return "some tiles are incomplete"
    return ""


def _next_page(file: tifffile.TiffFile) -> int:
    # position of the next page according to the last page that was found; the parser ignores a position outside the
    # file
    file.filehandle.seek(file.pages.next_page_offset or 0)
    return int(struct.unpack(file.tiff.offsetformat, file.filehandle.read(file.tiff.offsetsize))[0])


def tiff_damage(path: str | os.PathLike) -> str:
    """Return how a TIFF is damaged or truncated, according to its directories; empty if it is not."""
    size = Path(path).stat().st_size
    try:
        with tifffile.TiffFile(path) as file:
            for page in tiff_pages(file):
                end = max(map(add, page.dataoffsets, page.databytecounts), default=0)
                if end > size:
                    return f"it is truncated: its directory refers to byte {end}, but the file has {size} bytes"
                if page.is_tiled and min(len(page.dataoffsets), len(page.databytecounts)) < math.prod(page.chunked):
                    return "its TIFF directory is damaged (it lists fewer tiles than the image has)"
                if page.tilewidth * page.tilelength > MAX_TILE:
                    return f"its TIFF directory is damaged (tiles of {page.tilewidth} x {page.tilelength} pixels)"
            next_page = _next_page(file)
            if next_page >= size:
                return f"it is truncated: its next page begins at byte {next_page}, but the file has {size} bytes"
    except PermissionError as error:
        return f"it cannot be read ({error.strerror})"
    except Exception as error:
        # with corrupt bytes, the parser can raise any error
        return f"its TIFF directory is damaged ({error})".replace("\n", " ")
    return ""


def content_type(path: str | os.PathLike) -> str:
    """Return a file's format according to its first bytes, regardless of its name: ``PNG``, ``JPEG``, …, or empty."""
    try:
        with open(path, "rb") as file:
            return content_of(file.read(HEAD))
    except OSError:
        return ""


def content_of(head: bytes) -> str:
    """Return the format of a file from its first :data:`HEAD` bytes; see :func:`content_type`."""
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")
    return kind or next((kind for start, magic, kind in INNER_MAGIC if head.startswith(magic, start)), "")


class Tiles:
    """Checks whether the tiles under a window look intact: start, content and end of a JPEG, start of LZW data.

    For a damaged JPEG or LZW tile, cuCIM returns noise without an error. An interrupted copy leaves zeros, which can be
    detected at the ends of a JPEG and inside, as can corrupt bytes. Each tile is checked once. An intact tile of an
    unusual kind may look damaged; it is then read with OpenSlide, which only takes longer.

    Args:
        path: TIFF that cuCIM can read (see :func:`cucim_obstacle`).
        levels: (width, height) of each level.
    """

    def __init__(self, path: str | os.PathLike, levels: Sequence[tuple[int, int]]) -> None:
        with tifffile.TiffFile(path) as file:
            by_size = _by_size(tiff_pages(file))
            pages = [by_size[level] for level in levels]
            self.compression = [int(page.compression) for page in pages]
            self._sides = [(page.tilewidth, page.tilelength) for page in pages]
            self._columns = [page.chunked[1] for page in pages]
            self._tile_bytes = [(page.dataoffsets, page.databytecounts) for page in pages]
        self._whole: list[set[int]] = [set() for _ in pages]
        self._file = FileIO(path)

    def whole(self, level: int, left: int, top: int, right: int, bottom: int) -> bool:
        """Return whether all tiles under a window of a level look intact."""
        across, down = self._sides[level]
        columns, known = self._columns[level], self._whole[level]
        first, last = left // across, -(-right // across)
        for row in range(top // down, -(-bottom // down)):
            for tile in range(row * columns + first, row * columns + last):
                if tile not in known:
                    if not self._looks_whole(level, tile):
                        return False
                    known.add(tile)
        return True

    def _looks_whole(self, level: int, tile: int) -> bool:
        offsets, counts = self._tile_bytes[level]
        offset, count = offsets[tile], counts[tile]
        compression = self.compression[level]
        try:
            # pread is thread-safe, unlike seek and read
            content = os.pread(self._file.fileno(), count if compression == JPEG else 1, offset)
        except (OSError, ValueError):
            return False
        if compression == LZW:
            # LZW data begin with the code that clears the table
            return content == b"\x80"
        return compression != JPEG or _looks_like_jpeg(content)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def _looks_like_jpeg(content: bytes) -> bool:
    scan, end = content.find(b"\xff\xda"), content.rfind(b"\xff\xd9", -PADDING)
    if not content.startswith(b"\xff\xd8") or not 0 < scan < end:
        return False
    return HOLE not in content and not OUT_OF_PLACE.search(content, scan + 2, end)
