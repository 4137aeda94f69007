"""Whether a generative model repeats its training images."""

from __future__ import annotations

import math

import numpy as np

from medi_monai.utils.errors import InputError

__all__ = ["symmetric_correlation", "wilson_interval"]


def symmetric_correlation(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How alike two images are under the best of the eight symmetries of the square.

    Both are brought to the mean 0 and the length 1 over pixels and channels, so that a copy in another brightness or
    contrast is a copy still.

    Args:
        images: ``(N, S, S, 3)`` uint8.
        others: ``(N, S, S, 3)``, compared one by one.

    Returns:
        ``(N,)`` correlations, 1 for a copy that was turned or mirrored; NaN where an image is of one color.
    """
    if images.shape != others.shape or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise InputError(f"pairs of square images are needed, not {images.shape} and {others.shape}")
    first = _normalized(images)
    best = np.full(len(images), -np.inf)
    for mirrored in (others, others[:, :, ::-1]):
        for turn in range(4):
            second = _normalized(np.rot90(mirrored, turn, axes=(1, 2)))
            # NaN stays NaN
            best = np.maximum(best, np.einsum("ni,ni->n", first, second))
    return np.minimum(best, 1.0)


def _normalized(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.full_like(flat, np.nan), where=length > 0)


def wilson_interval(count: int, n: int) -> list[float] | None:
    """The 95 % interval of a share ``count / n`` (Wilson 1927); ``None`` for n of 0."""
    if n == 0:
        return None
    z = 1.959963984540054
    share, spread = count / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]
