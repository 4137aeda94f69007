"""Shares of subgroups among generated images, compared with a target: overall and by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort.reading import image_blocks
from medi_monai.engines.classifiers.accuracy import accuracies, is_at_chance, patients_of
from medi_monai.evaluation.alignment.images import ComparedImages, Measured
from medi_monai.evaluation.alignment.inputs import AlignmentInputs
from medi_monai.evaluation.alignment.predictions import ArmPredictions
from medi_monai.metrics import figure, interval_around, mean_figure
from medi_monai.metrics.subgroups import corrected_proportions, distance_to_target, proportions, total_variation
from medi_monai.utils.seeding import seed_from

__all__ = [
    "change_of_distance",
    "counts_of",
    "measure_shares",
    "shares_by_arm",
    "shares_by_prompt",
    "shares_of_part",
]

#: number of images below which a prompt is marked as having few images
FEW_OF_A_PROMPT = 30
NUM_REPLICATES = 1000


def measure_shares(images: ComparedImages) -> Measured:
    """Measure, with each classifier, the shares by arm, attribute and value, and their distances to the target."""
    inputs, predictions, seed = images.inputs, images.predictions, images.seed
    held_out, notes = _held_out(images)
    unknown = int((inputs.joint.codes(inputs.real.table) < 0).sum())
    if unknown:
        notes.append(f"{unknown:,} real images have a value that the judge does not read; they are left out.")
    of_judge = {name: held_out["judge"][name] for name in inputs.target.attributes}
    tables = {arm: generated.table for arm, generated in inputs.arms.items()}
    codes = {arm: own.codes["judge"] for arm, own in predictions.items()}
    figures = {
        "part": inputs.joint.name,
        "target": {
            **inputs.target.to_dict(),
            "parts": {part.name: dict(zip(part.values, part.target.tolist())) for part in inputs.parts},
        },
        "judge": {
            "held_out": of_judge,
            "at_chance": [name for name, accuracy in of_judge.items() if is_at_chance(accuracy)],
        },
        "training": _training_shares(inputs),
        **shares_by_arm(predictions, inputs.parts, "judge", held_out["judge"], seed),
        "readers": {
            name: {**shares_by_arm(predictions, inputs.parts, name, None, seed), "held_out": held_out[name]}
            for name in inputs.classifiers
            if name != "judge"
        },
        "by_prompt": shares_by_prompt(tables, codes, inputs.parts, inputs.prompt, seed),
        "notes": [*notes, *_other_target(inputs)],
    }
    return Measured(figures, {})


def _other_target(inputs: AlignmentInputs) -> list[str]:
    aimed = (inputs.recorded or {}).get("target", {}).get("target")
    own = dict(zip(inputs.target.names, inputs.target.probabilities))
    if aimed is None or (set(aimed) == set(own) and all(abs(aimed[name] - own[name]) < 1e-6 for name in own)):
        return []
    return [f"The tuning aimed at another target than this page measures: {aimed}."]


def _training_shares(inputs: AlignmentInputs) -> dict[str, Any]:
    """Return the proportions of each part among the real training images, if their table has its attributes."""
    table = inputs.cohort.split("train").table
    return {
        part.name: dict(zip(part.values, proportions(counts_of(part.codes(table), part))))
        for part in inputs.parts
        if set(part.vocabulary) <= set(table.columns)
    }


def _held_out(images: ComparedImages) -> tuple[dict[str, dict[str, Any]], list[str]]:
    # accuracies of each classifier by attribute, and notes; a judge without them is measured on the real images
    inputs = images.inputs
    held_out = {name: dict(classifier.held_out) for name, classifier in inputs.classifiers.items()}
    judge, real = inputs.classifiers["judge"], inputs.real
    lacking = [name for name in inputs.target.attributes if name not in held_out["judge"]]
    if not lacking:
        return held_out, []
    blocks = [judge.probabilities(pixels, images.batch_size) for pixels in image_blocks(real, images.image_size)]
    values = {part.name: part.values for part in inputs.parts if part.name in lacking}
    codes = np.stack([part.codes(real.table) for part in inputs.parts if part.name in lacking], axis=1)
    read = {name: torch.cat([block[name] for block in blocks]) for name in lacking}
    held_out["judge"] |= accuracies(read, torch.from_numpy(codes), values, patients_of(real.table), images.seed)
    sentence = (
        f"The judge came without held-out accuracies of {', '.join(lacking)}: it was measured on the {len(real):,} "
        "real images compared with, which it may have been trained on."
    )
    return held_out, [sentence]


def shares_by_arm(
    predictions: Mapping[str, ArmPredictions],
    parts: Sequence[Part],
    classifier: str,
    held_out: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return ``proportions``, ``distance_to_target`` and ``change`` (of the distance since ``before``) by arm and part.

    Args:
        predictions: predictions by arm, including ``before``.
        parts: parts of the target.
        classifier: name of the classifier.
        held_out: accuracies of the classifier, as for :func:`shares_of_part`.
        seed: seed of the bootstraps.
    """
    counts = {
        arm: {part.name: counts_of(own.codes[classifier][part.name], part) for part in parts}
        for arm, own in predictions.items()
    }
    shares: dict[str, Any] = {"proportions": {}, "distance_to_target": {}, "change": {}}
    for arm, own in counts.items():
        figures = {part.name: shares_of_part(own[part.name], part, held_out, seed) for part in parts}
        shares["proportions"][arm] = {name: of_part.pop("proportions") for name, of_part in figures.items()}
        shares["distance_to_target"][arm] = figures
        if arm != "before":
            shares["change"][arm] = {
                part.name: change_of_distance(counts["before"][part.name], own[part.name], part, seed) for part in parts
            }
    return shares


