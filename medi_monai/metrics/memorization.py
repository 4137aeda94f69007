"""Whether a generative model repeats its training images."""

from __future__ import annotations

import math

import numpy as np

from medi_monai.utils.errors import InputError

__all__ = ["symmetric_correlation", "turned", "wilson_interval"]


def turned(images: np.ndarray, symmetry: int) -> np.ndarray:
    """Square images ``(N, S, S, C)`` under one of the eight symmetries of the square, 0 to 7; 0 leaves them."""
    mirrored = images[:, :, ::-1] if symmetry >= 4 else images
    return np.rot90(mirrored, symmetry % 4, axes=(1, 2))


def symmetric_correlation(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How alike two images are under the best of the eight symmetries of the square.

    Both are brought to the mean 0 and the length 1 over pixels and channels, so that a copy in another brightness or
    contrast is a copy still.

    Args:
        images: ``(N, S, S, 3)`` uint8.
        others: ``(N, S, S, 3)``, compared one by one.

    Returns:
        ``(N,)`` correlations, 1 for a copy that was turned or mirrored; NaN where an image is of one color. And the
        ``(N,)`` symmetries of the others under which they are found, as :func:`turned` takes them.
    """
    if images.shape != others.shape or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise InputError(f"pairs of square images are needed, not {images.shape} and {others.shape}")
    first = _normalized(images)
    found = np.stack([np.einsum("ni,ni->n", first, _normalized(turned(others, number))) for number in range(8)])
    # NaN under one symmetry is NaN under all
    best = found.argmax(0)
    return np.minimum(found[best, np.arange(len(images))], 1.0), best


def _normalized(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.full_like(flat, np.nan), where=length > 0)


def wilson_interval(count: float, n: float) -> list[float] | None:
    """The 95 % interval of a share ``count / n`` (Wilson 1927); ``None`` for n of 0.

    Of a weighted share, ``n`` is the effective number, ``(sum of weights)^2 / sum of squares`` (Kish 1965), and
    ``count`` the share of it.
    """
    if n == 0:
        return None
    z = 1.959963984540054
    share, spread = count / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]
