"""Nearest-neighbor metrics: precision, recall, density, coverage, and the robustness index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from medi_monai.metrics.moments import Features, as_features, check_features, feature_blocks
from medi_monai.utils.errors import InputError

__all__ = [
    "nearest_neighbors",
    "neighbor_pairs",
    "precision_recall",
    "ranked_neighbors",
    "robustness_by_k",
    "robustness_index",
    "robustness_of_neighbors",
]

#: numbers of queries and of references whose distances are held in memory at once
BLOCK, REFERENCES = 1024, 16384
#: share of both squared norms below which a squared distance is rounding error, from ``|x|^2 + |y|^2 - 2 x·y``
TOLERANCE = 1e-12


def nearest_neighbors(
    queries: Features, references: Features, k: int = 1, exclude_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the ``k`` rows of ``references`` nearest to each query, nearest first, with ties in the order of rows.

    Memory is bounded by blocks of both, so either may be memory-mapped. Rows closer than 1e-6 of their distance from
    the mean of the references are treated as equal, with a distance of 0.

    Args:
        queries: ``(Q, D)`` features.
        references: ``(R, D)`` features.
        k: number of neighbors.
        exclude_self: whether queries and references are the same array, so that a row is not its own neighbor.

    Returns:
        ``(Q, k)`` float64 Euclidean distances and ``(Q, k)`` row numbers.

    Raises:
        InputError: for different dimensions, values that are not finite, or fewer than ``k`` references.
    """
    if exclude_self and len(queries) != len(references):
        raise InputError(
            f"exclude_self needs the references as queries, not {len(queries)} queries and {len(references)} references"
        )
    return _search(queries, references, k, np.arange(len(references)) if exclude_self else None)


