"""PathoROB's robustness index and clustering score, over balanced pairs of two classes and two centers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans, vq

from medi_monai.evaluation.shortcuts.intervals import clustering_interval, robustness_interval
from medi_monai.evaluation.shortcuts.squares import rows_of_cells
from medi_monai.metrics.neighbors import ranked_neighbors, robustness_of_neighbors
from medi_monai.metrics.shortcut import adjusted_rand_index, mean_silhouette
from medi_monai.results.diagnostics import ClusteringScore, RobustnessIndex
from medi_monai.utils.seeding import seed_from

__all__ = ["balanced_clustering", "balanced_pairs", "balanced_robustness"]

#: numbers of neighbors from which the one with the best classification is selected, as in PathoROB's code
NEIGHBORS = (1, 3, 5, 7, 9, *range(11, 600, 10))
#: minimum number of images per cell of a balanced pair
MIN_OF_CELL = 5
#: range of the number of clusters, and starts of k-means for its selection and for the score, as in PathoROB's code
MIN_CLUSTERS, MAX_CLUSTERS = 2, 30
SELECTION_STARTS, STARTS = 20, 5


def balanced_robustness(
    features: np.ndarray,
    labels: np.ndarray,
    centers: np.ndarray,
    slides: np.ndarray | None = None,
    seed: int = 0,
    max_images: int = 2000,
    max_pairs: int = 64,
    patients: np.ndarray | None = None,
    num_replicates: int = 0,
) -> RobustnessIndex:
    """Compute PathoROB's robustness index over balanced pairs of two classes and two centers (arXiv 2507.17845).

    As in its code, neighbors are searched by cosine distance within a pair, among images of other slides; ``k`` is the
    value of :data:`NEIGHBORS` at which the most frequent class among the neighbors predicts the class best (balanced
    accuracy, averaged over the pairs; the smallest of several), among those for which every image of every pair has
    ``k`` neighbors; and the counts of all pairs are added up before the index is computed.

    It differs in three ways. The benchmark fixes pairs for one of its data sets and takes the other two, whose cells
    are of equal size, whole; pairs are drawn here, from all classes that share two centers, with each cell reduced to
    the size of the smallest. Its tables use the median ``k`` of many encoders, while this is the best for these
    features. Where no neighbor counts at the best ``k``, which leaves its index undefined, the next larger ``k`` with
    the same accuracy is used.

    Args:
        features: ``(N, D)`` features.
        labels: ``(N,)`` class codes.
        centers: ``(N,)`` center codes.
        slides: ``(N,)`` slides; images of the same slide are not neighbors of each other.
        seed: seed of the draw.
        max_images: maximum number of images of a pair.
        max_pairs: maximum number of pairs, chosen at random if there are more.
        patients: ``(N,)`` patients, for the interval.
        num_replicates: bootstrap samples of the patients; 0 for no interval.

    Returns:
        The index over all pairs. Its interval counts that other patients would have other neighbors
        (:func:`~medi_monai.evaluation.shortcuts.intervals.robustness_interval`).
    """
    rng = np.random.default_rng(seed_from("robustness", seed))
    pairs = balanced_pairs(labels, centers, rng, max_images, max_pairs)
    none = RobustnessIndex(None, None, len(pairs), sum(map(len, pairs)))
    units = np.arange(len(labels)) if slides is None else slides
    reach = min((len(rows) - int(np.unique(units[rows], return_counts=True)[1].max()) for rows in pairs), default=0)
    ks = [k for k in NEIGHBORS if k <= reach]
    if not ks:
        return none
    ranked = [_compact(ranked_neighbors(np.asarray(features[rows]), ks[-1], units[rows])) for rows in pairs]
    by_pair = [robustness_of_neighbors(near, labels[rows], centers[rows], ks) for near, rows in zip(ranked, pairs)]
    good, bad, accuracy = (
        np.array([[figures[name] for figures in of_pair] for of_pair in by_pair])
        for name in ("same_class_other_center", "other_class_same_center", "balanced_accuracy")
    )
    good, bad, accuracy = good.sum(0), bad.sum(0), accuracy.mean(0)
    best = np.flatnonzero((accuracy >= accuracy.max() - 1e-12) & (good + bad > 0))
    if not len(best):
        return none
    at = int(best[0])
    value = float(good[at] / (good[at] + bad[at]))
    interval = None
    if patients is not None and num_replicates > 1:
        nearest = [near[:, : ks[at]] for near in ranked]
        interval = robustness_interval(nearest, pairs, labels, centers, patients, num_replicates, seed)
    return RobustnessIndex(value, ks[at], none.num_pairs, none.n, float(accuracy[at]), interval)


def balanced_clustering(
    features: np.ndarray,
    labels: np.ndarray,
    centers: np.ndarray,
    seed: int = 0,
    max_images: int = 200,
    max_pairs: int = 8,
    num_repeats: int = 50,
    patients: np.ndarray | None = None,
) -> ClusteringScore:
    """Compute PathoROB's clustering score over balanced pairs of two classes and two centers (arXiv 2507.17845).

    As in its code, features of a pair are scaled to unit length; the number of clusters, from 2 to 30, is the one with
    the highest silhouette (cosine) of a k-means clustering with 20 random starts; k-means is then repeated with 5
    random starts and other seeds. The score of a repeat is the adjusted Rand index of classes and clusters minus that
    of centers and clusters; it is averaged over repeats, then over pairs.

    It differs in that pairs are drawn as for the robustness index, at most ``max_pairs`` of at most ``max_images``
    images (the benchmark uses all images of all pairs), and in the k-means of SciPy, which selects among starts by the
    mean distance to the centroid rather than the mean squared distance, and whose clusters may be fewer than requested.

    Args:
        features: ``(N, D)`` features.
        labels: ``(N,)`` class codes.
        centers: ``(N,)`` center codes.
        seed: seed of the draw and of k-means.
        max_images: maximum number of images of a pair.
        max_pairs: maximum number of pairs, chosen at random if there are more.
        num_repeats: number of clusterings of a pair.
        patients: ``(N,)`` patients, for the interval; None for no interval.

    Returns:
        Means over all pairs. The interval counts that other patients would form other clusters
        (:func:`~medi_monai.evaluation.shortcuts.intervals.clustering_interval`).
    """
    rng = np.random.default_rng(seed_from("clustering", seed))
    pairs = balanced_pairs(labels, centers, rng, max_images, max_pairs)
    agreements, numbers = [], []
    for rows in pairs:
        points = _unit_rows(features[rows])
        number = _num_clusters(points, rng)
        agreements.append(_agreements(points, labels[rows], centers[rows], number, num_repeats, rng))
        numbers.append(number)
    n = sum(map(len, pairs))
    if not pairs:
        return ClusteringScore(None, num_repeats=num_repeats)
    of_label, of_center = np.mean(agreements, axis=0).tolist()
    score, interval = of_label - of_center, None
    if patients is not None:
        points_of = [_unit_rows(features[rows]) for rows in pairs]
        interval = clustering_interval(score, points_of, pairs, labels, centers, patients, numbers, _agreements, seed)
    return ClusteringScore(score, of_label, of_center, statistics.median(numbers), len(pairs), n, num_repeats, interval)


def _compact(neighbors: np.ndarray) -> np.ndarray:
    # those of all pairs are held until k is known
    return neighbors.astype(np.int16) if len(neighbors) < 2**15 else neighbors


def _agreements(
    points: np.ndarray,
    labels: np.ndarray,
    centers: np.ndarray,
    number: int,
    num_repeats: int,
    rng: np.random.Generator,
) -> Sequence[float]:
    # mean adjusted Rand index of repeated clusterings and classes, and of these and centers
    clusterings = [_clusters(points, number, STARTS, rng) for _ in range(num_repeats)]
    return [
        float(np.mean([adjusted_rand_index(codes, clusters) for clusters in clusterings]))
        for codes in (labels, centers)
    ]


def _unit_rows(features: np.ndarray) -> np.ndarray:
    rows = np.asarray(features, float)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(length > 0, length, 1)
    # fewer dimensions make k-means faster; coordinates in the space that the rows span have the same distances
    return rows if rows.shape[1] <= len(rows) else np.linalg.qr(rows.T)[1].T


def _num_clusters(points: np.ndarray, rng: np.random.Generator) -> int:
    distances = np.clip(1 - points @ points.T, 0, 2)
    candidates = range(MIN_CLUSTERS, min(MAX_CLUSTERS, len(points) - 1) + 1)
    silhouettes = [
        mean_silhouette(distances, _clusters(points, number, SELECTION_STARTS, rng)) for number in candidates
    ]
    # a single cluster, of points that are all equal, has no silhouette
    return candidates[int(np.argmax(np.nan_to_num(silhouettes, nan=-1.0)))]


def _clusters(points: np.ndarray, number: int, starts: int, rng: np.random.Generator) -> np.ndarray:
    centroids, _ = kmeans(points, number, iter=starts, seed=rng)
    return vq(points, centroids)[0]


def balanced_pairs(
    labels: np.ndarray, centers: np.ndarray, rng: np.random.Generator, max_images: int, max_pairs: int
) -> list[np.ndarray]:
    """Draw pairs of two classes that both occur at two centers, with the same number of images in all four cells.

    Args:
        labels: ``(N,)`` class codes; rows with negative codes are left out.
        centers: ``(N,)`` center codes.
        rng: random generator of the draw.
        max_images: maximum number of images of a pair.
        max_pairs: maximum number of pairs, chosen at random if there are more.

    Returns:
        Row numbers of each pair, ascending.
    """
    cells = {cell: rows for cell, rows in rows_of_cells(labels, centers).items() if len(rows) >= MIN_OF_CELL}
    candidates = []
    for two_labels in itertools.combinations(sorted({label for label, _ in cells}), 2):
        shared = sorted(
            center for label, center in cells if label == two_labels[0] and (two_labels[1], center) in cells
        )
        candidates += [(two_labels, two_centers) for two_centers in itertools.combinations(shared, 2)]
    pairs = []
    for index in np.sort(rng.permutation(len(candidates))[:max_pairs]):
        members = [cells[cell] for cell in itertools.product(*candidates[index])]
        least = min(min(map(len, members)), max(MIN_OF_CELL, max_images // 4))
        pairs.append(np.sort(np.concatenate([rng.choice(rows, least, replace=False) for rows in members])))
    return pairs
