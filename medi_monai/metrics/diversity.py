"""Diversity of a set of images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from medi_monai.metrics.moments import Features, feature_blocks
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["ms_ssim_diversity", "relative_spread"]

#: exponents of the scales, from fine to coarse (Wang, Simoncelli & Bovik 2003)
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: minimum shorter side in pixels for 1, 2, … scales: a window of 11 px has to fit into the coarsest scale, each scale
#: halves the image, and torchmetrics requires more than 10 (scales - 1)^2
SHORTEST_SIDE = (11, 22, 44, 99, 176)
#: number of pairs of images compared at once
BATCH = 64


def ms_ssim_diversity(images: Features, num_pairs: int = 1000, seed: int = 0) -> dict:
    """Return one minus the mean multi-scale structural similarity (MS-SSIM) over pairs of different images.

    It is 0 if all images are identical, as after mode collapse, and has no ideal value: compare it with that of the
    same number of real images. All five scales are used for a shorter side of 176 px or more, 4 from 99, 3 from 44, 2
    from 22 and 1 from 11, with a Gaussian window of 11 px; the exponents used are rescaled to a sum of 1. Values for
    different image sizes are therefore not comparable.

    Args:
        images: ``(N, 3, H, W)`` uint8, at least 11 px per side.
        num_pairs: number of distinct pairs to draw; all pairs if there are no more.
        seed: seed of the draw.

    Returns:
        ``value`` and ``standard_error`` (pairs that share an image are not independent: Aronow, Samii & Assenova 2015,
        eq. 3), ``n`` images, ``num_pairs`` and ``num_scales``. The value is ``None`` for fewer than two images, the
        standard error for fewer than two pairs.

    Raises:
        InputError: for images of the wrong type or shape, images that are too small, or ``num_pairs`` below 1.
    """
    if tuple(images.shape[1:2]) != (3,) or images.ndim != 4 or str(images.dtype) not in ("uint8", "torch.uint8"):
        raise InputError(f"images have to be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}")
    if num_pairs < 1:
        raise InputError(f"num_pairs = {num_pairs}: give 1 or more")
    side = min(images.shape[2:])
    num_scales = sum(side >= shortest for shortest in SHORTEST_SIDE)
    if not num_scales:
        raise InputError(
            f"images of {side} px are too small for structural similarity: at least {SHORTEST_SIDE[0]} px are needed"
        )
    n = len(images)
    pairs = _draw_pairs(n, num_pairs, seed)
    similarity = _similarities(images, pairs, num_scales)
    return {
        "value": 1 - float(similarity.mean()) if len(pairs) else None,
        "standard_error": _standard_error(similarity, pairs, n) if len(pairs) > 1 else None,
        "n": n,
        "num_pairs": len(pairs),
        "num_scales": num_scales,
    }


def relative_spread(features: Features) -> float | None:
    """Return how much features differ between images, relative to their length.

    This is half the mean squared distance of two different rows, divided by the mean squared length of a row, or the
    trace of the covariance over the mean squared length. For features of equal length, it is one minus the mean cosine
    of two different rows: 0 if all rows are equal, 1 if they are unrelated.

    Args:
        features: ``(N, D)`` features, one row per image; they may be memory-mapped.

    Returns:
        The spread, 0 if all features are 0; None for fewer than two rows.
    """
    if len(features) < 2:
        return None
    # centered, so that a small spread is not lost to rounding
    count, mean = len(features), sum(block.sum(0) for block in feature_blocks(features)) / len(features)
    scatter = sum(float(((block - mean) ** 2).sum()) for block in feature_blocks(features))
    length = sum(float((block**2).sum()) for block in feature_blocks(features)) / count
    return scatter / (count - 1) / length if length > 0 else 0.0


def _draw_pairs(n: int, num_pairs: int, seed: int) -> np.ndarray:
    # pair number p is (i, j) with j < i, and p = i (i - 1) / 2 + j
    total = n * (n - 1) // 2
    rng = np.random.default_rng(seed_from("ms-ssim pairs", seed))
    numbers = np.arange(total) if total <= num_pairs else rng.choice(total, num_pairs, replace=False)
    second = np.floor((1 + np.sqrt(1 + 8 * numbers.astype(float))) / 2).astype(np.int64)
    return np.stack([numbers - second * (second - 1) // 2, second], axis=1)


def _similarities(images: Features, pairs: np.ndarray, num_scales: int) -> np.ndarray:
    weights = tuple(weight / sum(WEIGHTS[:num_scales]) for weight in WEIGHTS[:num_scales])
    by_batch = [torch.zeros(0)]
    for start in range(0, len(pairs), BATCH):
        first, second = (torch.as_tensor(images[rows]).float() / 255 for rows in pairs[start : start + BATCH].T)
        similarity = multiscale_structural_similarity_index_measure(
            first, second, data_range=1.0, betas=weights, reduction="none"
        )
        by_batch.append(similarity.reshape(-1).cpu())
    return torch.cat(by_batch).double().numpy()


def _standard_error(values: np.ndarray, pairs: np.ndarray, n: int) -> float:
    errors = values - values.mean()
    of_image = np.bincount(pairs.ravel(), weights=np.repeat(errors, 2), minlength=n)
    # every pair counts for both of its images; with few images, the sum can fall below that of independent pairs
    independent = float((errors**2).sum())
    return math.sqrt(max(float((of_image**2).sum()) - independent, independent)) / len(values)