def precision_recall(real: Features, generated: Features, k: int = 5) -> dict[str, float]:
    """Return precision, recall (Kynkäänniemi et al. 2019, eq. 1), density and coverage (Naeem et al. 2020, eqs. 2, 3).

    Each real image has a ball with the distance to its ``k``-th nearest real neighbor as its radius, and each generated
    image one with the distance to its ``k``-th nearest generated neighbor. Balls include their boundary.

    Args:
        real: ``(N, D)`` features, N greater than ``k``.
        generated: ``(M, D)`` features, M greater than ``k``.
        k: number of the neighbor that defines the radius.

    Returns:
        ``precision``: share of generated images in any real ball; ``recall``: share of real images in any generated
        ball; ``density``: number of real balls around a generated image divided by ``k``, which may exceed 1;
        ``coverage``: share of real balls that contain a generated image.

    Raises:
        InputError: for a set of ``k`` or fewer images, different dimensions, or values that are not finite.
    """
    real = as_features(real)
    generated = as_features(generated).to(real)
    _check_dims(real.shape[1], generated.shape[1])
    if not 1 <= k < min(len(real), len(generated)):
        raise InputError(
            f"precision and recall need k of at least 1 and more than k images per set; k = {k}, and there are "
            f"{len(real)} real and {len(generated)} generated images"
        )
    real, generated = real - real.mean(0), generated - real.mean(0)
    real_radius, generated_radius = (
        nearest_neighbors(rows, rows, k, exclude_self=True)[0].amax(1).square() for rows in (real, generated)
    )
    balls = torch.zeros(len(generated)).to(real)
    recalled, covered = [], []
    for rows, radius in zip(real.split(BLOCK), real_radius.split(BLOCK)):
        squared, slack = _squared_distances(rows, generated)
        squared -= slack
        within = squared <= radius[:, None]
        balls += within.sum(0)
        covered.append(within.any(1))
        recalled.append((squared <= generated_radius).any(1))
    return {
        "precision": float((balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(balls.mean() / k),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def robustness_index(
    features: Features,
    labels: np.ndarray,
    centers: np.ndarray,
    k: int,
    slides: np.ndarray | None = None,
    cosine: bool = True,
) -> dict:
    """Return the robustness index of PathoROB: how often neighbors share the class rather than the center.

    Source: arXiv 2507.17845.

    Among the ``k`` nearest neighbors of every image, those of the same class from another center (SO) and those of
    another class from the same center (OS) are counted; the index is ``SO / (SO + OS)``. At 1 the features reflect only
    biology, at 0 only the center. The value expected by chance depends on the frequencies of the combinations, which
    therefore have to be balanced.

    Args:
        features: ``(N, D)`` features.
        labels: ``(N,)`` classes; pairs with a missing class count as neither.
        centers: ``(N,)`` centers; pairs with a missing center count as neither.
        k: number of neighbors.
        slides: ``(N,)`` slides; images of the same slide are not neighbors. An image with fewer than ``k`` other images
            uses all of them.
        cosine: whether features are first scaled to unit length, as in the paper's code.

    Returns:
        ``value`` (NaN if no neighbor counts as either), ``same_class_other_center``, ``other_class_same_center`` and
        ``same_class`` (counts of neighbors), ``neighbors`` (all), ``balanced_accuracy`` with which the most frequent
        class among the neighbors predicts the class (ties go to the class that occurs first), ``k``, and ``n`` images.

    Raises:
        InputError: for columns of the wrong length, values that are not finite, or ``k`` or fewer images.
    """
    return robustness_by_k(features, labels, centers, [k], slides, cosine)[0]


def robustness_by_k(
    features: Features,
    labels: np.ndarray,
    centers: np.ndarray,
    ks: Sequence[int],
    slides: np.ndarray | None = None,
    cosine: bool = True,
) -> list[dict]:
    """Return :func:`robustness_index` for several numbers of neighbors, from a single search.

    Args:
        features: ``(N, D)`` features.
        labels: ``(N,)`` classes.
        centers: ``(N,)`` centers.
        ks: numbers of neighbors, ascending.
        slides: ``(N,)`` slides; images of the same slide are not neighbors.
        cosine: whether features are first scaled to unit length.

    Returns:
        The result of :func:`robustness_index` for each of ``ks``.

    Raises:
        InputError: as :func:`robustness_index`, and for ``ks`` that do not ascend.
    """
    _check_ascending(ks)
    reach = int(ks[-1] if ks[0] > 0 else ks[0])
    return robustness_of_neighbors(ranked_neighbors(features, reach, slides, cosine), labels, centers, ks)


def ranked_neighbors(features: Features, k: int, slides: np.ndarray | None = None, cosine: bool = True) -> np.ndarray:
    """Return the ``k`` nearest images of other slides of each image, nearest first.

    Args:
        features: ``(N, D)`` features.
        k: number of neighbors.
        slides: ``(N,)`` slides; by default, each image is a slide of its own.
        cosine: whether features are first scaled to unit length.

    Returns:
        ``(N, k)`` row numbers; -1 where an image has fewer neighbors.

    Raises:
        InputError: for slides of the wrong length, values that are not finite, or ``k`` or fewer images.
    """
    rows = as_features(features)
    slide = _codes(np.arange(len(rows)) if slides is None else slides, len(rows))
    if cosine:
        rows = torch.nn.functional.normalize(rows, eps=torch.finfo(rows.dtype).tiny)
    distances, neighbors = (of_k.cpu().numpy() for of_k in _search(rows, rows, k, slide))
    return np.where(np.isfinite(distances), neighbors, -1)


def robustness_of_neighbors(
    neighbors: np.ndarray, labels: np.ndarray, centers: np.ndarray, ks: Sequence[int]
) -> list[dict]:
    """Return :func:`robustness_index` for several numbers of neighbors, from neighbors that are already known.

    Args:
        neighbors: ``(N, K)`` row numbers of :func:`ranked_neighbors`, K the last of ``ks`` or more.
        labels: ``(N,)`` classes.
        centers: ``(N,)`` centers.
        ks: numbers of neighbors, ascending.

    Raises:
        InputError: for columns of the wrong length, or ``ks`` that do not ascend.
    """
    _check_ascending(ks)
    label, center = (_codes(column, len(neighbors)) for column in (labels, centers))
    neighbors = neighbors[:, : ks[-1]]
    found, good_pairs, bad_pairs = _shared(neighbors, label, center)
    known = (label >= 0) & (center >= 0)
    pairs = found & known[:, None] & known[neighbors]
    same_class = label[neighbors] == label[:, None]
    starts = [0, *ks[:-1]]
    masks = (good_pairs, bad_pairs, pairs & same_class, pairs)
    # (K,) counts among the nearest k, by adding up the counts between one k and the next
    good, bad, same, every = (np.add.reduceat(mask.sum(0), starts).cumsum() for mask in masks)
    votes = np.stack(
        [
            np.add.reduceat((found & (label[neighbors] == code)).astype(np.int64), starts, axis=1).cumsum(1)
            for code in range(label.max(initial=0) + 1)
        ],
    )
    return [
        {
            "value": good[at] / (good[at] + bad[at]) if good[at] + bad[at] else float("nan"),
            "same_class_other_center": int(good[at]),
            "other_class_same_center": int(bad[at]),
            "same_class": int(same[at]),
            "neighbors": int(every[at]),
            "balanced_accuracy": _accuracy_of_votes(votes[..., at], label),
            "k": int(k),
            "n": len(neighbors),
        }
        for at, k in enumerate(ks)
    ]


def neighbor_pairs(
    neighbors: np.ndarray, labels: np.ndarray, centers: np.ndarray, units: np.ndarray, num_units: int
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Count the neighbors of :func:`robustness_index` by the units, such as patients, of both images.

    Args:
        neighbors: ``(N, k)`` row numbers of :func:`ranked_neighbors`.
        labels: ``(N,)`` classes.
        centers: ``(N,)`` centers.
        units: ``(N,)`` codes of the units, below ``num_units``.
        num_units: U, number of units.

    Returns:
        Two ``(U, U)`` sparse arrays of counts, by the unit of the image and that of its neighbor: of the same class
        from another center, and of another class from the same center.
    """
    label, center = (_codes(column, len(neighbors)) for column in (labels, centers))
    counts = []
    for mask in _shared(neighbors, label, center)[1:]:
        image, at = np.nonzero(mask)
        places = units[image], units[neighbors[image, at]]
        counts.append(sparse.csr_array((np.ones(len(image)), places), shape=(num_units, num_units)))
    return counts[0], counts[1]


def _shared(neighbors: np.ndarray, label: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # (N, k) bool: whether there is a neighbor; of the same class alone; of the same center alone
    found, known = neighbors >= 0, (label >= 0) & (center >= 0)
    pairs = found & known[:, None] & known[neighbors]
    same_class, same_center = label[neighbors] == label[:, None], center[neighbors] == center[:, None]
    return found, pairs & same_class & ~same_center, pairs & ~same_class & same_center


def _check_ascending(ks: Sequence[int]) -> None:
    if not len(ks) or not (np.diff(ks) > 0).all():
        raise InputError(f"numbers of neighbors {list(ks)}: give at least one, in ascending order")


def _accuracy_of_votes(votes: np.ndarray, label: np.ndarray) -> float:
    # votes: (C, N); an image without neighbors is predicted wrongly
    right = (votes.argmax(0) == label) & (votes.max(0) > 0)
    recalls = [right[label == code].mean() for code in range(len(votes)) if (label == code).any()]
    return float(np.mean(recalls)) if recalls else float("nan")


def _search(
    queries: Features, references: Features, k: int, apart: np.ndarray | None
) -> tuple[torch.Tensor, torch.Tensor]:
    # apart: (N,) codes, if both have the same rows; rows with the same code are not neighbors (infinite distance)
    (_, dim), (count, other_dim) = check_features(queries), check_features(references)
    _check_dims(dim, other_dim)
    others = count - (apart is not None)
    if not 1 <= k <= others:
        raise InputError(f"{k} nearest neighbors cannot be found among {others} images: k has to be 1 to {others}")
    center = torch.stack([block.sum(0) for block in feature_blocks(references)]).sum(0) / count
    codes = None if apart is None else torch.as_tensor(apart).to(center.device)
    nothing = torch.empty(0, k, dtype=torch.float64, device=center.device)
    by_block = [(nothing, nothing.long())]
    for start, rows in enumerate(feature_blocks(queries, BLOCK)):
        block_codes = None if codes is None else codes[start * BLOCK : (start + 1) * BLOCK]
        by_block.append(_nearest_of_block(rows.to(center) - center, references, center, k, codes, block_codes))
    squared, indices = (torch.cat(blocks) for blocks in zip(*by_block))
    return squared.sqrt(), indices


def _nearest_of_block(
    rows: torch.Tensor,
    references: Features,
    center: torch.Tensor,
    k: int,
    codes: torch.Tensor | None,
    row_codes: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    best, offset = [], 0
    for block in feature_blocks(references, REFERENCES):
        squared = _squared_distances(rows, block - center)[0]
        indices = torch.arange(offset, offset + len(block), device=rows.device).expand_as(squared)
        if codes is not None and row_codes is not None:
            squared[row_codes[:, None] == codes[offset : offset + len(block)]] = torch.inf
        best.append(_first(squared, indices, k, len(references)))
        offset += len(block)
    squared, indices = (torch.cat(block, 1) for block in zip(*best))
    return _first(squared, indices, k, len(references))


def _first(squared: torch.Tensor, indices: torch.Tensor, k: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    # topk breaks ties arbitrarily, and rounding creates differences between equal values. Non-negative doubles sort
    # like their bits, so the lowest bits (1e-9 of the value for a million rows) are replaced by the row number
    room = 1 << max(1, (count - 1).bit_length())
    keys = (squared.contiguous().view(torch.int64) + room // 2) & -room | indices
    order = keys.topk(min(k, keys.shape[1]), largest=False).indices
    return squared.gather(1, order), indices.gather(1, order)


def _squared_distances(rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    # squared distances, and a bound of their error; exact subtraction would take ten times as long
    squares = rows.square().sum(1, keepdim=True) + columns.square().sum(1)
    squared = torch.addmm(squares, rows, columns.T, alpha=-2)
    slack = squares.mul_(TOLERANCE)
    return squared.masked_fill_(squared <= slack, 0), slack


def _codes(column: np.ndarray, count: int) -> np.ndarray:
    # -1 where missing
    codes = pd.factorize(np.asarray(column))[0]
    if len(codes) != count:
        raise InputError(f"{len(codes)} classes, centers or slides do not match {count} images")
    return codes


def _check_dims(first: int, second: int) -> None:
    if first != second:
        raise InputError(f"features of {first} and {second} dimensions: use the same encoder for both")
