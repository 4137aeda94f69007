"""Whole-slide images and tiles: readers, tissue detection, the patch grid in microns per pixel, and color."""

from medi_monai.wsi.color import mean_optical_density, optical_density
from medi_monai.wsi.grid import PatchGrid, PatchPlan, plan_patches
from medi_monai.wsi.quality import background_fraction, sharpness
from medi_monai.wsi.readers import ArrayReader, CuCIMReader, OpenSlideReader, SlideReader, open_slide
from medi_monai.wsi.tissue import artifact_mask, tissue_mask

__all__ = [
    "ArrayReader",
    "CuCIMReader",
    "OpenSlideReader",
    "PatchGrid",
    "PatchPlan",
    "SlideReader",
    "artifact_mask",
    "background_fraction",
    "mean_optical_density",
    "open_slide",
    "optical_density",
    "plan_patches",
    "sharpness",
    "tissue_mask",
]
