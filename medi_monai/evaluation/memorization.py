"""Memorization: whether generated images reproduce training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import stable_order
from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.planted import choose_originals, plant_copies
from medi_monai.evaluation.probes import Standardizer
from medi_monai.metrics import nearest_neighbors, wilson_interval
from medi_monai.metrics.copies import CopySearch, structure, turned
from medi_monai.metrics.memorization import nearer_share
from medi_monai.utils.errors import InputError
from medi_monai.utils.progress import progress
from medi_monai.utils.seeding import seed_from

__all__ = ["CORRELATION_OF_A_COPY", "Closest", "MeasuredMemory", "memorization"]

#: closest pairs of generated and training images by arm, each ``(H, W, 3)`` uint8, with their correlation
Closest: TypeAlias = dict[str, list[tuple[np.ndarray, np.ndarray, float]]]

#: maximum number of training images used to scale features
MAX_TRAINING = 40_000
#: maximum number of images of a set whose originals are searched, and number of pairs shown
MAX_QUERIES, SHOWN = 2000, 12
#: maximum numbers of samples of training images that are compared with validation images, and of images per sample
CHOICES, MAX_CHOSEN = 8, 4000
#: number of training images whose features are compared at once
BLOCK = 16_384
#: numbers of images that are read at once, and of training images that are searched at once
READ, SEARCHED = 64, 512
#: number of threads that read files
THREADS = 8
#: correlation above which two images are copies, if it is rare among real images of different patients; otherwise the
#: limit is the correlation that this share of them stays below
CORRELATION_OF_A_COPY, UNLIKE = 0.9, 0.99
#: number of images of the split ``val`` below which the limit is measured on the split ``holdout`` as well
MIN_HELD_OUT = 200
#: prefix of the kinds of planted copies, among the names of sets
PLANTED = "planted "


@dataclass(frozen=True)
class MeasuredMemory:
    """Result of :func:`memorization`.

    Args:
        figures: by arm, and for ``held_out`` images if there are any, the fields of
            :class:`medi_monai.results.measures.Memorization`.
        search: fields of :class:`medi_monai.results.measures.CopySearchResults`; None if copies were not searched.
        closest: by the same names as ``figures``, the closest pairs as (image, training image, correlation), with the
            training image rotated and mirrored to match.
    """

    figures: dict[str, Any]
    search: dict[str, Any] | None
    closest: Closest


@dataclass(frozen=True)
class _Set:
    features: np.ndarray
    reader: PatchReader
    rows: np.ndarray


def memorization(
    real: np.ndarray,
    cohort: Cohort,
    arms: Mapping[str, tuple[np.ndarray, Cohort]],
    image_size: int,
    seed: int = 0,
    search_copies: bool = True,
) -> MeasuredMemory:
    """Measure how close generated images are to single training images, compared with unseen real images.

    The original of an image is searched among all training images by structure rather than color, under the eight
    symmetries of the square and small shifts (:class:`medi_monai.metrics.copies.CopySearch`). Images of other patients
    show the rate of false positives, and copies planted on purpose the share that is found. Held-out images are those
    of the split ``val``, whose combinations are in training, and also those of ``holdout`` if these are fewer than 200.

    Args:
        real: ``(N, D)`` features of the cohort.
        cohort: cohort with a column ``split``.
        arms: features and images of each arm.
        image_size: side of the images in pixels.
        seed: seed of the selection if there are many images.
        search_copies: whether to search for copies. The search depends on pixels and not on features, so another
            encoder would find the same; without it, ``copies`` is undefined.

    Raises:
        InputError: if no image is in the split ``train``.
    """
    split, order = cohort.table["split"].to_numpy(dtype=str), stable_order(cohort.table)
    train, fresh = order[split[order] == "train"], order[split[order] == "val"]
    if not len(train):
        raise InputError("no image of the cohort is in the split 'train': memorization cannot be measured")
    splits = ["val"] if len(fresh) >= MIN_HELD_OUT else ["val", "holdout"]
    held_out = order[np.isin(split[order], splits)]
    sample = np.random.default_rng(seed_from("memorization", seed)).permutation(train)[:MAX_TRAINING]
    scale = Standardizer().fit(np.asarray(real[np.sort(sample)]))
    reader = PatchReader(cohort, image_size)
    sets = _sets(real, reader, held_out, arms, image_size, seed)
    matches, planted = _matches(sets, cohort, reader, train, seed) if search_copies else ({}, [])
    limit = _limit(matches.get("held_out"))
    chosen = _choices(cohort.table, fresh, train, seed)
    figures = {
        name: {
            **_distance_figures(of_set, real, np.sort(train), scale),
            **_copy_figures(matches[name].correlation if name in matches else np.empty(0), limit),
            "nearer": None if name == "held_out" else _nearer(of_set.features[of_set.rows], real, chosen, scale),
        }
        for name, of_set in sets.items()
    }
    base = figures.get("held_out", {}).get("distance")
    for of_arm in figures.values():
        of_arm["ratio"] = of_arm["distance"] / base if base else None
    search = {
        "limit": limit,
        "splits": [name for name in splits if (split == name).any()],
        "recall": {kind.removeprefix(PLANTED): _share_above(matches[kind].correlation, limit) for kind in planted},
    }
    pairs = {name: _closest_pairs(of_set, matches[name], reader) for name, of_set in sets.items() if name in matches}
    for of_set in sets.values():
        of_set.reader.close()
    reader.close()
    found = search if search_copies else None
    return MeasuredMemory(figures, found, {name: closest for name, closest in pairs.items() if closest})


def _sets(
    real: np.ndarray,
    reader: PatchReader,
    held_out: np.ndarray,
    arms: Mapping[str, tuple[np.ndarray, Cohort]],
    image_size: int,
    seed: int,
) -> dict[str, _Set]:
    def drawn(name: str, rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(seed_from("memorization", seed, name)).permutation(rows)[:MAX_QUERIES]

    sets = {"held_out": _Set(real, reader, drawn("held_out", held_out))} if len(held_out) else {}
    for arm, (features, images) in arms.items():
        sets[arm] = _Set(features, PatchReader(images, image_size), drawn(arm, stable_order(images.table)))
    return sets


def _matches(
    sets: Mapping[str, _Set], cohort: Cohort, reader: PatchReader, train: np.ndarray, seed: int
) -> tuple[dict[str, _Matches], list[str]]:
    """Return the matches of all sets and of planted copies, and the names of the latter."""
    planted = _planted(cohort.table, reader, train, seed)
    structures = {name: _structures(of_set.reader, of_set.rows) for name, of_set in sets.items()}
    return _search(structures | planted, reader, train), list(planted)


def _planted(table: pd.DataFrame, reader: PatchReader, train: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
    patients = table["patient"].to_numpy(dtype=str)
    rows = choose_originals(train, patients[train], seed)
    centers = table["center"].to_numpy(dtype=str)[rows] if "center" in table.columns else None
    copies = plant_copies(np.stack(reader.read(rows.tolist())), patients[rows], centers, seed)
    return {PLANTED + kind: structure(images) for kind, images in copies.items()}


def _structures(reader: PatchReader, rows: np.ndarray) -> torch.Tensor:
    # images are reduced as they are read: only a few are in memory at their full size
    parts = [rows[start : start + READ].tolist() for start in range(0, len(rows), READ)]
    with ThreadPoolExecutor(1 if reader.on_the_fly else THREADS) as pool:
        return torch.cat(list(pool.map(lambda part: structure(np.stack(reader.read(part))), parts)))


@dataclass(frozen=True)
class _Matches:
    # of each image, the most similar training image: correlation, row of the cohort, and symmetry
    correlation: np.ndarray
    rows: np.ndarray
    symmetries: np.ndarray


def _search(queries: Mapping[str, torch.Tensor], reader: PatchReader, train: np.ndarray) -> dict[str, _Matches]:
    """Search the originals of all sets together, so that each training image is read at most twice."""
    search = CopySearch(torch.cat(list(queries.values())))
    starts = range(0, len(train), SEARCHED)
    for start in progress(starts, len(starts), "searching copies of training images", "block"):
        search.add(_structures(reader, train[start : start + SEARCHED]), start)
    for numbers in search.candidates.split(SEARCHED):
        search.verify(_structures(reader, train[numbers.numpy()]), numbers)
    by_query = zip(*(part.split([len(images) for images in queries.values()]) for part in search.result()))
    return {
        name: _Matches(correlation.numpy(), train[numbers.numpy()], symmetries.numpy())
        for name, (correlation, numbers, symmetries) in zip(queries, by_query)
    }


def _limit(held_out: _Matches | None) -> float:
    if held_out is None:
        return CORRELATION_OF_A_COPY
    # one of the correlations, so that at most 1 % are above
    return max(CORRELATION_OF_A_COPY, float(np.quantile(held_out.correlation, UNLIKE, method="higher")))


def _distance_figures(of_set: _Set, real: np.ndarray, train: np.ndarray, scale: Standardizer) -> dict[str, float]:
    queries = torch.as_tensor(scale.transform(np.asarray(of_set.features[of_set.rows])))
    nearest = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    # rows are read in blocks, so that memory is independent of the cohort's size
    for start in range(0, len(train), BLOCK):
        references = torch.as_tensor(scale.transform(np.asarray(real[train[start : start + BLOCK]])))
        nearest = torch.minimum(nearest, nearest_neighbors(queries, references)[0][:, 0])
    return {"distance": float(np.median(nearest))}


def _copy_figures(correlation: np.ndarray, limit: float) -> dict[str, Any]:
    return {
        "copies": _share_above(correlation, limit),
        "limit": limit,
        "correlation": float(correlation.max()) if np.isfinite(correlation).any() else None,
    }


def _share_above(correlation: np.ndarray, limit: float) -> dict[str, Any]:
    count, above = len(correlation), int((correlation > limit).sum())
    if not count:
        return {"value": None, "ci95": None, "n": 0}
    return {"value": above / count, "ci95": wilson_interval(above, count), "n": count}


def _closest_pairs(of_set: _Set, matches: _Matches, reader: PatchReader) -> list[tuple[np.ndarray, np.ndarray, float]]:
    known = int(np.isfinite(matches.correlation).sum())
    top = np.argsort(-matches.correlation, kind="stable")[: min(SHOWN, known)]
    images, originals = of_set.reader.read(of_set.rows[top].tolist()), reader.read(matches.rows[top].tolist())
    pairs = []
    for image, original, index in zip(images, originals, top.tolist()):
        matching = turned(torch.tensor(original)[None], int(matches.symmetries[index]))[0].numpy()
        pairs.append((image, matching, float(matches.correlation[index])))
    return pairs


def _choices(table: pd.DataFrame, fresh: np.ndarray, train: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return unseen rows, and samples of as many training rows, drawn by patient; empty if there are too few rows."""
    fresh = np.random.default_rng(seed_from("memorization", seed, "fresh")).permutation(fresh)[:MAX_CHOSEN]
    if len(fresh) < 2 or len(train) < len(fresh):
        return []
    patients = table["patient"].to_numpy(dtype=str)[train]
    names, codes = np.unique(patients, return_inverse=True)
    chosen = []
    for number in range(CHOICES):
        rank = np.random.default_rng(seed_from("memorization", seed, number)).permutation(len(names))
        chosen.append(train[np.argsort(rank[codes], kind="stable")[: len(fresh)]])
    return [fresh, *chosen]


def _nearer(
    features: np.ndarray, real: np.ndarray, chosen: Sequence[np.ndarray], scale: Standardizer
) -> dict[str, Any] | None:
    if not chosen:
        return None
    fresh, *training = (torch.as_tensor(scale.transform(np.asarray(real[np.sort(rows)]))) for rows in chosen)
    return nearer_share(torch.as_tensor(scale.transform(np.asarray(features))), training, fresh)
