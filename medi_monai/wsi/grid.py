"""Patch coordinates before pixels: a grid in microns per pixel over the tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers import SlideReader
from medi_monai.wsi.tissue import tissue_mask

__all__ = ["PatchGrid", "plan_patches"]

#: resolution of the thumbnail on which tissue is found, microns per pixel
MASK_MPP = 8.0


@dataclass(frozen=True)
class PatchGrid:
    """How a slide is cut.

    Args:
        image_size: side of a patch in pixels.
        mpp: resolution of a patch, microns per pixel; a slide may be finer, never coarser by more than 1 %.
        stride: distance between patches in patch pixels; by default they touch and do not overlap.
        min_tissue: smallest fraction of tissue in a patch, in [0, 1].
    """

    image_size: int
    mpp: float
    stride: int | None = None
    min_tissue: float = 0.5

    def __post_init__(self) -> None:
        if self.image_size < 8 or (self.stride is not None and self.stride < 1):
            raise InputError(f"image_size {self.image_size} has to be 8 or more, stride {self.stride} 1 or more")
        if not 0 < self.mpp < 100:
            raise InputError(f"mpp = {self.mpp}: the microns per pixel of a patch lie between 0 and 100")
        if not 0 <= self.min_tissue <= 1:
            raise InputError(f"min_tissue = {self.min_tissue}: it is a fraction in [0, 1]")


def plan_patches(slide: SlideReader, grid: PatchGrid) -> tuple[np.ndarray, float]:
    """Upper left corners of a slide's patches.

    Args:
        slide: an open slide.
        grid: size, resolution, stride and least tissue.

    Returns:
        ``(M, 2)`` integer (x, y) at level 0, row by row, and the side of a patch in level 0 pixels (real-valued).

    Raises:
        InputError: where the slide is coarser than the grid asks, or smaller than one patch.
    """
    scale = grid.mpp / slide.mpp
    if scale < 0.99:
        raise InputError(f"the slide has {slide.mpp:g} microns per pixel and cannot be cut at {grid.mpp:g}")
    side = grid.image_size * scale
    width, height = slide.dimensions
    if side > min(width, height) + 1e-6:
        raise InputError(f"the slide of {width} x {height} pixels is smaller than one patch of {side:.0f} pixels")
    step = (grid.stride or grid.image_size) * scale
    xs, ys = (np.arange(0, length - side + 1e-6, step) for length in (width, height))
    corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    covered = _tissue_fraction(slide, corners, side)
    return np.floor(corners[covered >= grid.min_tissue]).astype(int), side


def _tissue_fraction(slide: SlideReader, corners: np.ndarray, side: float) -> np.ndarray:
    width, height = slide.dimensions
    reduction = max(1.0, min(MASK_MPP / slide.mpp, side / 8))
    size = max(1, round(width / reduction)), max(1, round(height / reduction))
    mask = tissue_mask(slide.read(0, 0, (width, height), size))
    # summed area table: the tissue in any rectangle in four look-ups
    total = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    scale = np.array([size[0] / width, size[1] / height])
    low = np.floor(corners * scale).astype(int)
    high = np.maximum(np.minimum(np.ceil((corners + side) * scale).astype(int), size), low + 1)
    (x0, y0), (x1, y1) = low.T, high.T
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0))
