"""Readers of slides and tiles behind one class: OpenSlide, cuCIM, and arrays in memory."""

from medi_monai.wsi.readers.array import ArrayReader, read_image
from medi_monai.wsi.readers.base import SlideReader
from medi_monai.wsi.readers.cucim import CuCIMReader
from medi_monai.wsi.readers.opening import BACKENDS, open_slide
from medi_monai.wsi.readers.openslide import OpenSlideReader

__all__ = ["BACKENDS", "ArrayReader", "CuCIMReader", "OpenSlideReader", "SlideReader", "open_slide", "read_image"]
