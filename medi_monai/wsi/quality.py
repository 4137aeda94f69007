"""Patch quality for visual review: sharpness and background."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medi_monai.wsi.color import optical_density
from medi_monai.wsi.tissue import GLASS_DENSITY

__all__ = ["background_fraction", "sharpness"]

_DENSITY = optical_density(np.arange(256, dtype=np.uint8))


def sharpness(patch: np.ndarray) -> float:
    """Return the variance of the Laplacian of the gray values (Pech-Pacheco et al. 2000), which is low if blurred.

    The unit is gray levels squared; values are comparable only between patches of the same resolution.

    Args:
        patch: ``(H, W, 3)`` uint8 patch.
    """
    gray = patch.mean(axis=2, dtype=np.float32)
    return float(ndimage.laplace(gray).var())


def background_fraction(patch: np.ndarray) -> float:
    """Return the share of pixels, in [0, 1], that are as bright as glass, for a ``(H, W, 3)`` uint8 patch."""
    return float((_DENSITY[patch].mean(axis=2) < GLASS_DENSITY).mean())
