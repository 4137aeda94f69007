"""Subgroup proportions, their distance to a target, and their correction for misclassification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from medi_monai.metrics.resampling import figure, interval_around, wilson_interval
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = [
    "corrected_proportions",
    "distance_to_target",
    "kl_divergence",
    "proportions",
    "solve_proportions",
    "total_variation",
]

NUM_REPLICATES = 1000
#: smallest singular value of a row-normalized confusion matrix below which some subgroups are indistinguishable
LEAST_SINGULAR_VALUE = 0.02
#: weight, in least squares, of the constraint that shares sum to 1
SUM_WEIGHT = 1e4


def proportions(counts: np.ndarray) -> list[dict[str, Any]]:
    """Return the share of each subgroup as a figure with Wilson's 95% interval.

    Args:
        counts: ``(G,)`` number of images per subgroup.

    Returns:
        For each subgroup, ``{"value", "ci95", "n"}``, where n is the total number of images; the value is ``None``
        without images.
    """
    counts = _checked_counts(counts)
    n = int(counts.sum())
    return [
        {"value": int(count) / n if n else None, "ci95": wilson_interval(int(count), n), "n": n} for count in counts
    ]


def total_variation(shares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the total variation (half the sum of absolute differences) of ``(…, G)`` shares; NaN if a share is NaN."""
    return 0.5 * np.abs(np.asarray(shares, float) - np.asarray(target, float)).sum(-1)


