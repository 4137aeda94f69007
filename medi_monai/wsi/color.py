"""Color as absorbance: the space in which stains add up."""

from __future__ import annotations

import numpy as np

__all__ = ["optical_density", "mean_optical_density"]


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """``-log10((I + 1) / 256)`` of uint8 pixels (Ruifrok and Johnston 2001); white is 0, black 2.4."""
    return -np.log10((pixels.astype(np.float32) + 1) / 256)


def mean_optical_density(images: np.ndarray) -> np.ndarray:
    """Mean optical density per color channel, ``(N, 3)``, of ``(N, H, W, 3)`` uint8 images."""
    table = optical_density(np.arange(256, dtype=np.uint8))
    return table[images].mean(axis=(1, 2), dtype=np.float64)
