"""How good a patch is: sharpness and background, for the eyes of a reader of the quality page."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medi_monai.wsi.color import optical_density
from medi_monai.wsi.tissue import GLASS_DENSITY

__all__ = ["background_fraction", "sharpness"]

_DENSITY = optical_density(np.arange(256, dtype=np.uint8))


def sharpness(patch: np.ndarray) -> float:
    """Variance of the Laplacian of the gray values (Pech-Pacheco et al. 2000): low in a blurred patch.

    Comparable between patches of one resolution only; the unit is gray levels squared.

    Args:
        patch: ``(H, W, 3)`` uint8.
    """
    gray = patch.mean(axis=2, dtype=np.float32)
    return float(ndimage.laplace(gray).var())


def background_fraction(patch: np.ndarray) -> float:
    """Share of pixels, in [0, 1], as bright as glass: ``(H, W, 3)`` uint8."""
    return float((_DENSITY[patch].mean(axis=2) < GLASS_DENSITY).mean())
