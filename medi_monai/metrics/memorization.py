"""Whether a generative model repeats its training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medi_monai.metrics.neighbors import nearest_neighbors
from medi_monai.metrics.resampling import normal_interval
from medi_monai.utils.errors import InputError

__all__ = ["nearer_share", "symmetric_correlation", "turned"]


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
    correlations = np.stack([np.einsum("ni,ni->n", first, _normalized(turned(others, number))) for number in range(8)])
    # NaN under one symmetry is NaN under all
    best = correlations.argmax(0)
    return np.minimum(correlations[best, np.arange(len(images))], 1.0), best


def _normalized(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, length, out=np.full_like(flat, np.nan), where=length > 0)


def nearer_share(generated: torch.Tensor, training: Sequence[torch.Tensor], fresh: torch.Tensor) -> dict[str, Any]:
    """How often a generated image is nearer to the training images than to as many that the model never saw.

    One half where nothing was memorized, for then the two sets are exchangeable, however smooth generated images are
    (the idea of the three-sample test of Meehan et al., arXiv 2004.05675, without its cells).

    Args:
        generated: ``(N, D)`` features.
        training: choices of training images, each of the size of ``fresh``, ``(M, D)``.
        fresh: ``(M, D)`` of the same distribution.

    Returns:
        ``value``, the mean over the choices; ``ci95`` of the normal approximation, whose variance is that of N images
        and that between choices, in place of that of the one set of fresh images; ``n``.

    Raises:
        InputError: for choices of another size than the fresh images.
    """
    if not training or any(len(choice) != len(fresh) for choice in training):
        sizes = [len(choice) for choice in training]
        raise InputError(
            f"each sample of training images must have {len(fresh)} images, like the unseen ones, not {sizes}"
        )
    to_fresh = nearest_neighbors(generated, fresh)[0][:, 0]
    shares = []
    for choice in training:
        to_training = nearest_neighbors(generated, choice)[0][:, 0]
        shares.append(float(((to_training < to_fresh).double() + (to_training == to_fresh).double() / 2).mean()))
    value, n = float(np.mean(shares)), len(generated)
    error = math.sqrt(value * (1 - value) / n + (float(np.var(shares, ddof=1)) if len(shares) > 1 else 0.0))
    return {"value": value, "ci95": normal_interval(value, error, 0.0, 1.0), "n": n}
