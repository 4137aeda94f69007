"""Splits that hold out combinations of values while each value occurs in training."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.cohort.splits.patients import Combination, keep_apart, observed_combinations, quoted
from medi_monai.cohort.splits.scheme import SplitScheme
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["combination_holdout", "split_by_combination", "split_by_subpopulation", "subpopulation_holdout"]

#: minimum number of combinations that every class and attribute value keeps in training; with only one, the effects of
#: class and attribute cannot be distinguished
MIN_PARTNERS = 2


def split_by_combination(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Split by ``combination_holdout``: every value keeps at least two combinations in training, or its only one.

    Args:
        units: one row per patient and combination.
        scheme: columns, fraction and seed.

    Raises:
        InputError: if not enough combinations can be held out, or if the patients of held-out combinations also have
            other combinations that a value needs in training.
    """
    held = combination_holdout(units, scheme)
    split = _split(units, scheme.columns, held)
    if held:
        _check_partners(units, split, scheme.columns)
    return split


def split_by_subpopulation(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Split by ``subpopulation_holdout``: every class keeps a combination in training and has one held out.

    Args:
        units: one row per patient and combination.
        scheme: columns, fraction and seed.

    Raises:
        InputError: for classes with only one combination, or with no training rows once the patients of held-out
            combinations are removed.
    """
    held = subpopulation_holdout(units, scheme)
    split = _split(units, scheme.columns, held)
    label = scheme.columns[0]
    left = {key[0] for key in observed_combinations(units[split == "train"], scheme.columns)}
    lost = sorted(set(units[label]) - left)
    if held and lost:
        raise InputError(
            f"patients of held-out combinations also have others, and without them {label} {lost[0]!r}{_more(lost)} "
            "keeps no combination in training. Lower the split's fraction, or change its seed."
        )
    return split


def combination_holdout(rows: pd.DataFrame, scheme: SplitScheme) -> set[Combination]:
    """Choose the combinations to hold out at random, one class after the other in turn, as evenly as possible.

    A value with at most two combinations keeps all of them in training.

    Args:
        rows: table with the scheme's columns; rows with a missing value belong to no combination.
        scheme: columns, fraction of the combinations, and seed.

    Raises:
        InputError: if not enough combinations can be held out.
    """
    combinations = observed_combinations(rows, scheme.columns)
    wanted = round(scheme.fraction * len(combinations)) if len(scheme.columns) > 1 else 0
    order = np.random.default_rng(seed_from("combination holdout", scheme.seed)).permutation(len(combinations))
    queues: dict[str, deque[Combination]] = {}
    for number in order:
        queues.setdefault(combinations[number][0], deque()).append(combinations[number])
    kept = Counter(value for combination in combinations for value in enumerate(combination))
    held: set[Combination] = set()
    while len(held) < wanted:
        before = len(held)
        for queue in queues.values():
            # drop combinations that a value needs: as counts only decrease, it also needs them later
            while queue and any(kept[value] <= MIN_PARTNERS for value in enumerate(queue[0])):
                queue.popleft()
            if queue and len(held) < wanted:
                kept.subtract(enumerate(queue[0]))
                held.add(queue.popleft())
        if len(held) == before:
            raise _too_few_to_spare(combinations, scheme.columns, len(held), wanted)
    return held


def subpopulation_holdout(rows: pd.DataFrame, scheme: SplitScheme) -> set[Combination]:
    """Choose the combinations to hold out: a fraction of those of each class, at least one and never all.

    The choice within a class depends only on the seed and on that class.

    Args:
        rows: table with the scheme's columns; rows with a missing value belong to no combination.
        scheme: columns, fraction (0 holds out nothing) and seed.

    Raises:
        InputError: for classes with fewer than two combinations, which cannot be in both training and holdout.
    """
    if scheme.fraction == 0:
        return set()
    of_class: dict[str, list[Combination]] = {label: [] for label in sorted(set(rows[scheme.columns[0]]))}
    for combination in observed_combinations(rows, scheme.columns):
        of_class[combination[0]].append(combination)
    small = {label: len(combinations) for label, combinations in of_class.items() if len(combinations) < 2}
    if small:
        raise InputError(
            f"subpopulation_holdout keeps one combination of {list(scheme.columns[1:])} of every class in training and "
            f"holds one out, but these classes are too small: {quoted(small, 'combination')}. Remove or merge these "
            "classes, or use combination_holdout, which keeps small classes in training."
        )
    held: set[Combination] = set()
    for label, combinations in of_class.items():
        wanted = min(max(1, round(scheme.fraction * len(combinations))), len(combinations) - 1)
        rng = np.random.default_rng(seed_from("subpopulation holdout", scheme.seed, label))
        held.update(combinations[number] for number in rng.permutation(len(combinations))[:wanted])
    return held


def _split(units: pd.DataFrame, columns: Sequence[str], held: set[Combination]) -> pd.Series:
    keys = units[list(columns)].itertuples(index=False, name=None)
    is_held = np.fromiter((key in held for key in keys), bool, len(units))
    return keep_apart(units, is_held, _may_be_held(units[list(columns)], held))


def _may_be_held(values: pd.DataFrame, held: set[Combination]) -> np.ndarray:
    """Return which rows have missing values and agree with a held-out combination in all other values."""
    result = np.zeros(len(values), bool)
    missing = values.eq("").to_numpy()
    for pattern in np.unique(missing[missing.any(axis=1)], axis=0):
        known = np.flatnonzero(~pattern)
        possible = {tuple(key[position] for position in known) for key in held}
        rows = np.flatnonzero((missing == pattern).all(axis=1))
        keys = values.iloc[rows, known].itertuples(index=False, name=None)
        result[rows] = [key in possible for key in keys]
    return result


def _too_few_to_spare(combinations: list[Combination], columns: Sequence[str], spared: int, wanted: int) -> InputError:
    small = []
    for position, column in enumerate(columns):
        counts = Counter(combination[position] for combination in combinations)
        poor = sum(count <= MIN_PARTNERS for count in counts.values())
        small.append(f"{poor} of {len(counts)} values of {column!r}")
    remedy = f"Give a holdout fraction of at most {math.floor(100 * spared / len(combinations)) / 100:g}."
    if not spared:
        remedy = (
            "No fraction is possible; subpopulation_holdout does not have this condition, and auto selects it "
            "automatically."
        )
    return InputError(
        f"only {spared} of {wanted} combinations of {list(columns)} can be held out while every value keeps "
        f"{MIN_PARTNERS} combinations in training; the cohort has {len(combinations)} of them, and {', '.join(small)} "
        f"have {MIN_PARTNERS} or fewer. {remedy}"
    )


def _check_partners(units: pd.DataFrame, split: pd.Series, columns: Sequence[str]) -> None:
    # all rows of a patient with a held-out combination leave training, which the choice of combinations did not
    # consider
    before, left = (observed_combinations(rows, columns) for rows in (units, units[split == "train"]))
    for position, column in enumerate(columns):
        partners_before, partners_left = (
            Counter(combination[position] for combination in combinations) for combinations in (before, left)
        )
        poor = sorted(
            value for value in partners_before if partners_left[value] < min(MIN_PARTNERS, partners_before[value])
        )
        if poor:
            least = min(MIN_PARTNERS, partners_before[poor[0]])
            raise InputError(
                f"patients of held-out combinations also have others, and without them {column} {poor[0]!r}"
                f"{_more(poor)} keeps fewer than {least} combination{'s' if least > 1 else ''} in training. "
                "Lower the split's fraction, or change its seed."
            )


def _more(values: Sequence[str]) -> str:
    return f" (and {len(values) - 1} more)" if len(values) > 1 else ""
