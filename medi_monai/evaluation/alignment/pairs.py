"""Similarity of pairs of images from the same noise, before and after tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.alignment.images import ComparedImages, Measured
from medi_monai.evaluation.alignment.predictions import ArmPredictions
from medi_monai.metrics import figure, mean_figure
from medi_monai.utils.seeding import seed_from

__all__ = ["consistency", "measure_pairs", "pair_pictures", "same_noise", "standardized"]

#: maximum number of pairs shown of those that kept their subgroup, and of those that changed it
SHOWN = 12


def measure_pairs(images: ComparedImages) -> Measured:
    """Measure the CLIP score and the consistency with ``before`` of every arm, and select ``pairs`` for the page."""
    inputs, predictions = images.inputs, images.predictions
    features = standardized({arm: images.features[arm] for arm in predictions}, "before")
    by_arm = {}
    for arm, predicted in predictions.items():
        if arm != "before":
            rows = same_noise(inputs.arms["before"].table, inputs.arms[arm].table, inputs.prompt)
            arms = predictions["before"], predicted
            vectors = features["before"], features[arm]
            by_arm[arm] = consistency(arms, vectors, rows, "judge", inputs.joint.name)
    figures = {
        "consistency": by_arm,
        "clip_score": {arm: mean_figure(predicted.scores) for arm, predicted in predictions.items()},
    }
    shown = pair_pictures(inputs.arms, images.judged, inputs.joint, inputs.prompt, images.image_size, images.seed)
    return Measured(figures, {"pairs": shown})


def same_noise(before: pd.DataFrame, after: pd.DataFrame, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers, in two manifests, of pairs of images from the same noise.

    These have the same prompt, number and, if both manifests have the column, seed.
    """
    if not all("number" in table.columns for table in (before, after)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    keys = [prompt, "number", *(["seed"] if "seed" in before.columns and "seed" in after.columns else [])]
    left, right = (table[keys].assign(row=np.arange(len(table))) for table in (before, after))
    pairs = left.merge(right, on=keys, suffixes=("_before", "_after"))
    return pairs["row_before"].to_numpy(np.int64), pairs["row_after"].to_numpy(np.int64)


def standardized(features: Mapping[str, np.ndarray], base: str) -> dict[str, np.ndarray]:
    """Return features in standard deviations from the mean of one arm: unrelated images have a cosine of about 0.

    Args:
        features: ``(N, D)`` features by arm.
        base: arm whose mean and standard deviations are used; features that are constant in it are left out.
    """
    own = np.asarray(features[base], float)
    mean, spread = own.mean(0), own.std(0)
    varies = spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-12)
    return {
        arm: (np.asarray(of_arm, float)[:, varies] - mean[varies]) / spread[varies] for arm, of_arm in features.items()
    }


def consistency(
    arms: tuple[ArmPredictions, ArmPredictions],
    features: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray],
    classifier: str,
    part: str,
) -> dict[str, Any]:
    """Measure the cosine similarity of features for the same noise and prompt in two arms.

    Args:
        arms: predictions of both arms.
        features: ``(N, D)`` features of both arms, from :func:`standardized`, by an encoder without part in the tuning.
        rows: rows of both arms, from :func:`same_noise`.
        classifier: name of the classifier that predicts the subgroup.
        part: name of the part of the target whose subgroups are compared.

    Returns:
        ``all``, ``stayed`` and ``changed`` (pairs that kept or changed their subgroup) as figures; ``unrelated``: the
        mean cosine of images from different noise, for comparison; ``num_stayed``, ``num_changed``; and
        ``score_change``: the difference of CLIP scores, after minus before.
    """
    first, second = (arm.codes[classifier][part][some] for arm, some in zip(arms, rows))
    stays = first == second
    scores = [arm.scores[some] for arm, some in zip(arms, rows) if arm.scores is not None]
    counts: dict[str, Any] = {"num_stayed": int(stays.sum()), "num_changed": int((~stays).sum())}
    counts["score_change"] = mean_figure(scores[1] - scores[0] if len(scores) == 2 else None)
    first_features, second_features = (_unit(vectors[some]) for vectors, some in zip(features, rows))
    cosine, n = (first_features * second_features).sum(1), len(stays)
    unrelated = (first_features.sum(0) @ second_features.sum(0) - cosine.sum()) / (n * (n - 1)) if n > 1 else None
    figures = {"all": cosine, "stayed": cosine[stays], "changed": cosine[~stays]}
    return {
        **counts,
        **{name: mean_figure(values) for name, values in figures.items()},
        "unrelated": figure(unrelated, n=n * (n - 1)),
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def pair_pictures(
    arms: Mapping[str, Cohort], codes: Mapping[str, np.ndarray], joint: Part, prompt: str, image_size: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Select pairs of images from the same noise before and after, evenly from each change of subgroup.

    Args:
        arms: images of ``before`` and ``after``.
        codes: ``(N,)`` predicted subgroups of both arms.
        joint: part of the target that defines the subgroups.
        prompt: column of the prompts.
        image_size: side of the images in pixels.
        seed: seed of the selection.

    Returns:
        For ``stayed`` and ``changed``, a mapping from titles (names of the subgroups) to pairs of ``(H, W, 3)`` uint8
        images.
    """
    first, second = same_noise(arms["before"].table, arms["after"].table, prompt)
    was, now = codes["before"][first], codes["after"][second]
    sources = [PatchReader(arms[arm], image_size) for arm in ("before", "after")]
    pictures: dict[str, dict[str, Any]] = {"stayed": {}, "changed": {}}
    for kind, mask in (("stayed", was == now), ("changed", was != now)):
        ways, counts = np.unique(np.stack([was[mask], now[mask]], 1), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:SHOWN]
        shown = _dealt(counts[order], SHOWN)
        for (start, end), take in zip(ways[order].tolist(), shown):
            rows = np.flatnonzero((was == start) & (now == end))
            rng = np.random.default_rng(seed_from("pairs", seed, start, end))
            some = rng.permutation(rows)[:take]
            names = [joint.values[code] for code in dict.fromkeys((start, end))]
            both = [sources[0].read(first[some].tolist()), sources[1].read(second[some].tolist())]
            pictures[kind][f"{' to '.join(names)} ({len(rows):,})"] = list(zip(*both))
    for source in sources:
        source.close()
    return pictures


def _dealt(counts: np.ndarray, total: int) -> list[int]:
    """Divide ``total`` as evenly as possible into shares of at most ``counts``."""
    dealt, left = [0] * len(counts), total
    for done, index in enumerate(np.argsort(counts, kind="stable").tolist()):
        dealt[index] = min(int(counts[index]), left // (len(counts) - done))
        left -= dealt[index]
    return dealt
