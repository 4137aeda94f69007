"""Intervals of the robustness index and the clustering score, over the patients of balanced pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse
from scipy.special import expit

from medi_monai.metrics.components import Estimate, Source, cluster_weights
from medi_monai.metrics.neighbors import neighbor_pairs
from medi_monai.utils.seeding import seed_from

__all__ = ["clustering_interval", "patient_strata", "robustness_interval"]

#: half-samples of the patients for the interval of the clustering score, and clusterings of each pair in one of them
HALF_SAMPLES, CLUSTERINGS = 24, 4

#: adjusted Rand indices ``(class, center)``, as a function of points, classes, centers, number of clusters, number of
#: clusterings and random generator
Agreements = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int, np.random.Generator], Sequence[float]]


def robustness_interval(
    neighbors: Sequence[np.ndarray],
    pairs: Sequence[np.ndarray],
    labels: np.ndarray,
    centers: np.ndarray,
    patients: np.ndarray,
    num_replicates: int,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95% interval of the robustness index over patients.

    Patients are resampled within their class and center (all together if some have several), the same sample in all
    pairs. A neighbor counts as often as its patient times that of the image; of the same patient, as often as this
    one. The variance over the samples is that of the log odds, with Student's t. It counts that other patients would
    be other images and other neighbors; ``k``, the pairs, and the neighbors of each image are those of the data.

    Args:
        neighbors: ``(N, k)`` nearest neighbors in each pair, of
            :func:`~medi_monai.metrics.neighbors.ranked_neighbors`.
        pairs: row numbers of each pair.
        labels: class codes of all rows.
        centers: center codes of all rows.
        patients: patients of all rows.
        num_replicates: number of bootstrap samples.
        seed: seed of the samples.

    Returns:
        Both ends, in [0, 1]; None if no class and center has two patients, or all neighbors that count are of one kind.
    """
    unit, strata = _units(pairs, labels, centers, patients)
    counts = [
        neighbor_pairs(near, labels[rows], centers[rows], unit[rows], len(strata))
        for near, rows in zip(neighbors, pairs)
    ]
    good, bad = (sum(kind[1:], start=kind[0]) for kind in zip(*counts))
    rng = np.random.default_rng(seed_from("patients of the robustness index", seed))
    weights, df = cluster_weights(np.arange(len(strata)), strata, num_replicates, rng)
    of_good, of_bad = _weighted(good, weights), _weighted(bad, weights)
    known = (of_good > 0) & (of_bad > 0)
    if df <= 0 or not (good.sum() > 0 and bad.sum() > 0) or known.sum() < 2:
        return None
    spread = float(np.log(of_good[known] / of_bad[known]).var(ddof=1))
    interval = Estimate(float(np.log(good.sum() / bad.sum())), {"test": Source(spread, df)}).interval()
    return None if interval is None else (float(expit(interval[0])), float(expit(interval[1])))


def clustering_interval(
    score: float,
    points: Sequence[np.ndarray],
    pairs: Sequence[np.ndarray],
    labels: np.ndarray,
    centers: np.ndarray,
    patients: np.ndarray,
    numbers: Sequence[int],
    agreements: Agreements,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95% interval of the clustering score over patients, from random halves of them.

    Half of the patients of each class and center (of all, if some have several) are clustered again, the same half in
    all pairs. The variance of the scores of halves is that of the score itself (delete-half jackknife; Shao and Wu
    1989), with Student's t. It counts that other patients would form other clusters; the number of clusters of a pair
    is that of the data.

    Args:
        score: the score of all patients.
        points: ``(N, D)`` features of each pair, of unit length.
        pairs: row numbers of each pair.
        labels: class codes of all rows.
        centers: center codes of all rows.
        patients: patients of all rows.
        numbers: number of clusters of each pair.
        agreements: function that clusters, and compares clusters with classes and centers.
        seed: seed of the halves and of k-means.

    Returns:
        Both ends, in [−1, 1]; None if no class and center has two patients.
    """
    unit, strata = _units(pairs, labels, centers, patients)
    df = len(strata) - len(np.unique(strata))
    if df <= 0:
        return None
    rng = np.random.default_rng(seed_from("patients of the clustering score", seed))
    scores = []
    for _ in range(HALF_SAMPLES):
        kept = _half(strata, rng)
        differences = []
        for rows, of_pair, number in zip(pairs, points, numbers):
            inside = kept[unit[rows]]
            left = rows[inside]
            # all four cells, and more images than clusters
            if len(np.unique(labels[left] * (centers.max() + 1) + centers[left])) == 4 and len(left) > 4:
                number = min(number, len(left) - 1)
                of_label, of_center = agreements(of_pair[inside], labels[left], centers[left], number, CLUSTERINGS, rng)
                differences.append(of_label - of_center)
        if differences:
            scores.append(np.mean(differences))
    if len(scores) < 2:
        return None
    source = Source(float(np.var(scores, ddof=1)), min(df, len(scores) - 1))
    interval = Estimate(score, {"test": source}).interval()
    return None if interval is None else (max(-1.0, interval[0]), min(1.0, interval[1]))


def _units(
    pairs: Sequence[np.ndarray], labels: np.ndarray, centers: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit of all rows, a patient in any pair (-1: in none), and the stratum of each unit."""
    rows = np.unique(np.concatenate(pairs))
    unit = np.full(len(patients), -1)
    unit[rows], strata = patient_strata(patients[rows], labels[rows] * (centers.max() + 1) + centers[rows])
    return unit, strata


def patient_strata(patients: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the units of a bootstrap over patients, who are resampled within their class and center.

    Args:
        patients: ``(N,)`` patients.
        cells: ``(N,)`` integer codes of class and center.

    Returns:
        ``(N,)`` unit of every row, and ``(U,)`` stratum of every unit: its cell, or the same for all if some patient
        has several.
    """
    names, unit = np.unique(patients, return_inverse=True)
    strata = np.full(len(names), -1)
    strata[unit] = cells
    return unit, strata if (strata[unit] == cells).all() else np.zeros_like(strata)


def _weighted(counts: sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    # (B,) sums over pairs of units; the same unit twice is one unit, whose pairs with itself count once each time
    squares = ((counts @ weights.T).T * weights).sum(1)
    return squares - (weights**2 - weights) @ counts.diagonal()


def _half(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # (U,) bool: half of the units of every stratum; the only one of a stratum is kept, an odd one by chance
    kept = np.zeros(len(strata), bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        kept[members[: max(1, (len(members) + rng.integers(2)) // 2)]] = True
    return kept
