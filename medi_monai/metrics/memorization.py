"""Memorization: measures of whether a generative model reproduces its training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medi_monai.metrics.neighbors import nearest_neighbors
from medi_monai.metrics.resampling import normal_interval
from medi_monai.utils.errors import InputError

__all__ = ["nearer_share"]


def nearer_share(generated: torch.Tensor, training: Sequence[torch.Tensor], fresh: torch.Tensor) -> dict[str, Any]:
    """Return how often a generated image is closer to training images than to as many unseen images.

    It is one half without memorization, because the two sets are then exchangeable, however smooth generated images are
    (the idea of the three-sample test of Meehan et al., arXiv 2004.05675, without its cells).

    Args:
        generated: ``(N, D)`` features of generated images.
        training: samples of training images, each ``(M, D)`` like ``fresh``.
        fresh: ``(M, D)`` features of unseen images from the same distribution.

    Returns:
        ``value``, the mean over the samples; ``ci95`` by the normal approximation, with the variance over the N images
        plus that between samples, which stands in for the variance due to the single set of unseen images; ``n``.

    Raises:
        InputError: for samples that differ in size from the unseen images.
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