def counts_of(codes: np.ndarray, part: Part) -> np.ndarray:
    """Return the ``(G,)`` number of images of each subgroup, ignoring images of unknown subgroup (-1)."""
    return np.bincount(codes[codes >= 0], minlength=len(part.values))


def shares_of_part(
    counts: np.ndarray, part: Part, held_out: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return the proportions by value, and the distances to the target.

    Args:
        counts: ``(G,)`` number of images predicted as each subgroup.
        part: part of the target.
        held_out: accuracies of the classifier by attribute, from which ``corrected``, the figures corrected for
            misclassification, are computed; None omits these.
        seed: seed of the bootstraps.
    """
    shares: dict[str, Any] = {
        "proportions": dict(zip(part.values, proportions(counts))),
        **distance_to_target(counts, part.target, NUM_REPLICATES, seed),
    }
    if held_out is None:
        return shares
    confusion, n = _confusion(held_out, part), int(counts.sum())
    if confusion is None:
        nothing = figure(None, n=n)
        return {
            **shares,
            "corrected": {
                "proportions": dict.fromkeys(part.values, nothing),
                "total_variation": nothing,
                "kl": nothing,
                "undefined": "nobody measured the classifier on held-out images",
            },
        }
    # for a joint target, the larger one: errors of one attribute repeat within patients as much as those of both
    effect = max(held_out[name].get("design_effect") or 1.0 for name in part.vocabulary)
    corrected = corrected_proportions(counts, confusion, part.target, NUM_REPLICATES, seed, effect)
    return {**shares, "corrected": {**corrected, "proportions": dict(zip(part.values, corrected["proportions"]))}}


def _confusion(held_out: Mapping[str, Any], part: Part) -> np.ndarray | None:
    # for a joint target, the attributes are assumed to be misclassified independently; a row of the joint confusion
    # matrix has the image count of the rarer of its values
    tables = []
    for name, values in part.vocabulary.items():
        accuracy = held_out.get(name)
        if not accuracy:
            return None
        order = [list(accuracy["values"]).index(value) for value in values]
        tables.append(np.asarray(accuracy["confusion"], float)[np.ix_(order, order)])
    if len(tables) == 1:
        return tables[0].astype(np.int64)
    sizes = [table.sum(1) for table in tables]
    rates = [
        np.divide(table, size[:, None], out=np.zeros_like(table), where=size[:, None] > 0)
        for table, size in zip(tables, sizes)
    ]
    least = reduce(lambda smallest, size: np.minimum.outer(smallest, size).ravel(), sizes)
    joint: np.ndarray = reduce(np.kron, rates) * least[:, None]
    return joint


def change_of_distance(before: np.ndarray, after: np.ndarray, part: Part, seed: int = 0) -> dict[str, Any]:
    """Return the change of total variation from the target (after minus before); negative means closer.

    The two sets of images are resampled independently; taking shared noise into account would not widen the interval.

    Args:
        before: ``(G,)`` number of images predicted as each subgroup before tuning.
        after: ``(G,)`` number of images predicted as each subgroup after tuning.
        part: part of the target.
        seed: seed of the bootstrap.
    """
    n = int(min(before.sum(), after.sum()))
    if n == 0:
        return figure(None, n=0)
    rng = np.random.default_rng(seed_from("change of distance", seed))
    values, drawn = [], []
    for counts in (before, after):
        total = int(counts.sum())
        values.append(float(total_variation(counts / total, part.target)))
        replicates = rng.multinomial(total, counts / total, NUM_REPLICATES) / total
        drawn.append(total_variation(replicates, part.target))
    value = values[1] - values[0]
    return {"value": value, "ci95": interval_around(value, drawn[1] - drawn[0]), "n": n}


def shares_by_prompt(
    tables: Mapping[str, pd.DataFrame], codes: Mapping[str, Mapping[str, np.ndarray]], parts: Sequence[Part],
    prompt: str, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return proportions and distances of every prompt, and the mean distance over prompts with enough images.

    Args:
        tables: manifest of each arm.
        codes: ``(N,)`` predicted subgroups by arm and part.
        parts: parts of the target.
        prompt: column of the prompts.
        seed: seed of the bootstraps.

    Returns:
        By part, ``prompts`` (one row per prompt, with ``n``, ``few``, ``proportions`` and distances of each arm),
        ``mean`` (for each arm, the mean total variation over prompts with enough images in it, before and after, with
        ``by_chance``, the value expected for as many draws from the target), and ``least_images``.
    """
    by_part: dict[str, Any] = {}
    for part in parts:
        rows: list[dict[str, Any]] = []
        names = list(dict.fromkeys(name for table in tables.values() for name in table[prompt]))
        held = {arm: _by_prompt(table[prompt], codes[arm][part.name], part) for arm, table in tables.items()}
        for name in names:
            by_arm = {}
            for arm, of_prompt in held.items():
                counts = of_prompt.get(name, np.zeros(len(part.values), np.int64))
                n = int(counts.sum())
                by_arm[arm] = {"n": n, "few": n < FEW_OF_A_PROMPT, **shares_of_part(counts, part, seed=seed)}
            rows.append({"prompt": name, "arms": by_arm})
        enough = {}
        for arm in tables:
            compared = {"before", "after", arm} & set(tables)
            enough[arm] = [row["arms"][arm] for row in rows if not any(row["arms"][other]["few"] for other in compared)]
        by_part[part.name] = {
            "prompts": rows,
            "mean": {arm: _mean_over_prompts(of_arm, part, seed) for arm, of_arm in enough.items()},
            "least_images": FEW_OF_A_PROMPT,
        }
    return by_part


def _by_prompt(prompts: pd.Series, codes: np.ndarray, part: Part) -> dict[str, np.ndarray]:
    numbers, names = pd.factorize(prompts)
    table = np.bincount(numbers * len(part.values) + codes, minlength=len(names) * len(part.values))
    return dict(zip(names, table.reshape(len(names), -1)))


def _mean_over_prompts(rows: Sequence[Mapping[str, Any]], part: Part, seed: int) -> dict[str, Any]:
    if not rows:
        return {**figure(None, n=0), "by_chance": None}
    rng = np.random.default_rng(seed_from("prompts by chance", seed))
    expected = {
        n: float(total_variation(rng.multinomial(n, part.target, NUM_REPLICATES) / n, part.target).mean())
        for n in sorted({row["n"] for row in rows})
    }
    mean = mean_figure(np.array([row["total_variation"]["value"] for row in rows]))
    return {**mean, "by_chance": float(np.mean([expected[row["n"]] for row in rows]))}
