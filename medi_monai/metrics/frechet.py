"""Fréchet distance between two sets of features, each modeled as a Gaussian."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
import torch

from medi_monai.metrics.moments import Features, Moments, as_features, feature_shape
from medi_monai.metrics.resampling import PatientSampler, figure, interval_around
from medi_monai.metrics.threads import threads_for
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["frechet_distance", "frechet_distance_of_moments", "frechet_distance_with_interval"]

#: relative rounding error of the distance above which the slower, exact method is used
TOLERANCE = 1e-7


def frechet_distance_of_moments(first: Moments, second: Moments) -> float:
    """Return ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the square roots of the eigenvalues of ``S1 S2``, a symmetric problem if ``S1``
    has full rank. Roots of small eigenvalues lose precision: if the error could reach 1e-7 of the distance (singular or
    nearly singular covariances, or nearly equal sets), the trace is computed as the sum of the singular values of
    ``S1^(1/2) S2^(1/2)``, which are exact to rounding and take four times as long.

    Args:
        first: moments of one set, with at least two images.
        second: moments of the other set, with at least two images.

    Returns:
        A distance of 0 or more, in squared units of the features. It has a positive bias, which falls with the number
        of images: compare sets of equal size, and report the distance between real images as well.

    Raises:
        InputError: for a set of fewer than two images, or different dimensions.
    """
    _check_dims(first.dim, second.dim)
    covariance, other_covariance = (moments.covariance.cpu().numpy() for moments in (first, second))
    shift = (first.mean.cpu() - second.mean.cpu()).square().sum()
    total = float(shift) + float(np.trace(covariance) + np.trace(other_covariance))
    with threads_for(first.dim):
        trace, error = _trace_by_eigenvalues(covariance, other_covariance)
        if not 2 * error <= TOLERANCE * (total - 2 * trace):
            trace = float(np.linalg.svd(_root(covariance).T @ _root(other_covariance), compute_uv=False).sum())
    return max(total - 2 * trace, 0.0)


def frechet_distance(first: Features, second: Features) -> float:
    """Return :func:`frechet_distance_of_moments` for features ``(N1, D)`` and ``(N2, D)``.

    With fewer images than dimensions, the trace of the root is the sum of the singular values of the ``(N1, N2)``
    product of the two centered arrays: the same value, without a ``D x D`` matrix.

    Raises:
        InputError: for a set of fewer than two images, different dimensions, or values that are not finite.
    """
    (count, dim), (other_count, other_dim) = feature_shape(first), feature_shape(second)
    _check_dims(dim, other_dim)
    if max(count, other_count) >= dim:
        return frechet_distance_of_moments(Moments.of(first), Moments.of(second))
    rows = as_features(first)
    others = as_features(second).to(rows)
    centered, other_centered = _centered(rows), _centered(others)
    cross = torch.linalg.svdvals(centered @ other_centered.T).sum()
    shift = (rows.mean(0) - others.mean(0)).square().sum()
    return max(float(shift + centered.square().sum() + other_centered.square().sum() - 2 * cross), 0.0)


def frechet_distance_with_interval(
    first: Features,
    second: Features,
    first_patients: np.ndarray | None = None,
    second_patients: np.ndarray | None = None,
    num_replicates: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Return :func:`frechet_distance` with a 95% bootstrap interval, over images or patients.

    Bootstrap samples contain fewer distinct images, so their distance is larger than that of the original images, and
    a percentile interval would lie above the value. It is therefore shifted from the mean of the replicates to the
    value (:func:`medi_monai.metrics.interval_around`), and truncated at 0. It is an interval for the distance at these
    numbers of images, and has the same positive bias as the value.

    Args:
        first: ``(N1, D)`` features of one set, with at least two images.
        second: ``(N2, D)`` features of the other set, with at least two images.
        first_patients: ``(N1,)`` patients, whose images are resampled together; images of a single patient are
            resampled individually.
        second_patients: ``(N2,)`` patients of the second set; None for generated images.
        num_replicates: number of bootstrap samples, at least 2.
        seed: seed of the bootstrap.

    Returns:
        ``value``, ``ci95``, and ``n``, the number of images of the smaller set.

    Raises:
        InputError: as for :func:`frechet_distance`, for patients that do not match the images, or too few replicates.

    Example:
        >>> import numpy as np
        >>> from medi_monai.metrics import frechet_distance_with_interval
        >>> rng = np.random.default_rng(0)
        >>> real, generated = rng.normal(0, 1, (300, 4)), rng.normal(1, 1, (200, 4))
        >>> distance = frechet_distance_with_interval(real, generated)
        >>> print(round(distance["value"], 1), [round(edge, 1) for edge in distance["ci95"]], distance["n"])
        4.1 [3.5, 4.9] 200
    """
    if num_replicates < 2:
        raise InputError(f"an interval needs at least two replicates, not {num_replicates}")
    value, rng = frechet_distance(first, second), np.random.default_rng(seed_from("frechet distance", seed))
    samplers = [_sampler(first_patients, len(first)), _sampler(second_patients, len(second))]
    replicates = []
    for _ in range(num_replicates):
        rows, other_rows = (sampler.draw(rng) for sampler in samplers)
        replicates.append(frechet_distance(first[rows], second[other_rows]))
    interval = interval_around(value, np.array(replicates), lowest=0.0)
    return {**figure(value, n=min(len(first), len(second))), "ci95": interval}


def _sampler(patients: np.ndarray | None, count: int) -> PatientSampler:
    if patients is not None and len(patients) != count:
        raise InputError(f"{len(patients)} patients do not match {count} images: give one patient per image")
    several = patients is not None and len(np.unique(np.asarray(patients))) > 1
    return PatientSampler(np.asarray(patients) if several else np.arange(count))


def _trace_by_eigenvalues(covariance: np.ndarray, other_covariance: np.ndarray) -> tuple[float, float]:
    # tr (S1 S2)^(1/2), and a bound of its rounding error
    try:
        values = scipy.linalg.eigh(
            other_covariance, covariance, type=2, eigvals_only=True, driver="gv", check_finite=False
        )
    except scipy.linalg.LinAlgError:  # S1 is singular
        return math.nan, math.nan
    values = values.clip(min=0)
    noise = float(np.finfo(float).eps * np.linalg.norm(covariance) * np.linalg.norm(other_covariance))
    roots = np.sqrt(values)
    return float(roots.sum()), float((np.sqrt(values + noise) - roots).sum())


def _root(covariance: np.ndarray) -> np.ndarray:
    # (D, rank): its product with its own transpose is the covariance; eigenvalues that are only rounding error are left
    # out, because their roots are not small
    values, vectors = np.linalg.eigh(covariance)
    known = values > values[-1] * len(values) * np.finfo(float).eps
    return vectors[:, known] * np.sqrt(values[known])


def _centered(features: torch.Tensor) -> torch.Tensor:
    # the product of its transpose with itself is the covariance
    if len(features) < 2:
        raise InputError(f"a covariance needs at least two images, not {len(features)}")
    return (features - features.mean(0)) / math.sqrt(len(features) - 1)


def _check_dims(first: int, second: int) -> None:
    if first != second:
        raise InputError(f"features of {first} and {second} dimensions: embed both sets with the same encoder")
