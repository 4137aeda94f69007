"""Where the tissue is: not glass, not pen, not the black around a scan."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from medi_monai.wsi.color import optical_density

__all__ = ["artifact_mask", "tissue_mask"]

#: below this range of optical density a field is all tissue or all glass, and Otsu would split noise
MIN_SPREAD = 0.04
#: optical density that glass stays below, and pale stroma above (0.09 and more on the slides tried)
GLASS_DENSITY, TISSUE_DENSITY = 0.05, 0.08
#: glass is gray, however dark: between the channels of tissue there is more than this in optical density
MIN_COLOR = 0.03
#: no tissue is so dense in every channel, or in red alone, when its nuclei have mixed with stroma (0.6 on the
#: slides tried); black ink and what was not scanned are, and dense blue or green ink is in red
BLACK_DENSITY, RED_DENSITY = 0.75, 0.9
#: microns over which nuclei mix with stroma: colors of finer fields would be those of single nuclei
MIXED = 24.0
#: ink seeps: what lies around it, in microns, goes with it; and smaller areas, in square microns, are no ink
INK_MARGIN, INK_AREA = 16.0, 1000.0


def tissue_mask(thumbnail: np.ndarray, mpp: float = 8.0, min_area: int = 64) -> np.ndarray:
    """Tissue by Otsu's threshold on the mean optical density, without pen, black borders, specks and holes.

    Args:
        thumbnail: ``(H, W, 3)`` uint8.
        mpp: microns per pixel of the thumbnail.
        min_area: smaller specks and holes, in thumbnail pixels, are removed.

    Returns:
        ``(H, W)`` bool.
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
    # a field without glass has no second mode, and Otsu would part nuclei from stroma: it may not go above stroma
    threshold = min(float(threshold_otsu(valid)), TISSUE_DENSITY)
    mask = remove_small_objects((density > threshold) & possible, max_size=min_area - 1)
    return remove_small_holes(mask, max_size=min_area - 1) & ~artifacts


def artifact_mask(thumbnail: np.ndarray, mpp: float = 8.0) -> np.ndarray:
    """Pen marks and black borders, with a margin.

    Hematoxylin and eosin both absorb green the most, hematoxylin red besides and blue least (Ruifrok and Johnston
    2001). So ink is what absorbs red more than green (blue, green), all three alike (black, gray), green and blue
    strongly but red little (red), or blue far more than green (orange). Pale red ink has the colors of eosin, and
    purple ink those of hematoxylin: they stay.

    Args:
        thumbnail: ``(H, W, 3)`` uint8.
        mpp: microns per pixel of the thumbnail.

    Returns:
        ``(H, W)`` bool.
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
    # over tissue ink is nearer to the colors of the stains: what touches ink need not differ from them as much
    ink = ndimage.binary_propagation(ink, mask=ink | ((red > 0.45) & (red > 0.88 * green)))
    return ndimage.binary_dilation(ink, iterations=max(1, round(INK_MARGIN / mpp)))
