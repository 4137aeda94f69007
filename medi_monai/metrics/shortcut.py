"""Shortcut metrics of published benchmarks: accuracy lost as class and center become correlated, and clustering."""

from __future__ import annotations

import numpy as np
from scipy.integrate import trapezoid

from medi_monai.metrics.association import contingency_table
from medi_monai.utils.errors import InputError

__all__ = [
    "adjusted_rand_index",
    "average_performance_drop",
    "clustering_score",
    "degradation_gradient",
    "integrated_degradation",
    "mean_silhouette",
]


def average_performance_drop(accuracies: np.ndarray) -> np.ndarray:
    """Return the average performance drop of PathoROB in each repeat (arXiv 2507.17845).

    It is the mean over correlated training sets of ``accuracy / accuracy at the lowest correlation``, minus 1: 0 is no
    drop, -0.2 a loss of one fifth. The benchmark reports the mean over repeats.

    Args:
        accuracies: ``(L, R)`` balanced accuracies, L levels of the correlation in ascending order by R repeats.

    Returns:
        ``(R,)`` drops; NaN for a single level, and where an accuracy is missing or the first is 0.

    Raises:
        InputError: if ``accuracies`` does not have two dimensions.
    """
    scores = _checked(accuracies)
    if len(scores) < 2:
        return np.full(scores.shape[1], np.nan)
    return (scores[1:] / np.where(scores[0] > 0, scores[0], np.nan)).mean(0) - 1


def integrated_degradation(accuracies: np.ndarray, levels: np.ndarray, chance: float) -> float:
    """Return croma's nIPD, the normalized integrated performance degradation (arXiv 2607.25497).

    Accuracies are averaged over repeats; ``g(V) = (accuracy(V) - accuracy(0)) / (accuracy(0) - chance)`` is the share
    of the accuracy above chance that is lost at Cramér's V of class and center, and the figure its integral over V from
    0 to 1 (trapezoids). 0 is no loss, -0.5 a steady fall to chance.

    Args:
        accuracies: ``(L, R)`` balanced accuracies, L levels by R repeats.
        levels: ``(L,)`` Cramér's V of the levels, ascending.
        chance: balanced accuracy at chance, 1 / number of classes.

    Returns:
        The figure; NaN if the levels do not reach from 0 to 1, an accuracy is missing, or the mean accuracy at 0 is not
        above chance.

    Raises:
        InputError: for another number of levels than of rows, or levels that do not ascend.
    """
    scores, levels = _checked(accuracies), np.asarray(levels, float)
    if levels.shape != scores.shape[:1] or not (np.diff(levels) > 0).all():
        raise InputError(f"levels {levels.tolist()} must ascend, one for each of {len(scores)} rows of accuracies")
    if not len(levels) or not np.allclose(levels[[0, -1]], (0, 1)):
        return float("nan")
    mean = scores.mean(1)
    if not mean[0] > chance:
        return float("nan")
    return float(trapezoid((mean - mean[0]) / (mean[0] - chance), levels))


def degradation_gradient(accuracies: np.ndarray, levels: np.ndarray, chance: float) -> np.ndarray:
    """Return the derivative of :func:`integrated_degradation` by the mean accuracy at each level.

    With A the integral of the accuracy, the figure is ``(A - chance) / (accuracy(0) - chance) - 1``.

    Args:
        accuracies: ``(L,)`` mean accuracies, the first above chance.
        levels: ``(L,)`` Cramér's V of the levels, ascending from 0 to 1.
        chance: balanced accuracy at chance.

    Returns:
        ``(L,)`` derivatives, with which the variance of the figure is that of a sum (delta method).
    """
    weights, above = trapezoid(np.eye(len(levels)), levels, axis=1), accuracies[0] - chance
    gradient = weights / above
    gradient[0] -= (weights @ accuracies - chance) / above**2
    return gradient


def clustering_score(labels: np.ndarray, centers: np.ndarray, clusters: np.ndarray) -> float:
    """Return the clustering score of PathoROB (arXiv 2507.17845): do clusters follow the class or the center?

    It is the adjusted Rand index of classes and clusters minus that of centers and clusters: 1 if clusters are the
    classes, -1 if they are the centers.

    Args:
        labels: ``(N,)`` class codes.
        centers: ``(N,)`` center codes.
        clusters: ``(N,)`` cluster codes.
    """
    return adjusted_rand_index(labels, clusters) - adjusted_rand_index(centers, clusters)


def adjusted_rand_index(first: np.ndarray, second: np.ndarray) -> float:
    """Return the agreement of two partitions, corrected for chance (Hubert & Arabie 1985, eq. 5), in double precision.

    Args:
        first: ``(N,)`` non-negative codes.
        second: ``(N,)`` non-negative codes.

    Returns:
        1 for equal partitions, 0 as expected by chance; 1 if both consist of one part, or of single rows.
    """
    table = contingency_table(first, second).astype(float)
    both, of_first, of_second = (_num_pairs(counts) for counts in (table, table.sum(1), table.sum(0)))
    expected = of_first * of_second / max(1.0, _num_pairs(table.sum()))
    largest = (of_first + of_second) / 2
    return float((both - expected) / (largest - expected)) if largest > expected else 1.0


def mean_silhouette(distances: np.ndarray, clusters: np.ndarray) -> float:
    """Return the mean silhouette (Rousseeuw 1987): how much nearer images are to their own cluster than to the next.

    Args:
        distances: ``(N, N)`` distances of all pairs.
        clusters: ``(N,)`` cluster codes.

    Returns:
        Mean of ``(b - a) / max(a, b)``, from -1 to 1; 0 for the only image of a cluster; NaN for a single cluster.
    """
    names, codes = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return float("nan")
    rows, members = np.arange(len(codes)), np.eye(len(names))[codes]
    sizes, sums = members.sum(0), distances @ members
    own = sums[rows, codes] / np.maximum(1, sizes[codes] - 1)
    means = sums / sizes
    means[rows, codes] = np.inf
    nearest = means.min(1)
    larger = np.maximum(own, nearest)
    defined = (sizes[codes] > 1) & (larger > 0)
    return float(np.where(defined, (nearest - own) / np.where(larger > 0, larger, 1), 0).mean())


def _num_pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1) / 2).sum())


def _checked(accuracies: np.ndarray) -> np.ndarray:
    scores = np.asarray(accuracies, float)
    if scores.ndim != 2:
        raise InputError(f"accuracies have the shape {scores.shape}: give levels by repeats, two dimensions")
    return scores
