"""Compute how many images to add to groups of unequal size, so that their shares come close to a target."""

from __future__ import annotations

import numpy as np

__all__ = ["exact_total", "fill"]

#: tolerance: 0.7 times 10 must be 7 despite floating-point error
ROUNDING = 1e-9


def fill(have: np.ndarray, shares: np.ndarray, total: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Distribute ``total`` new images over groups, so that old and new images together have shares near the target.

    The groups that are furthest below their share are filled first (water-filling): the counts are ``clip(λ·shares −
    have, low, high)`` for the λ that gives this total, rounded by largest remainders, with ties going to the first
    group. Before rounding, no other distribution within the bounds has a smaller Kullback–Leibler divergence of the
    target from the result.

    Args:
        have: ``(G,)`` numbers of images that exist.
        shares: ``(G,)`` target shares; they need not sum to 1. A group with the share 0 gets ``low`` images.
        total: number of images to add, clipped to the range that the bounds allow.
        low, high: ``(G,)`` smallest and largest numbers of images to add, whole numbers.

    Returns:
        ``(G,)`` int64 numbers of images to add.
    """
    have, shares = np.asarray(have, float), np.asarray(shares, float)
    low, high = np.asarray(low, np.int64), np.asarray(high, np.int64)
    wanted = shares > 0
    high = np.where(wanted, high, low)
    total = int(np.clip(total, low.sum(), high.sum()))
    if not wanted.any():
        return low
    # the values of λ at which each group begins to be filled and is full; between these values, the sum is linear in λ
    begins, ends = ((have + bound)[wanted] / shares[wanted] for bound in (low, high))
    levels = np.unique(np.concatenate([begins, ends]))
    slopes = np.zeros(len(levels))
    np.add.at(slopes, np.searchsorted(levels, begins), shares[wanted])
    np.add.at(slopes, np.searchsorted(levels, ends), -shares[wanted])
    sums = low.sum() + np.concatenate([[0.0], np.cumsum(np.cumsum(slopes)[:-1] * np.diff(levels))])
    last = int(np.searchsorted(sums, total))
    if last >= len(levels):
        return high
    level = levels[last]
    if last > 0 and sums[last] > sums[last - 1]:
        share = (total - sums[last - 1]) / (sums[last] - sums[last - 1])
        level = levels[last - 1] + share * (levels[last] - levels[last - 1])
    return _rounded(np.clip(level * shares - have, low, high), total, low, high)


def _rounded(counts: np.ndarray, total: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    whole = np.clip(np.floor(counts + ROUNDING).astype(np.int64), low, high)
    remainders = np.round(counts - whole, 9)
    # with large sums, floating-point error may leave more than one image per group to distribute, or too many
    while missing := total - int(whole.sum()):
        step = 1 if missing > 0 else -1
        open_groups = np.flatnonzero(whole < high if step > 0 else whole > low)
        order = open_groups[np.argsort(-step * remainders[open_groups], kind="stable")][: abs(missing)]
        whole[order] += step
        remainders[order] -= step
    return whole


def exact_total(have: np.ndarray, shares: np.ndarray) -> int | None:
    """Return the smallest size of a set that contains ``have`` and has the target shares, up to rounding.

    Args:
        have: ``(G,)`` numbers of images that exist.
        shares: ``(G,)`` target shares, which sum to 1.

    Returns:
        The number of images; None if a group with the share 0 has images, because then no size is large enough.
    """
    have, shares = np.asarray(have, float), np.asarray(shares, float)
    if (have[shares <= 0] > 0).any():
        return None
    wanted = shares > 0
    return int(np.ceil((have[wanted] / shares[wanted]).max(initial=0.0) - ROUNDING))
