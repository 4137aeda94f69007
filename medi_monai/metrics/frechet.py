"""Fréchet distance between two sets of features, each taken for a Gaussian."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch

from medi_monai.metrics.moments import Features, Moments, as_features, feature_shape
from medi_monai.metrics.threads import threads_for
from medi_monai.utils.errors import InputError

__all__ = ["frechet_distance", "frechet_distance_of_moments"]

#: share of the distance that rounding may take from it before the slower of both ways is gone
TOLERANCE = 1e-7


def frechet_distance_of_moments(first: Moments, second: Moments) -> float:
    """``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of ``S1 S2``, a symmetric problem where ``S1`` has
    full rank. Roots of small eigenvalues lose digits: where that could be 1e-7 of the distance (singular or nearly
    singular covariances, or sets that hardly differ), it is the sum of the singular values of ``S1^(1/2) S2^(1/2)``,
    which are exact to rounding and take four times as long.

    Args:
        first: of one set, two images or more.
        second: of the other.

    Returns:
        0 or more, in squared units of the features. It is biased upwards by a term that falls with the number of
        images: compare sets of one size, and read it beside the distance of real images to real ones.

    Raises:
        InputError: for fewer than two images in either, or other dimensions.
    """
    _check_dims(first.dim, second.dim)
    one, two = (moments.covariance.cpu().numpy() for moments in (first, second))
    apart = (first.mean.cpu() - second.mean.cpu()).square().sum()
    total = float(apart) + float(np.trace(one) + np.trace(two))
    with threads_for(first.dim):
        trace, error = _trace_by_eigenvalues(one, two)
        if not 2 * error <= TOLERANCE * (total - 2 * trace):
            trace = float(np.linalg.svd(_root(one).T @ _root(two), compute_uv=False).sum())
    return max(total - 2 * trace, 0.0)


def frechet_distance(first: Features, second: Features) -> float:
    """:func:`frechet_distance_of_moments` of two arrays ``(N1, D)`` and ``(N2, D)``.

    Where there are fewer images than dimensions, the trace of the root is the sum of the singular values of the product
    of both centered arrays, ``(N1, N2)``: the same number, without a matrix of ``D x D``.

    Raises:
        InputError: for fewer than two images in either, other dimensions, or values that are not finite.
    """
    (count, dim), (other_count, other_dim) = feature_shape(first), feature_shape(second)
    _check_dims(dim, other_dim)
    if max(count, other_count) >= dim:
        return frechet_distance_of_moments(Moments.of(first), Moments.of(second))
    rows = as_features(first)
    others = as_features(second).to(rows)
    one, two = _centered(rows), _centered(others)
    cross = torch.linalg.svdvals(one @ two.T).sum()
    apart = (rows.mean(0) - others.mean(0)).square().sum()
    return max(float(apart + one.square().sum() + two.square().sum() - 2 * cross), 0.0)


def _trace_by_eigenvalues(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    # tr (S1 S2)^(1/2), and what rounding may have done to it
    try:
        values = scipy.linalg.eigh(two, one, type=2, eigvals_only=True, driver="gv", check_finite=False)
    except scipy.linalg.LinAlgError:  # S1 is singular
        return math.nan, math.nan
    values = values.clip(min=0)
    noise = float(np.finfo(float).eps * np.linalg.norm(one) * np.linalg.norm(two))
    roots = np.sqrt(values)
    return float(roots.sum()), float((np.sqrt(values + noise) - roots).sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    # (D, rank): its product with its own transpose is the covariance; eigenvalues that are rounding alone are left out,
    # for their roots are not small
    values, vectors = np.linalg.eigh(covariance)
    known = values > values[-1] * len(values) * np.finfo(float).eps
    return vectors[:, known] * np.sqrt(values[known])


def _centered(features: torch.Tensor) -> torch.Tensor:
    # the product of its transpose with itself is the covariance
    if len(features) < 2:
        raise InputError(f"a covariance needs two images or more, not {len(features)}")
    return (features - features.mean(0)) / math.sqrt(len(features) - 1)


def _check_dims(first: int, second: int) -> None:
    if first != second:
        raise InputError(f"features of {first} and of {second} dimensions: embed both sets with one encoder")
