"""Pairs of images that began with the same noise, before and after a tuning: how alike they are."""

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

__all__ = ["consistency", "measure_pairs", "pair_pictures", "same_noise"]

#: pairs of the same noise shown, of those that stayed and of those that changed
SHOWN = 12


def measure_pairs(images: ComparedImages) -> Measured:
    """Consistency with ``before`` and CLIP scores of every arm, and pictures of ``pairs``."""
    inputs, predictions = images.inputs, images.predictions
    by_arm = {}
    for arm, predicted in predictions.items():
        if arm != "before":
            rows = same_noise(inputs.arms["before"].table, inputs.arms[arm].table, inputs.prompt)
            by_arm[arm] = consistency(predictions["before"], predicted, rows, "judge", inputs.joint.name)
    figures = {
        "consistency": by_arm,
        "clip_score": {arm: mean_figure(predicted.scores) for arm, predicted in predictions.items()},
    }
    shown = pair_pictures(inputs.arms, images.judged, inputs.joint, inputs.prompt, images.image_size, images.seed)
    return Measured(figures, {"pairs": shown})


def same_noise(before: pd.DataFrame, after: pd.DataFrame, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of both tables whose images began with the same noise: alike in prompt, number and seed."""
    if not all("number" in table.columns for table in (before, after)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    keys = [prompt, "number", *(["seed"] if "seed" in before.columns and "seed" in after.columns else [])]
    left, right = (table[keys].assign(row=np.arange(len(table))) for table in (before, after))
    pairs = left.merge(right, on=keys, suffixes=("_before", "_after"))
    return pairs["row_before"].to_numpy(np.int64), pairs["row_after"].to_numpy(np.int64)


def consistency(
    before: ArmPredictions, after: ArmPredictions, rows: tuple[np.ndarray, np.ndarray], reader: str, part: str
) -> dict[str, Any]:
    """Cosine of CLIP features of the same noise and prompt in two arms, by whether the subgroup stayed.

    Args:
        before: one arm.
        after: the other.
        rows: of :func:`same_noise`.
        reader: who says what the subgroup is.
        part: of the target.

    Returns:
        ``all``, ``stayed`` and ``changed`` as figures, ``unrelated``: the mean cosine of images of other noise, which a
        cosine has to be seen beside, ``num_stayed``, ``num_changed``, and ``score_change``: the CLIP score of an image
        less that before.
    """
    first, second = (arm.codes[reader][part][some] for arm, some in zip((before, after), rows))
    stays = first == second
    scores = [arm.scores[some] for arm, some in zip((before, after), rows) if arm.scores is not None]
    counts: dict[str, Any] = {"num_stayed": int(stays.sum()), "num_changed": int((~stays).sum())}
    counts["score_change"] = mean_figure(scores[1] - scores[0] if len(scores) == 2 else None)
    if before.features is None or after.features is None:
        nothing = {"all": len(stays), "stayed": int(stays.sum()), "changed": int((~stays).sum())}
        return {**counts, **{name: figure(None, n=n) for name, n in nothing.items()}, "unrelated": figure(None, n=0)}
    first_features = before.features[rows[0]].astype(float)
    second_features = after.features[rows[1]].astype(float)
    cosine, n = (first_features * second_features).sum(1), len(stays)
    unrelated = (first_features.sum(0) @ second_features.sum(0) - cosine.sum()) / (n * (n - 1)) if n > 1 else None
    figures = {"all": cosine, "stayed": cosine[stays], "changed": cosine[~stays]}
    return {
        **counts,
        **{name: mean_figure(values) for name, values in figures.items()},
        "unrelated": figure(unrelated, n=n * (n - 1)),
    }


def pair_pictures(
    arms: Mapping[str, Cohort], codes: Mapping[str, np.ndarray], joint: Part, prompt: str, image_size: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Pictures of the same noise before and after by what became of the subgroup, drawn evenly from each kind.

    Args:
        arms: ``before`` and ``after``.
        codes: their subgroups.
        joint: of the target.
        prompt: column.
        image_size: side in pixels.
        seed: of the choice.

    Returns:
        ``stayed`` and ``changed`` to a title and its pairs, ``(H, W, 3)`` uint8 each.
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
    """``total`` dealt evenly, where what one has too few for goes to the others."""
    dealt, left = [0] * len(counts), total
    for done, index in enumerate(np.argsort(counts, kind="stable").tolist()):
        dealt[index] = min(int(counts[index]), left // (len(counts) - done))
        left -= dealt[index]
    return dealt
