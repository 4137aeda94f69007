"""Near-duplicate patches: a perceptual hash, and a search for similar hashes.

The hash consists of the signs of the 64 lowest spatial frequencies of a patch. It describes coarse structure and is
insensitive to brightness and compression. Two patches are near-duplicates if at most ``max_distance`` of the 64 bits
differ.

Why the default is 3 bits: the table shows the fraction of true copies that are found, and the probability of a false
pair among patches of different slides, measured on 30 H&E tiles of 30 slides (patches of 128 px at 0.25 and 0.5 microns
per pixel):

================================  ==========  ==========  ==========
copy                              distance 3  distance 6  distance 8
================================  ==========  ==========  ==========
JPEG at quality 95 and 50         100 %       100 %       100 %
resized to half, or by 2 %        100 %       100 %       100 %
10 % brighter, gamma 1.2          99 %        100 %       100 %
field of view 2 % wider           87 %        99 %        100 %
shifted by 1 px                   86 %        100 %       100 %
shifted by 2 px                   40 %        90 %        98 %
shifted by 4 px                   3 %         30 %        60 %
shifted by 8 px or more           0 %         0 %         0 %
false pair, per pair of patches   2e-15       5e-12       3e-10
================================  ==========  ==========  ==========

The last row assumes independent bits. For different slides this holds well: in 3e8 pairs, no distance was below 10
bits, and distances were distributed as in coin tosses. A cohort of 1.6 million patches has up to 7e11 pairs across a
split: distance 3 gives no false pair among them, distance 6 gives a few, and distance 8 several hundred. Patches that
are half glass with a straight edge are slightly more similar (at least 7 bits apart in 2e7 pairs). Overlapping patches
of a slide have very different hashes unless they are shifted by only a few pixels, so an overlapping grid is not
reported.

Images of the same anatomy in the same position are not independent. Brain slices of two patients differ in 23 to 24
bits instead of 32, so copies cannot be distinguished from other images; :func:`mean_distance` detects this.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.fft import dct

from medi_monai.utils.errors import InputError

__all__ = ["PLAIN", "MAX_DISTANCE", "NearDuplicates", "hash_images", "mean_distance", "near_duplicates"]

#: hash of patches with too little contrast (glass); never reported as similar to any other
PLAIN = np.uint64(0)
#: default for the largest number of bits in which near-duplicates differ; the module docstring gives the reason
MAX_DISTANCE = 3

#: threshold of the standard deviation of the 64 frequencies in gray levels; glass is below 0.5, tissue at least 7
PLAIN_SPREAD = 3.0
SIDE = 32
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BATCH = 128
#: number of pairs over which the mean distance is estimated
PAIRS = 20_000
#: above this, the number of false pairs and the search time grow too fast
LARGEST_DISTANCE = 10


def _lowest_frequencies(count: int = 64, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    # without the first frequency, which is the mean
    frequencies = itertools.product(range(side), range(side))
    ordered = sorted(frequencies, key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, max(uv), uv))[1 : count + 1]
    rows, columns = np.array(ordered).T
    return rows, columns


FREQUENCIES = _lowest_frequencies()
BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def hash_images(images: np.ndarray) -> np.ndarray:
    """Compute the perceptual hashes of patches of the same size.

    The gray-level patch is averaged to 32 x 32 pixels and transformed by a two-dimensional discrete cosine transform.
    The bits are the signs of its 64 lowest frequencies, excluding the mean. This follows pHash (phash.org), with signs
    instead of a comparison with the median.

    Args:
        images: ``(N, H, W, 3)`` uint8, H and W at least 32.

    Returns:
        ``(N,)`` uint64; :data:`PLAIN` for patches with very low contrast.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or min(images.shape[1:3]) < SIDE:
        raise InputError(
            f"hashing needs (N, H, W, 3) uint8 patches with sides of at least {SIDE}, not {images.shape} {images.dtype}"
        )
    down, across = (_transform(size) for size in images.shape[1:3])
    hashes = [_hash_batch(images[start : start + BATCH], down, across) for start in range(0, len(images), BATCH)]
    return np.concatenate([np.empty(0, np.uint64), *hashes])