def kl_divergence(shares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return KL(shares || target) in nats, for ``(…, G)`` shares.

    In this direction, the distance is finite if a subgroup is absent, and infinite if a subgroup occurs whose target
    share is 0. It is NaN if a share is NaN.
    """
    shares, target = np.broadcast_arrays(np.asarray(shares, float), np.asarray(target, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares == 0, 0.0, shares * np.log(shares / target))
    return np.maximum(terms.sum(-1), 0.0)


def distance_to_target(
    counts: np.ndarray, target: np.ndarray, num_replicates: int = NUM_REPLICATES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return total variation and Kullback-Leibler divergence from the target, with bootstrap intervals.

    The interval is shifted from the mean of the replicates to the value, because resampling increases distances. It
    starts at 0 if the value is within the 95% range of samples from the target itself. In simulations of 500 images in
    two and four subgroups, coverage was 92 to 100%.

    Args:
        counts: ``(G,)`` number of images per subgroup, drawn independently.
        target: ``(G,)`` shares that sum to 1.
        num_replicates: number of bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        ``total_variation`` and ``kl`` as figures; ``None`` without images, and for an infinite distance.
    """
    counts, target = _checked_counts(counts), _checked_target(target, len(counts))
    n = int(counts.sum())
    if n == 0:
        nothing = np.empty((0, len(counts)))
        return _distances(np.full(len(counts), np.nan), nothing, nothing, target, 0)
    rng = np.random.default_rng(seed_from("distance to target", seed))
    replicates, on_target = (rng.multinomial(n, shares, num_replicates) / n for shares in (counts / n, target))
    return _distances(counts / n, replicates, on_target, target, n)


def corrected_proportions(
    counts: np.ndarray,
    confusion: np.ndarray,
    target: np.ndarray | None = None,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
    design_effect: float = 1.0,
) -> dict[str, Any]:
    """Return subgroup shares corrected for misclassification (Rogan and Gladen 1978, for several classes).

    Predicted shares are ``q = Mᵀ p`` of the true shares p, with ``M[j, k]`` the probability that subgroup j is
    predicted as k; p is obtained by inversion, or by least squares among valid shares if the inverse has negative ones.
    This assumes that the classifier has the same error rates on generated images as on those of ``confusion``.

    The interval is a parametric bootstrap over the images and over those of the confusion matrix, both drawn from
    shares with one additional image spread over all cells, because a subgroup without observed errors may have some.
    The images of the confusion matrix are real ones, several of a patient, whose errors are alike: each counts as
    ``1 / design_effect`` images (Kish 1965), so that the interval is that of other patients. With 15 patients per row,
    coverage was 96% in a simulation, and 84% without it (93 and 88% with 40 patients).

    In simulations of two subgroups of independent images (300 to 600 images, 60 to 200 per row of the confusion
    matrix), coverage was 93 to 99% for the shares and 93 to 100% for the distances, but 85% for total variation and 70%
    for Kullback-Leibler divergence if a subgroup is truly absent.

    Args:
        counts: ``(G,)`` number of images predicted as each subgroup.
        confusion: ``(G, G)`` counts of images that the classifier was not trained on, true by predicted subgroup.
        target: ``(G,)`` target shares, for the distances of the corrected shares.
        num_replicates: number of bootstrap samples.
        seed: seed of the bootstrap.
        design_effect: variance of the rates of ``confusion`` over patients, relative to that over independent images;
            1 if images are independent.

    Returns:
        ``proportions``: figure for each subgroup; ``inside``: whether the inverse had no negative share; ``undefined``:
        ``None``, or the reason why there are no figures; ``n`` images, and ``confusion_n`` per true subgroup; with a
        target, ``total_variation`` and ``kl``. Figures are ``None`` without images, if the confusion matrix has no
        images of a subgroup, and if the classifier cannot distinguish subgroups.
    """
    counts, confusion = _checked_counts(counts), np.asarray(confusion)
    if confusion.shape != (len(counts), len(counts)) or (confusion < 0).any():
        raise InputError(f"a {confusion.shape} confusion matrix does not match {len(counts)} subgroups: (G, G) needed")
    n, size = int(counts.sum()), confusion.sum(1)
    undefined = _why_undefined(n, size, confusion)
    shares, inside = np.full(len(counts), np.nan), None
    replicates = on_target = np.empty((0, len(counts)))
    wanted = None if target is None else _checked_target(target, len(counts))
    if undefined is None:
        rates = confusion / size[:, None]
        shares, inside = solve_proportions(counts / n, rates)
        rng = np.random.default_rng(seed_from("corrected proportions", seed))
        effective = np.maximum(1, np.round(size / max(1.0, design_effect))).astype(int)
        replicates = _replicates(counts / n, n, rates, effective, num_replicates, rng)
        if wanted is not None:
            on_target = _replicates(wanted @ rates, n, rates, effective, num_replicates, rng)
    results: dict[str, Any] = {
        "proportions": [figure(float(share), replicates[:, group], n) for group, share in enumerate(shares)],
        "inside": inside,
        "undefined": undefined,
        "n": n,
        "confusion_n": [int(count) for count in size],
    }
    if wanted is not None:
        results |= _distances(shares, replicates, on_target, wanted, n)
    return results


def solve_proportions(predicted: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the non-negative shares p for which ``ratesᵀ p`` is closest to the predicted shares.

    Args:
        predicted: ``(G,)`` predicted shares.
        rates: ``(G, G)`` probability that each true subgroup (row) is predicted as each subgroup; rows sum to 1.

    Returns:
        ``(G,)`` shares, and whether they are an exact solution; NaN if the rates cannot be inverted.
    """
    try:
        shares = np.linalg.solve(rates.T, predicted)
    except np.linalg.LinAlgError:
        return np.full(len(predicted), np.nan), False
    if (shares >= -1e-12).all():
        return np.clip(shares, 0, 1), True
    equations = np.vstack([rates.T, np.full(len(predicted), SUM_WEIGHT)])
    shares = nnls(equations, np.append(predicted, SUM_WEIGHT))[0]
    return shares / shares.sum(), False


def _why_undefined(n: int, size: np.ndarray, confusion: np.ndarray) -> str | None:
    if n == 0:
        return "no image was classified"
    if not size.all():
        return f"the confusion matrix has no image of {int((size == 0).sum())} of {len(size)} subgroups"
    least = np.linalg.svd(confusion / size[:, None], compute_uv=False).min()
    if least < LEAST_SINGULAR_VALUE:
        return f"the classifier cannot distinguish some subgroups better than chance (singular value {least:.3g})"
    return None


def _replicates(
    read_shares: np.ndarray, n: int, rates: np.ndarray, size: np.ndarray, number: int, rng: np.random.Generator
) -> np.ndarray:
    # rates: (G, G) observed, each row on size images
    groups = len(read_shares)
    predicted = rng.multinomial(n, (n * read_shares + 1 / groups) / (n + 1), number) / n
    smoothed = (size[:, None] * rates + 1 / groups) / (size + 1)[:, None]
    drawn = np.stack([rng.multinomial(size[row], smoothed[row], number) / size[row] for row in range(groups)], axis=1)
    try:
        shares = np.linalg.solve(drawn.swapaxes(1, 2), predicted[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        shares = np.full(predicted.shape, -1.0)
    for row in np.flatnonzero((shares < 0).any(1)):
        shares[row] = solve_proportions(predicted[row], drawn[row])[0]
    return shares


def _distances(
    shares: np.ndarray, replicates: np.ndarray, on_target: np.ndarray, target: np.ndarray, n: int
) -> dict[str, dict[str, Any]]:
    results = {}
    for name, distance in (("total_variation", total_variation), ("kl", kl_divergence)):
        value = float(distance(shares, target))
        interval = interval_around(value, distance(replicates, target))
        if interval is None:
            results[name] = figure(value, n=n)
            continue
        by_chance = value <= np.quantile(distance(on_target, target), 0.95)
        results[name] = {"value": value, "ci95": [0.0 if by_chance else max(0.0, interval[0]), interval[1]], "n": n}
    return results


def _checked_counts(counts: np.ndarray | Sequence[int]) -> np.ndarray:
    known = np.asarray(counts)
    if known.ndim != 1 or len(known) < 2 or (known < 0).any() or (known != np.round(known)).any():
        raise InputError(f"counts have to be non-negative integers for at least two subgroups, not {counts}")
    return known.astype(np.int64)


def _checked_target(target: np.ndarray, groups: int) -> np.ndarray:
    shares = np.asarray(target, float)
    if shares.shape != (groups,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"the target has to be {groups} shares that sum to 1, not {target}")
    return shares
