"""Readers of slides and tiles with a common interface: OpenSlide, cuCIM, and arrays in memory."""

from medi_monai.wsi.readers.array import ArrayReader
from medi_monai.wsi.readers.base import SlideReader
from medi_monai.wsi.readers.compression import Compression, image_compression
from medi_monai.wsi.readers.cucim import CuCIMReader, cucim_version
from medi_monai.wsi.readers.opening import BACKENDS, open_slide
from medi_monai.wsi.readers.openslide import OpenSlideReader, openslide_version
from medi_monai.wsi.readers.plain import read_image, read_plain
from medi_monai.wsi.readers.rules import PixelRules

__all__ = [
    "BACKENDS",
    "ArrayReader",
    "Compression",
    "CuCIMReader",
    "OpenSlideReader",
    "PixelRules",
    "SlideReader",
    "cucim_version",
    "image_compression",
    "open_slide",
    "openslide_version",
    "read_image",
    "read_plain",
]
