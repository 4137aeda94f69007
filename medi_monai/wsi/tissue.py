"""Where the tissue is."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from medi_monai.wsi.color import optical_density

__all__ = ["tissue_mask"]

#: below this range of optical density a field is all tissue or all glass, and Otsu would split noise
MIN_SPREAD = 0.04
#: optical density that glass stays below, and pale stroma above (0.09 and more on the slides tried)
GLASS_DENSITY, TISSUE_DENSITY = 0.05, 0.08


def tissue_mask(thumbnail: np.ndarray, min_area: int = 64) -> np.ndarray:
    """Tissue by Otsu's threshold on the mean optical density, without specks and holes.

    Args:
        thumbnail: ``(H, W, 3)`` uint8.
        min_area: smaller specks and holes, in thumbnail pixels, are removed.

    Returns:
        ``(H, W)`` bool.
    """
    density = ndimage.gaussian_filter(optical_density(thumbnail).mean(axis=2), 1.0)
    if np.ptp(density) < MIN_SPREAD:
        return np.full(density.shape, bool(density.mean() > GLASS_DENSITY))
    # a field without glass has no second mode, and Otsu would part nuclei from stroma: it may not go above stroma
    threshold = min(float(threshold_otsu(density)), TISSUE_DENSITY)
    mask = remove_small_objects(density > threshold, max_size=min_area - 1)
    return remove_small_holes(mask, max_size=min_area - 1)
