"""Make sampling plans from a training table: combinations to sample, and the number of images for each."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from medi_monai.cohort.plans.fill import exact_total, fill
from medi_monai.cohort.table import require_columns
from medi_monai.schema import is_missing
from medi_monai.utils.console import say
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["PLANS", "PlanLimits", "TargetShares", "held_out_combinations", "make_plan"]

PLANS = ("unseen", "balance", "observed", "all", "union", "target")
MAX_COMBINATIONS = 10**6
#: limit of the images of a single combination if the user sets none
MAX_COUNT = 10**9

Key = tuple[str, ...]


@dataclass(frozen=True)
class PlanLimits:
    """Limits on the numbers of images, and on extrapolation to rare values.

    Args:
        min_per_combination: minimum number of images of each combination in the plan.
        max_per_combination: maximum number of images of each combination; None for no limit.
        max_images: maximum number of images of the whole plan; None for no limit.
        min_training_patches: minimum number of training patches with each value of a combination; combinations with a
            rarer value are not planned.

    Raises:
        InputError: if the minimum per combination exceeds the maximum.
    """

    min_per_combination: int = 0
    max_per_combination: int | None = None
    max_images: int | None = None
    min_training_patches: int = 0

    def __post_init__(self) -> None:
        most = self.max_per_combination
        if most is not None and most < self.min_per_combination:
            raise InputError(
                f"min_per_combination = {self.min_per_combination} is more than max_per_combination = {most}"
            )


@dataclass(frozen=True)
class TargetShares:
    """Shares that training images and planned images should have together.

    Args:
        columns: columns of the plan that define the subgroups; within a subgroup, images are spread evenly over the
            values of the other columns.
        shares: share of each subgroup, keyed by its values in the order of ``columns``; they sum to 1.
    """

    columns: tuple[str, ...]
    shares: Mapping[Key, float]


def make_plan(
    table: pd.DataFrame,
    columns: Sequence[str],
    kind: str,
    images_per_combination: int = 16,
    limits: PlanLimits = PlanLimits(),
    target: TargetShares | None = None,
    values: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Make a plan from a training table.

    Args:
        table: training rows.
        columns: label and attributes whose combinations are planned.
        kind: ``unseen``: all combinations of values in ``table`` that have no row; ``balance``: for each combination,
            as many images as it needs to reach the size of the largest; ``observed``: all combinations that have rows;
            ``all``: all combinations of values, seen or not; ``union``: every label with every combination of the
            attributes that has rows with any label; ``target``: the smallest number of images that brings ``table`` to
            the given shares, or as close as ``limits`` allow.
        images_per_combination: number of images of each combination; not used by ``balance`` and ``target``.
        limits: limits on the counts. If ``max_images`` is reached, the images are spread evenly; for ``balance`` and
            ``target``, the combinations that lack the most images are filled first.
        target: the shares to reach; required by ``target``, and not allowed for other kinds.
        values: values to combine for columns whose values should not be taken from ``table``, such as ranges of ages.

    Returns:
        One row per combination with ``columns`` and ``count``, sorted, without combinations that need no image.

    Raises:
        InputError: for an unknown kind or column, no columns, a count below 1, limits or shares that cannot be met, or
            an empty plan.
    """
    if kind not in PLANS:
        raise unknown_value("kind of plan", kind, PLANS, "The path of a table with a `count` column is also a plan.")
    if images_per_combination < 1:
        raise InputError(f"images_per_combination = {images_per_combination}: it must be 1 or more")
    if not columns:
        raise InputError(f"the plan {kind!r} needs one or more columns")
    if (kind == "target") != (target is not None):
        raise InputError("the plan 'target', and no other, needs the shares that it is to reach")
    require_columns(table, columns, "the training table")
    present = _present(table, columns)
    keys = _combinations(kind, table, columns, present, values)
    if keys and limits.min_training_patches:
        keys = _supported(keys, table, columns, limits.min_training_patches)
    have = np.array([present.get(key, 0) for key in keys], np.int64)
    counts = (
        _target_counts(keys, have, present, columns, target, limits)
        if target is not None
        else _counts(kind, have, max(present.values(), default=0), images_per_combination, limits)
    )
    plan = {key: int(count) for key, count in zip(keys, counts) if count > 0}
    if not plan:
        reason = "has the shares of the target" if target else f"contains every combination of {list(columns)}"
        raise InputError(f"the plan {kind!r} is empty: the training table {reason}")
    if limits.max_images is not None and 0 < len(plan) < len(keys) and kind not in ("balance", "target"):
        say(
            f"max_plan_images = {limits.max_images:,} is less than the {len(keys):,} combinations of the plan: "
            f"{len(keys) - len(plan):,} of them have no image"
        )
    return pd.DataFrame([(*key, count) for key, count in plan.items()], columns=[*columns, "count"])


