"""Tissue detection, excluding glass, pen marks and the black border of a scan."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from medi_monai.wsi.color import optical_density

__all__ = ["artifact_mask", "tissue_mask"]

#: range of optical density below which an image is all tissue or all glass, and Otsu's threshold would split noise
MIN_SPREAD = 0.04
#: optical densities between that of glass and that of pale stroma (0.09 and more on the slides tested)
GLASS_DENSITY, TISSUE_DENSITY = 0.05, 0.08
#: minimum difference in optical density between the channels of tissue; glass is gray, even if it is dark
MIN_COLOR = 0.03
#: optical density, in every channel and in red alone, that tissue does not reach if nuclei are blended with stroma (0.6
#: on the slides tested); black ink and unscanned areas exceed it in every channel, dense blue or green ink in red
BLACK_DENSITY, RED_DENSITY = 0.75, 0.9
#: microns over which nuclei are blended with stroma; at finer scales, colors would be those of single nuclei
MIXED = 24.0
#: margin around ink in microns, because ink spreads, and minimum area of ink in square microns
INK_MARGIN, INK_AREA = 16.0, 1000.0


def tissue_mask(thumbnail: np.ndarray, mpp: float = 8.0, min_area: int = 64) -> np.ndarray:
    """Detect tissue with Otsu's threshold on the mean optical density, excluding pen marks, black borders and specks.

    Args:
        thumbnail: ``(H, W, 3)`` uint8 thumbnail.
        mpp: microns per pixel of the thumbnail.
        min_area: area in thumbnail pixels below which specks are removed and holes filled.

    Returns:
        ``(H, W)`` bool tissue mask.
    """
    colors = ndimage.gaussian_filter(optical_density(thumbnail), (1.0, 1.0, 0.0))
    density = colors.mean(axis=2)
    artifacts = artifact_mask(thumbnail, mpp)
    possible = ~artifacts & (np.ptp(colors, axis=2) > MIN_COLOR)
    valid = density[~artifacts]
    if valid.size == 0:
        return np.zeros(density.shape, bool)
    if np.ptp(valid) < MIN_SPREAD:
        return possible & bool(valid.mean() > GLASS_DENSITY)
    # without glass, Otsu's threshold would separate nuclei from stroma, so it is limited to values below stroma
    threshold = min(float(threshold_otsu(valid)), TISSUE_DENSITY)
    mask = remove_small_objects((density > threshold) & possible, max_size=min_area - 1)
    return remove_small_holes(mask, max_size=min_area - 1) & ~artifacts


def artifact_mask(thumbnail: np.ndarray, mpp: float = 8.0) -> np.ndarray:
    """Detect pen marks and black borders, with a margin.

    Hematoxylin and eosin both absorb green most; hematoxylin also absorbs red, and blue least (Ruifrok and Johnston
    2001). Ink is therefore recognized by absorbing red more than green (blue and green ink), all three equally (black
    and gray), green and blue strongly but red little (red), or blue far more than green (orange). Pale red ink has the
    colors of eosin, and purple ink those of hematoxylin, so they are not detected.

    Args:
        thumbnail: ``(H, W, 3)`` uint8 thumbnail.
        mpp: microns per pixel of the thumbnail.

    Returns:
        ``(H, W)`` bool mask.
    """
    side = max(3, round(MIXED / mpp))
    red, green, blue = np.moveaxis(ndimage.uniform_filter(optical_density(thumbnail), (side, side, 1)), 2, 0)
    green_or_blue = np.minimum(green, blue)
    dense = (np.minimum(red, green_or_blue) > BLACK_DENSITY) | (red > RED_DENSITY)
    blue_or_green = ((red > 0.25) & (red > 1.05 * green + 0.02)) | ((red > 0.6) & (red > 0.98 * green))
    gray = (np.minimum(red, blue) > 0.28) & (np.minimum(red, blue) > 0.85 * green)
    red_ink = (green_or_blue > 0.6) & (red < 0.45 * green_or_blue)
    orange = (blue > 0.3) & (blue > 1.4 * green)
    ink = dense | blue_or_green | gray | red_ink | orange
    ink = remove_small_objects(ink, max_size=max(1, round(INK_AREA / mpp**2)))
    if not ink.any():
        return ink
    # ink over tissue is closer to the colors of the stains, so the criterion is weaker for pixels adjacent to ink
    ink = ndimage.binary_propagation(ink, mask=ink | ((red > 0.45) & (red > 0.88 * green)))
    return ndimage.binary_dilation(ink, iterations=max(1, round(INK_MARGIN / mpp)))
