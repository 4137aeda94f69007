"""Whole slides and tiles: readers, tissue, the patch grid in microns per pixel, and color."""

from medi_monai.wsi.color import mean_optical_density, optical_density
from medi_monai.wsi.grid import PatchGrid, plan_patches
from medi_monai.wsi.readers import ArrayReader, OpenSlideReader, SlideReader, open_slide
from medi_monai.wsi.tissue import tissue_mask

__all__ = [
    "ArrayReader",
    "OpenSlideReader",
    "PatchGrid",
    "SlideReader",
    "mean_optical_density",
    "open_slide",
    "optical_density",
    "plan_patches",
    "tissue_mask",
]