def _present(table: pd.DataFrame, columns: Sequence[str]) -> dict[Key, int]:
    counts = table.groupby(list(columns)).size()
    return {key if isinstance(key, tuple) else (key,): int(size) for key, size in counts.items()}


def _combinations(
    kind: str,
    table: pd.DataFrame,
    columns: Sequence[str],
    present: Mapping[Key, int],
    known_values: Mapping[str, Sequence[str]],
) -> list[Key]:
    if kind == "observed":
        return [key for key in sorted(present) if "" not in key]
    if kind == "union":
        known = [key for key in sorted(present) if "" not in key]
        labels, rest = sorted({key[0] for key in known}), sorted({key[1:] for key in known})
        _check_size(kind, columns, len(labels) * len(rest))
        return [(label, *others) for label in labels for others in rest]
    values = [list(known_values.get(column, sorted(set(table[column]) - {""}))) for column in columns]
    _check_size(kind, columns, math.prod(map(len, values)))
    product = itertools.product(*values)
    return [key for key in product if key not in present] if kind == "unseen" else list(product)


def _check_size(kind: str, columns: Sequence[str], count: int) -> None:
    if count > MAX_COMBINATIONS:
        raise InputError(
            f"the plan {kind!r} of {list(columns)} has {count:,} combinations, more than the {MAX_COMBINATIONS:,} that "
            "are compared: name fewer columns, or give the path of a table"
        )


def _supported(keys: Sequence[Key], table: pd.DataFrame, columns: Sequence[str], least: int) -> list[Key]:
    sizes = [Counter(table[column].value_counts().to_dict()) for column in columns]
    kept = [key for key in keys if all(counts[value] >= least for value, counts in zip(key, sizes))]
    if not kept:
        raise InputError(
            f"min_training_patches = {least:,}: each of the {len(keys):,} combinations has a value with fewer training "
            "patches; lower it"
        )
    return kept


def _bounds(count: int, limits: PlanLimits) -> tuple[np.ndarray, np.ndarray]:
    most = MAX_COUNT if limits.max_per_combination is None else limits.max_per_combination
    low = np.full(count, limits.min_per_combination, np.int64)
    if limits.max_images is not None and low.sum() > limits.max_images:
        raise InputError(
            f"min_per_combination = {limits.min_per_combination} of {count:,} combinations is more than "
            f"max_plan_images = {limits.max_images:,}"
        )
    return low, np.full(count, most, np.int64)


def _counts(kind: str, have: np.ndarray, largest: int, per_combination: int, limits: PlanLimits) -> np.ndarray:
    low, high = _bounds(len(have), limits)
    wanted = largest - have if kind == "balance" else np.full(len(have), per_combination, np.int64)
    wanted = np.clip(wanted, low, high)
    if limits.max_images is None or wanted.sum() <= limits.max_images:
        return wanted
    start = have if kind == "balance" else np.zeros(len(have), np.int64)
    return fill(start, np.ones(len(have)), limits.max_images, low, np.maximum(wanted, low))


