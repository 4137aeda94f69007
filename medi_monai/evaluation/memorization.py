"""Memorization: whether generated images reproduce training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import stable_order
from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.probing import Standardizer
from medi_monai.metrics import nearest_neighbors, wilson_interval
from medi_monai.metrics.memorization import nearer_share, symmetric_correlation, turned
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["CORRELATION_OF_A_COPY", "Closest", "memorization"]

#: closest pairs of generated and training images by arm, each ``(H, W, 3)`` uint8, with their correlation
Closest: TypeAlias = dict[str, list[tuple[np.ndarray, np.ndarray, float]]]

#: maximum number of training images used to scale features
MAX_TRAINING = 40_000
#: numbers of images whose nearest training images are searched, of neighbors compared by pixels, and of pairs shown
MAX_QUERIES, NEIGHBORS, SHOWN = 2000, 5, 12
#: maximum numbers of samples of training images that are compared with validation images, and of images per sample
CHOICES, MAX_CHOSEN = 8, 4000
#: number of training images compared at once
BLOCK = 16_384
#: number of images whose pixels are compared at once
QUERIES = 64
#: correlation, under any symmetry, above which two images are copies, if it is rare among real images of different
#: patients; otherwise the limit is the correlation that this share of them stays below
CORRELATION_OF_A_COPY, UNLIKE = 0.9, 0.99


def memorization(
    real: np.ndarray,
    cohort: Cohort,
    arms: Mapping[str, tuple[np.ndarray, Cohort]],
    image_size: int,
    seed: int = 0,
) -> tuple[dict[str, Any], Closest]:
    """Measure how close generated images are to single training images, compared with unseen real images.

    Nearest neighbors are found by features; the pixels of the nearest few are then compared under the eight symmetries
    of the square. Images of other patients show the rate of false positives.

    Args:
        real: ``(N, D)`` features of the cohort.
        cohort: cohort with a column ``split``.
        arms: features and images of each arm.
        image_size: side of the images in pixels.
        seed: seed of the selection if there are many images.

    Returns:
        Figures by arm, and for ``held_out`` images if there are any: ``distance`` (median distance to the nearest
        training image), ``ratio`` (to that of held-out images), ``copies`` (share whose correlation with a training
        image is above ``limit``: 0.9, or the correlation that 99 % of held-out images stay below if that is higher),
        ``correlation`` (the highest; ``None`` if all images have a uniform color) and ``nearer``
        (:func:`medi_monai.metrics.memorization.nearer_share` with the split ``val`` as unseen images; ``None`` if it
        has too few, and for held-out images). Also, by the same names, the closest pairs as (image, training image,
        correlation), with the training image rotated and mirrored to match.

    Raises:
        InputError: if no image is in the split ``train``.
    """
    split, order = cohort.table["split"].to_numpy(dtype=str), stable_order(cohort.table)
    train, held_out = order[split[order] == "train"], order[np.isin(split[order], ("val", "holdout"))]
    if not len(train):
        raise InputError("no image of the cohort is in the split 'train': memorization cannot be measured")
    sample = np.random.default_rng(seed_from("memorization", seed)).permutation(train)[:MAX_TRAINING]
    scale = Standardizer().fit(np.asarray(real[np.sort(sample)]))
    training = _Training(real, np.sort(train), scale, PatchReader(cohort, image_size))
    chosen = _choices(cohort.table, order[split[order] == "val"], train, seed)
    sets = {"held_out": (real, cohort, held_out)} if len(held_out) else {}
    sets |= {arm: (features, images, stable_order(images.table)) for arm, (features, images) in arms.items()}
    figures: dict[str, Any] = {}
    closest: Closest = {}
    limit = CORRELATION_OF_A_COPY
    for name, (features, images, rows) in sets.items():
        rng = np.random.default_rng(seed_from("memorization", seed, name))
        reader = PatchReader(images, image_size)
        queries = rng.permutation(rows)[:MAX_QUERIES]
        distances, alike, pairs = _nearest(features, reader, queries, training)
        if name == "held_out":
            limit = max(limit, float(np.quantile(alike, UNLIKE)))
        count, copies = len(queries), int((alike > limit).sum())
        figures[name] = {
            "distance": float(np.median(distances)),
            "copies": {"value": copies / count, "ci95": wilson_interval(copies, count), "n": count},
            "limit": limit,
            "correlation": float(alike.max()) if np.isfinite(alike).any() else None,
        }
        figures[name]["nearer"] = None if name == "held_out" else _nearer(features[queries], real, chosen, scale)
        if pairs:
            closest[name] = pairs
        reader.close()
    for name in figures:
        base = figures.get("held_out", {}).get("distance")
        figures[name]["ratio"] = figures[name]["distance"] / base if base else None
    training.reader.close()
    return figures, closest


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


@dataclass(frozen=True)
class _Training:
    features: np.ndarray
    rows: np.ndarray
    scale: Standardizer
    reader: PatchReader


def _nearest(
    features: np.ndarray, reader: PatchReader, chosen: np.ndarray, training: _Training
) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray, float]]]:
    """Return distances to the nearest training image, correlations with the most similar one, and closest pairs."""
    queries = torch.as_tensor(training.scale.transform(np.asarray(features[chosen])))
    distances, neighbors = _nearest_in_parts(queries, training)
    best, nearest, symmetry = np.full(len(chosen), -np.inf), neighbors[:, 0].copy(), np.zeros(len(chosen), int)
    # pixels in double precision need much memory: only a few at once
    for start in range(0, len(chosen), QUERIES):
        block = slice(start, start + QUERIES)
        pixels = np.stack(reader.read(chosen[block].tolist()))
        for others in neighbors[block].T:
            alike, under = symmetric_correlation(pixels, np.stack(training.reader.read(others.tolist())))
            alike = np.nan_to_num(alike, nan=-np.inf)
            closer = alike > best[block]
            nearest[block] = np.where(closer, others, nearest[block])
            symmetry[block] = np.where(closer, under, symmetry[block])
            best[block] = np.maximum(best[block], alike)
    known = np.isfinite(best)
    top = np.argsort(-best, kind="stable")[: min(SHOWN, int(known.sum()))]
    originals = training.reader.read(nearest[top].tolist())
    matching = [turned(image[None], under)[0] for image, under in zip(originals, symmetry[top].tolist())]
    return distances[:, 0], best, list(zip(reader.read(chosen[top].tolist()), matching, best[top].tolist()))


def _nearest_in_parts(queries: torch.Tensor, training: _Training) -> tuple[np.ndarray, np.ndarray]:
    # rows are read in blocks, so that memory is independent of the cohort's size
    best, nearest = torch.empty(len(queries), 0, dtype=torch.float64), torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(training.rows), BLOCK):
        rows = training.rows[start : start + BLOCK]
        references = torch.as_tensor(training.scale.transform(np.asarray(training.features[rows])))
        distances, neighbors = nearest_neighbors(queries, references, min(NEIGHBORS, len(rows)))
        best = torch.cat([best, distances], 1)
        nearest = torch.cat([nearest, torch.from_numpy(rows)[neighbors]], 1)
        order = best.argsort(dim=1, stable=True)[:, :NEIGHBORS]
        best, nearest = best.gather(1, order), nearest.gather(1, order)
    return best.numpy(), nearest.numpy()
