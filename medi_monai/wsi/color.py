"""Optical density of pixels, in which the contributions of stains are additive."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["from_optical_density", "optical_density", "mean_optical_density"]


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """Return ``-log10((I + 1) / 256)`` of uint8 pixels (Ruifrok and Johnston 2001); white is 0, black 2.4."""
    return -np.log10((pixels.astype(np.float32) + 1) / 256)


def from_optical_density(density: np.ndarray) -> np.ndarray:
    """Return the uint8 pixels of a float32 optical density, the inverse of :func:`optical_density`.

    Values brighter than white become white.
    """
    light = np.exp(density * np.float32(-math.log(10)))
    light *= 256
    light -= 1
    np.rint(light, out=light)
    return np.clip(light, 0, 255, out=light).astype(np.uint8)


def mean_optical_density(images: np.ndarray) -> np.ndarray:
    """Return the ``(N, 3)`` mean optical density per color channel of ``(N, H, W, 3)`` uint8 images."""
    table = optical_density(np.arange(256, dtype=np.uint8))
    return table[images].mean(axis=(1, 2), dtype=np.float64)
