"""Prompt adherence: whether images show the attribute value that their prompt names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort.captions import named_subgroups
from medi_monai.evaluation.alignment.images import ComparedImages, Measured
from medi_monai.evaluation.alignment.pairs import same_noise
from medi_monai.evaluation.alignment.predictions import predict_arm
from medi_monai.metrics import figure, wilson_interval
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["measure_adherence", "prompt_adherence"]

NUM_REPLICATES = 1000


def measure_adherence(images: ComparedImages) -> Measured:
    """Measure prompt adherence by attribute and arm; empty if there are no images for prompts that name values."""
    inputs = images.inputs
    if not inputs.named:
        return Measured({"named_prompts": {}}, {})
    judge = {"judge": inputs.classifiers["judge"]}
    codes = {
        arm: predict_arm(named, judge, inputs.parts, images.image_size, batch_size=images.batch_size).codes["judge"]
        for arm, named in inputs.named.items()
    }
    tables = {arm: named.table for arm, named in inputs.named.items()}
    by_attribute = prompt_adherence(tables, codes, inputs.parts, inputs.words, inputs.prompt, images.seed)
    return Measured({"named_prompts": by_attribute}, {})


def prompt_adherence(
    tables: Mapping[str, pd.DataFrame],
    codes: Mapping[str, Mapping[str, np.ndarray]],
    parts: Sequence[Part],
    words: Mapping[str, Mapping[str, str | Sequence[str]]],
    prompt: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how often images are predicted as requested by their prompt, in each arm and relative to ``before``.

    Args:
        tables: by arm, including ``before``, the manifest of the images for prompts that name the attribute.
        codes: ``(N,)`` predicted subgroups by arm and part.
        parts: parts of the target; joint targets are left out.
        words: words that name each value of each attribute; by default the values themselves.
        prompt: column of the prompts.
        seed: seed of the bootstrap.

    Returns:
        By attribute and arm, ``share`` (Wilson interval), ``by_value``, ``left_out`` (images whose prompt names no
        value) and ``ratio`` to ``before`` over pairs of the same noise, with a bootstrap of the pairs.

    Raises:
        InputError: if no prompt names any value.
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
    # this name seeds the draws: changing it would change the figures
    rng = np.random.default_rng(seed_from("obedience", seed))
    drawn = rng.multinomial(n, table / n, NUM_REPLICATES).astype(float)
    base = drawn[:, 2] + drawn[:, 3]
    replicates = np.divide(drawn[:, 1] + drawn[:, 3], base, out=np.full(len(base), np.nan), where=base > 0)
    return figure(float(after.sum() / before.sum()), replicates, n)
