"""Images of the same noise before and after a tuning: how alike they are, and whether named subgroups still come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort.captions import named_subgroups
from medi_monai.evaluation.subgroups.shares import NUM_REPLICATES, Looked, mean_figure
from medi_monai.metrics import figure
from medi_monai.metrics.resampling import wilson_interval
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["consistency", "obedience", "same_noise"]


def same_noise(before: pd.DataFrame, after: pd.DataFrame, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of both tables whose images began with the same noise: alike in prompt, number and seed."""
    if not all("number" in table.columns for table in (before, after)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    keys = [prompt, "number", *(["seed"] if "seed" in before.columns and "seed" in after.columns else [])]
    left, right = (table[keys].assign(row=np.arange(len(table))) for table in (before, after))
    pairs = left.merge(right, on=keys, suffixes=("_before", "_after"))
    return pairs["row_before"].to_numpy(np.int64), pairs["row_after"].to_numpy(np.int64)


def consistency(
    before: Looked, after: Looked, rows: tuple[np.ndarray, np.ndarray], reader: str, part: str
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
    first, second = (one.codes[reader][part][place] for one, place in zip((before, after), rows))
    stays = first == second
    scores = [one.scores[place] for one, place in zip((before, after), rows) if one.scores is not None]
    found: dict[str, Any] = {"num_stayed": int(stays.sum()), "num_changed": int((~stays).sum())}
    found["score_change"] = mean_figure(scores[1] - scores[0] if len(scores) == 2 else None)
    if before.features is None or after.features is None:
        nothing = {"all": len(stays), "stayed": int(stays.sum()), "changed": int((~stays).sum())}
        return {**found, **{name: figure(None, n=n) for name, n in nothing.items()}, "unrelated": figure(None, n=0)}
    one, other = before.features[rows[0]].astype(float), after.features[rows[1]].astype(float)
    cosine, n = (one * other).sum(1), len(stays)
    unrelated = (one.sum(0) @ other.sum(0) - cosine.sum()) / (n * (n - 1)) if n > 1 else None
    figures = {"all": cosine, "stayed": cosine[stays], "changed": cosine[~stays]}
    return {
        **found,
        **{name: mean_figure(values) for name, values in figures.items()},
        "unrelated": figure(unrelated, n=n * (n - 1)),
    }


def obedience(
    tables: Mapping[str, pd.DataFrame],
    codes: Mapping[str, Mapping[str, np.ndarray]],
    parts: Sequence[Part],
    words: Mapping[str, Mapping[str, str | Sequence[str]]],
    prompt: str,
    seed: int = 0,
) -> dict[str, Any]:
    """How often a prompt that names a value of an attribute gets it, as read, in each arm and against ``before``.

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
    found: dict[str, Any] = {}
    for part in parts:
        if len(part.vocabulary) > 1:
            continue
        asked = {arm: _asked(table, part, words.get(part.name), prompt) for arm, table in tables.items()}
        if all((one < 0).all() for one in asked.values()):
            continue
        right = {arm: codes[arm][part.name] == one for arm, one in asked.items()}
        found[part.name] = {}
        for arm, one in asked.items():
            known = one >= 0
            by_value = {value: _share(right[arm][one == code]) for code, value in enumerate(part.values)}
            made = {"share": _share(right[arm][known]), "by_value": by_value, "left_out": int((~known).sum())}
            first, second = same_noise(tables["before"], tables[arm], prompt)
            usable = (asked["before"][first] >= 0) & (one[second] >= 0)
            pair = right["before"][first[usable]], right[arm][second[usable]]
            found[part.name][arm] = {**made, "ratio": _ratio_of_pairs(*pair, seed)}
    if not found:
        first = next(iter(tables.values()))[prompt].iloc[0]
        raise InputError(
            f"no prompt of the named ones names a value of {[part.name for part in parts]}, the first is {first!r}: "
            "give prompts that do, or with --words the words that name each value, as {'sex': {'male': 'man'}}"
        )
    return found


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
    rng = np.random.default_rng(seed_from("obedience", seed))
    drawn = rng.multinomial(n, table / n, NUM_REPLICATES).astype(float)
    base = drawn[:, 2] + drawn[:, 3]
    replicates = np.divide(drawn[:, 1] + drawn[:, 3], base, out=np.full(len(base), np.nan), where=base > 0)
    return figure(float(after.sum() / before.sum()), replicates, n)