def _target_counts(
    keys: Sequence[Key],
    have: np.ndarray,
    present: Mapping[Key, int],
    columns: Sequence[str],
    target: TargetShares,
    limits: PlanLimits,
) -> np.ndarray:
    """Distribute images over the subgroups, then over the combinations within each, both with :func:`fill`."""
    groups, shares = list(target.shares), np.array(list(target.shares.values()))
    codes = _group_codes(keys, columns, target)
    # combinations that are not sampled also count, because their patches are in the training table
    real = np.zeros(len(groups), np.int64)
    for code, size in zip(_group_codes(list(present), columns, target), present.values()):
        if code >= 0:
            real[code] += size
    low, high = _bounds(len(keys), limits)
    wanted = codes >= 0
    wanted[wanted] = shares[codes[wanted]] > 0
    low, high = np.where(wanted, low, 0), np.where(wanted, high, 0)
    group_low, group_high = (
        np.bincount(codes[wanted], bound[wanted], minlength=len(groups)).astype(np.int64) for bound in (low, high)
    )
    total = _total_for_target(real, groups, shares, (group_low, group_high), limits.max_images)
    per_group = fill(real, shares, total, group_low, group_high)
    counts = np.zeros(len(keys), np.int64)
    for code, count in enumerate(per_group):
        members = np.flatnonzero(wanted & (codes == code))
        if len(members):
            counts[members] = fill(have[members], np.ones(len(members)), int(count), low[members], high[members])
    return counts


def _group_codes(keys: Sequence[Key], columns: Sequence[str], target: TargetShares) -> np.ndarray:
    """Return the ``(N,)`` subgroup of the target of each combination, as an index; -1 for none."""
    positions = [list(columns).index(column) for column in target.columns]
    code_of = {group: code for code, group in enumerate(target.shares)}
    return np.array([code_of.get(tuple(key[position] for position in positions), -1) for key in keys], np.int64)


def _total_for_target(
    real: np.ndarray,
    groups: Sequence[Key],
    shares: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    max_images: int | None,
) -> int:
    """Return the number of images with which the training table gets the target's shares, or comes closest to them.

    Args:
        real: ``(G,)`` number of training patches of each subgroup.
        groups: subgroups, for the error.
        shares: ``(G,)`` target shares.
        bounds: ``(G,)`` smallest and largest number of images of each subgroup.
        max_images: largest total; None for no limit.

    Raises:
        InputError: if the target removes a subgroup that the training table has, and there is no limit.
    """
    whole = exact_total(real, shares)
    if whole is None and max_images is None:
        removed = [group for group, share, count in zip(groups, shares, real) if share <= 0 < count]
        raise InputError(
            f"the target gives {'|'.join(removed[0])!r} a share of 0, and the training table has "
            f"{int(real[groups.index(removed[0])]):,} patches of it, which a plan cannot remove: give it a share, or "
            "set max_plan_images to the images with which to come as close as possible"
        )
    if whole is None:
        return int(max_images or 0)
    exact = fill(real, shares, whole - int(real.sum()), np.zeros_like(real), np.full(len(real), MAX_COUNT))
    total = int(np.clip(exact, *bounds).sum())
    return total if max_images is None else min(total, max_images)


def held_out_combinations(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the combinations of a cohort table that occur in no training row, sorted; ignore those with an empty cell.

    Args:
        table: cohort table with the column ``split``; rows in ``excluded`` are ignored.
        columns: label and attributes that make a combination.

    Raises:
        InputError: for a column that is missing.
    """
    require_columns(table, [*columns, "split"], "the cohort table")
    keys = table[list(columns)].astype(str)
    in_split = {
        split: set(keys[table["split"] == split].drop_duplicates().itertuples(index=False, name=None))
        for split in set(table["split"]) - {"excluded"}
    }
    in_training = in_split.pop("train", set())
    return sorted(key for key in set().union(*in_split.values()) - in_training if not any(map(is_missing, key)))
