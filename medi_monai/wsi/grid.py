"""Plan patch coordinates before reading pixels: a grid over the tissue, in microns per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers import SlideReader
from medi_monai.wsi.readers.base import SAME_FIELD
from medi_monai.wsi.tissue import tissue_mask

__all__ = ["PatchGrid", "PatchPlan", "plan_patches"]

#: resolution, in microns per pixel, of the thumbnail used for tissue detection
MASK_MPP = 8.0


@dataclass(frozen=True)
class PatchGrid:
    """Grid of patches on a slide.

    Args:
        image_size: side of a patch in pixels.
        mpp: resolution of a patch in microns per pixel; slides may be finer, but not more than 1% coarser.
        stride: distance between patches in patch pixels; by default patches are adjacent without overlap.
        min_tissue: minimum fraction of tissue in a patch, in [0, 1].
    """

    image_size: int
    mpp: float
    stride: int | None = None
    min_tissue: float = 0.5

    def __post_init__(self) -> None:
        if self.image_size < 8 or (self.stride is not None and self.stride < 1):
            raise InputError(f"image_size {self.image_size} must be 8 or more, stride {self.stride} must be 1 or more")
        if not 0 < self.mpp < 100:
            raise InputError(f"mpp = {self.mpp}: microns per pixel must be between 0 and 100")
        if not 0 <= self.min_tissue <= 1:
            raise InputError(f"min_tissue = {self.min_tissue}: it must be a fraction in [0, 1]")


@dataclass(frozen=True)
class PatchPlan:
    """Planned patches of a slide.

    Args:
        corners: ``(M, 2)`` integer (x, y) of the upper left corners at level 0, row by row.
        tissue: ``(M,)`` fraction of tissue in each patch.
        field: real-valued (width, height) of a patch in level 0 pixels.
        thumbnail: ``(h, w, 3)`` uint8 image of the slide at about :data:`MASK_MPP`.
        mask: ``(h, w)`` bool tissue mask of the thumbnail.
    """

    corners: np.ndarray
    tissue: np.ndarray
    field: tuple[float, float]
    thumbnail: np.ndarray
    mask: np.ndarray


def plan_patches(slide: SlideReader, grid: PatchGrid) -> PatchPlan:
    """Plan the patches of a slide from its thumbnail, without reading any patch.

    Args:
        slide: open slide.
        grid: size, resolution, stride and minimum tissue of patches.

    Raises:
        InputError: if the slide is more than 1% coarser than the grid's resolution, or smaller than one patch.
    """
    if grid.mpp / max(slide.spacing) < 0.99:
        raise InputError(f"the slide has {slide.mpp:g} microns per pixel and cannot be cut at a finer {grid.mpp:g}")
    field = slide.field((grid.image_size, grid.image_size), grid.mpp)
    width, height = slide.dimensions
    if field[0] > width + 1e-6 or field[1] > height + 1e-6:
        raise InputError(
            f"the slide of {width} x {height} pixels is smaller than one patch of {field[0]:.0f} x {field[1]:.0f}"
        )
    stride = slide.field((grid.stride or grid.image_size,) * 2, grid.mpp)
    xs, ys = (np.arange(0, length - side + 1e-6, step) for length, side, step in zip((width, height), field, stride))
    corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    reduction = max(1.0, min(MASK_MPP / slide.mpp, min(field) / 8))
    thumbnail = slide.thumbnail((max(1, round(width / reduction)), max(1, round(height / reduction))))
    mask = tissue_mask(thumbnail, slide.mpp * reduction)
    tissue = _covered(mask, corners, field, slide.dimensions)
    kept = tissue >= grid.min_tissue
    return PatchPlan(_on_pixels(slide, corners[kept], field, grid), tissue[kept], field, thumbnail, mask)


def _on_pixels(slide: SlideReader, corners: np.ndarray, field: tuple[float, float], grid: PatchGrid) -> np.ndarray:
    # if a level has the requested resolution, align the patches with its pixels, so that they are not resampled
    size = (grid.image_size, grid.image_size)
    whole = np.floor(corners).astype(int)
    if len(corners) == 0:
        return whole
    scales = np.array(slide.level_downsamples)
    matching = np.flatnonzero(np.abs(np.array(field) / scales - size).max(axis=1) < SAME_FIELD)
    if matching.size == 0 or matching[-1] == 0:
        return whole
    scale = scales[matching[-1]]
    moved = np.rint(np.floor(corners / scale + 1e-6) * scale).astype(int)
    return np.clip(moved, 0, np.maximum(np.floor(np.array(slide.dimensions) - field).astype(int), 0))


def _covered(
    mask: np.ndarray, corners: np.ndarray, field: tuple[float, float], dimensions: tuple[int, int]
) -> np.ndarray:
    # a summed-area table gives the tissue in any rectangle from four look-ups
    total = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    size = np.array(mask.shape[::-1])
    scale = size / dimensions
    low = np.floor(corners * scale).astype(int)
    high = np.maximum(np.minimum(np.ceil((corners + field) * scale).astype(int), size), low + 1)
    (x0, y0), (x1, y1) = low.T, high.T
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0))