def _transform(size: int) -> np.ndarray:
    # average over 32 equal parts of the side, then the lowest frequencies of the cosine transform, as one matrix
    edges = np.linspace(0, size, SIDE + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    averaging = np.clip(overlap, 0, None) * SIDE / size
    return (dct(np.eye(SIDE), axis=0, norm="ortho")[: FREQUENCIES[0].max() + 1] @ averaging).astype(np.float32)


def _hash_batch(images: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    gray = images.astype(np.float32) @ LUMA
    coefficients = (down @ gray @ across.T)[:, FREQUENCIES[0], FREQUENCIES[1]]
    hashes = (coefficients > 0).astype(np.uint64) @ BITS
    spread = np.sqrt((coefficients**2).sum(1)) / SIDE
    return np.where(spread < PLAIN_SPREAD, PLAIN, hashes)


def mean_distance(hashes: np.ndarray, patients: np.ndarray, seed: int = 0) -> float:
    """Estimate the mean number of differing bits between images of different patients: 32 for independent hashes.

    Pairs that differ in 10 bits or fewer, which may be copies, are excluded.

    Args:
        hashes: ``(N,)`` uint64; :data:`PLAIN` is ignored.
        patients: ``(N,)`` integer codes of patients, negative if unknown.
        seed: random seed for the selection of 20,000 pairs.

    Returns:
        The mean number of bits, or NaN if there are no such pairs.
    """
    candidates = np.flatnonzero((np.asarray(hashes) != PLAIN) & (np.asarray(patients) >= 0))
    if len(candidates) == 0:
        return float("nan")
    first, second = candidates[np.random.default_rng(seed).integers(0, len(candidates), (2, PAIRS))]
    distances = np.bitwise_count(hashes[first] ^ hashes[second])[patients[first] != patients[second]]
    distances = distances[distances > LARGEST_DISTANCE]
    return float(distances.mean()) if len(distances) else float("nan")


@dataclass(frozen=True)
class NearDuplicates:
    """Result of :func:`near_duplicates`.

    Args:
        pairs: one row per pair of similar hashes in different groups, closest first: ``first`` and ``second`` (for each
            hash, index of the first row that has it), ``distance`` in bits, and the numbers of rows with these hashes,
            ``num_first`` and ``num_second``.
        num_pairs: number of all pairs of hashes, including those beyond ``max_pairs``.
        num_rows: number of rows with a near-duplicate in another group.
        num_plain: number of rows with too little contrast (:data:`PLAIN`), which were not compared.
    """

    pairs: pd.DataFrame
    num_pairs: int
    num_rows: int
    num_plain: int


def near_duplicates(
    hashes: np.ndarray, groups: np.ndarray, max_distance: int = MAX_DISTANCE, max_pairs: int = 10_000
) -> NearDuplicates:
    """Find pairs of similar hashes in different groups; takes seconds for 1.6 million hashes.

    The 64 bits are divided into ``max_distance + s`` bands. By the pigeonhole principle, a pair of similar hashes
    agrees completely in at least s bands. For each choice of s bands, hashes are sorted by these bands and compared
    with those that agree. Equal hashes of a group are compared only once, so many equal patches cost no time. The
    search needs memory for a few copies of ``hashes``.

    Args:
        hashes: ``(N,)`` uint64 from :func:`hash_images`; :data:`PLAIN` is ignored.
        groups: ``(N,)`` integers, such as splits; pairs within a group are not reported, and rows with a negative group
            are ignored.
        max_distance: maximum number of different bits, 0 to 10.
        max_pairs: maximum number of pairs to return; all are counted.
    """
    hashes, groups = np.asarray(hashes, np.uint64), np.asarray(groups)
    if hashes.shape != groups.shape or hashes.ndim != 1:
        raise InputError(f"hashes {hashes.shape} and groups {groups.shape} must have the same length")
    if not 0 <= max_distance <= LARGEST_DISTANCE:
        raise InputError(f"max_distance = {max_distance}: it must be between 0 and {LARGEST_DISTANCE} bits")
    rows = np.flatnonzero((groups >= 0) & (hashes != PLAIN))
    entries = _Entries.of(hashes, groups, rows)
    num_pairs, blocks = 0, []
    involved = np.zeros(len(entries.hash), bool)
    for first, second, distance in _near_pairs(entries, max_distance):
        involved[first] = involved[second] = True
        if num_pairs < max_pairs:
            blocks.append(np.stack([first, second, distance])[:, : max_pairs - num_pairs])
        num_pairs += len(first)
    return NearDuplicates(
        pairs=entries.table(np.concatenate(blocks, axis=1) if blocks else np.empty((3, 0), int)),
        num_pairs=num_pairs,
        num_rows=int(entries.count[involved].sum()),
        num_plain=int(((groups >= 0) & (hashes == PLAIN)).sum()),
    )


@dataclass(frozen=True)
class _Entries:
    # one entry per distinct pair of hash and group, sorted by both; `row` is the first row, `count` the number of rows
    hash: np.ndarray
    group: np.ndarray
    row: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> _Entries:
        order = rows[np.lexsort((groups[rows], hashes[rows]))]
        hashes, groups = hashes[order], groups[order]
        starts = np.flatnonzero(np.r_[True, (hashes[1:] != hashes[:-1]) | (groups[1:] != groups[:-1])][: len(order)])
        return cls(hashes[starts], groups[starts], order[starts], np.diff(np.r_[starts, len(order)]))

    def table(self, pairs: np.ndarray) -> pd.DataFrame:
        first, second, distance = pairs[:, np.lexsort(pairs)]
        columns = {
            "first": self.row[first],
            "second": self.row[second],
            "distance": distance.astype(int),
            "num_first": self.count[first],
            "num_second": self.count[second],
        }
        return pd.DataFrame(columns)


def _near_pairs(entries: _Entries, max_distance: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    masks = _cheapest_masks(entries.hash, max_distance)
    for index, mask in enumerate(masks):
        order = np.argsort(entries.hash & mask, kind="stable")
        sorted_keys = entries.hash[order] & mask
        alike = np.arange(len(order))
        for offset in range(1, len(order)):
            # rows that agree with the hash at this offset are a subset of those at the previous offset
            alike = alike[alike + offset < len(order)]
            alike = alike[sorted_keys[alike] == sorted_keys[alike + offset]]
            if not len(alike):
                break
            first, second = order[alike], order[alike + offset]
            differing = entries.hash[first] ^ entries.hash[second]
            distance = np.bitwise_count(differing)
            near = (distance <= max_distance) & (entries.group[first] != entries.group[second])
            # a pair that agrees in an earlier choice of bands has already been reported
            near[near] = ~np.any([(differing[near] & mask) == 0 for mask in masks[:index]], axis=0) if index else True
            if near.any():
                first, second = first[near], second[near]
                yield np.minimum(first, second), np.maximum(first, second), distance[near].astype(int)


def _cheapest_masks(hashes: np.ndarray, max_distance: int) -> list[np.uint64]:
    # more bands give shorter runs of equal keys but need more sorts; since hashes of real patches cluster, the cost is
    # computed from the actual runs
    def cost(masks: list[np.uint64]) -> float:
        runs = np.unique(hashes & masks[0], return_counts=True)[1].astype(float)
        return len(masks) * (5.0 * len(hashes) + (runs * (runs - 1)).sum() / 2)

    return min((_masks(max_distance, clean) for clean in range(1, 5)), key=cost)


def _masks(max_distance: int, clean: int) -> list[np.uint64]:
    # bits are assigned to bands in turn, so every band has low and high frequencies
    count = max_distance + clean
    bands = [sum(1 << bit for bit in range(band, 64, count)) for band in range(count)]
    return [np.uint64(sum(chosen)) for chosen in itertools.combinations(bands, clean)]
