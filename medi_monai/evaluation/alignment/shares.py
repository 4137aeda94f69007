"""Shares of subgroups among generated images, beside a target: overall, by prompt, and as prompts request them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort.captions import named_subgroups
from medi_monai.evaluation.alignment.predictions import ArmPredictions, same_noise
from medi_monai.metrics import figure, interval_around, mean_figure, wilson_interval
from medi_monai.metrics.subgroups import corrected_proportions, distance_to_target, proportions, total_variation
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = [
    "change_of_distance",
    "counts_of",
    "prompt_adherence",
    "shares_by_arm",
    "shares_by_prompt",
    "shares_of_part",
]

#: a prompt with fewer images is called one with few
FEW_OF_A_PROMPT = 30
NUM_REPLICATES = 1000


def shares_by_arm(
    predictions: Mapping[str, ArmPredictions],
    parts: Sequence[Part],
    reader: str,
    held_out: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """``proportions`` and ``distance_to_target`` by arm and part, and ``change`` of the distance since ``before``.

    Args:
        predictions: by arm.
        parts: of the target.
        reader: the classifier.
        held_out: as for :func:`shares_of_part`.
        seed: of the bootstraps.
    """
    counts = {
        arm: {part.name: counts_of(own.codes[reader][part.name], part) for part in parts}
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
    """``(G,)`` images per subgroup, those that are unknown (-1) left out."""
    return np.bincount(codes[codes >= 0], minlength=len(part.values))


def shares_of_part(
    counts: np.ndarray, part: Part, held_out: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Proportions by value, and the distances to the target.

    Args:
        counts: ``(G,)`` as read.
        part: of the target.
        held_out: accuracies of the classifier by attribute; adds ``corrected``, the same figures without its mistakes.
        seed: of the bootstraps.
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
    corrected = corrected_proportions(counts, confusion, part.target, NUM_REPLICATES, seed)
    return {**shares, "corrected": {**corrected, "proportions": dict(zip(part.values, corrected["proportions"]))}}


def _confusion(held_out: Mapping[str, Any], part: Part) -> np.ndarray | None:
    # of a joint, heads are taken to err independently; its rows count as the rarer of their values
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
    """Total variation from the target after less before, with a bootstrap of both; below 0 is nearer.

    The images are resampled independently of each other: what the same noise has in common makes it no wider.

    Args:
        before: ``(G,)`` counts.
        after: likewise.
        part: of the target.
        seed: of the bootstrap.
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
    """Proportions and distances of every prompt, and the mean distance over those with images enough.

    Args:
        tables: manifests by arm.
        codes: arm to part to subgroups.
        parts: of the target.
        prompt: column.
        seed: of the bootstraps.

    Returns:
        By part ``prompts`` (rows with ``prompt`` and by arm ``n``, ``few``, ``proportions`` and distances), and
        ``mean``: by arm the mean total variation over prompts with images enough in it, before and after, with what
        draws from the target itself would have at these counts as ``by_chance``.
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


def prompt_adherence(
    tables: Mapping[str, pd.DataFrame],
    codes: Mapping[str, Mapping[str, np.ndarray]],
    parts: Sequence[Part],
    words: Mapping[str, Mapping[str, str | Sequence[str]]],
    prompt: str,
    seed: int = 0,
) -> dict[str, Any]:
    """How often a prompt that names a value of an attribute gets it, as predicted, in each arm and against ``before``.

    Args:
        tables: manifests of named prompts by arm, ``before`` among them.
        codes: arm to part to the subgroups read.
        parts: of the target; joints are left out.
        words: of each attribute, the words that name each value; by default the values themselves.
        prompt: column.
        seed: of the bootstrap.

    Returns:
        By attribute and arm ``share`` (Wilson interval), ``by_value``, ``left_out`` (images whose prompt names none)
        and ``ratio`` to ``before`` over pairs of the same noise, with a bootstrap of the pairs.

    Raises:
        InputError: where no prompt names any value.
    """
    adherence: dict[str, Any] = {}
    for part in parts:
        if len(part.vocabulary) > 1:
            continue
        asked = {arm: _asked(table, part, words.get(part.name), prompt) for arm, table in tables.items()}
        if all((codes_asked < 0).all() for codes_asked in asked.values()):
            continue
        right = {arm: codes[arm][part.name] == codes_asked for arm, codes_asked in asked.items()}
        adherence[part.name] = {}
        for arm, codes_asked in asked.items():
            known = codes_asked >= 0
            by_value = {value: _share(right[arm][codes_asked == code]) for code, value in enumerate(part.values)}
            shares = {"share": _share(right[arm][known]), "by_value": by_value, "left_out": int((~known).sum())}
            first, second = same_noise(tables["before"], tables[arm], prompt)
            usable = (asked["before"][first] >= 0) & (codes_asked[second] >= 0)
            pair = right["before"][first[usable]], right[arm][second[usable]]
            adherence[part.name][arm] = {**shares, "ratio": _ratio_of_pairs(*pair, seed)}
    if not adherence:
        first = next(iter(tables.values()))[prompt].iloc[0]
        raise InputError(
            f"no prompt of the named ones names a value of {[part.name for part in parts]}, the first is {first!r}: "
            "give prompts that do, or with --words the words that name each value, as {'sex': {'male': 'man'}}"
        )
    return adherence


def _asked(table: pd.DataFrame, part: Part, words: Mapping[str, Any] | None, prompt: str) -> np.ndarray:
    if part.name in table.columns:
        named = table[part.name]
    else:
        named = named_subgroups(table[prompt], words or {value: value for value in part.values})
    return named.map({value: code for code, value in enumerate(part.values)}).fillna(-1).to_numpy(np.int64)


def _share(right: np.ndarray) -> dict[str, Any]:
    n = len(right)
    return {"value": float(right.mean()) if n else None, "ci95": wilson_interval(int(right.sum()), n), "n": n}


def _ratio_of_pairs(before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    n = len(before)
    if not before.sum():
        return figure(None, n=n)
    table = np.bincount(2 * before.astype(int) + after.astype(int), minlength=4)
    # the name seeds the draws: with another one, figures would be others
    rng = np.random.default_rng(seed_from("obedience", seed))
    drawn = rng.multinomial(n, table / n, NUM_REPLICATES).astype(float)
    base = drawn[:, 2] + drawn[:, 3]
    replicates = np.divide(drawn[:, 1] + drawn[:, 3], base, out=np.full(len(base), np.nan), where=base > 0)
    return figure(float(after.sum() / before.sum()), replicates, n)
