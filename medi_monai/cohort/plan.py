"""Sampling plans: combinations to sample, and the number of images for each."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence

import pandas as pd

from medi_monai.cohort.table import require_columns
from medi_monai.schema import is_missing
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.sizes import check_memory
from medi_monai.utils.tables import read_table

__all__ = ["PLANS", "expand_plan", "held_out_combinations", "make_plan", "read_plan"]

PLANS = ("unseen", "balance", "observed", "all")
MAX_COMBINATIONS = 10**6
#: of a table in memory: a pointer to the text, the index, and a copy while it is sorted
BYTES_PER_CELL = 24


def make_plan(table: pd.DataFrame, columns: Sequence[str], kind: str, images_per_combination: int = 16) -> pd.DataFrame:
    """Make a plan from a training table.

    Args:
        table: training rows.
        columns: label and attributes whose combinations are planned.
        kind: ``unseen``: all combinations of values in ``table`` that have no row; ``balance``: the number of images
            that each combination needs to equal the largest; ``observed``: all combinations that have rows; ``all``:
            all combinations of values, seen or not.
        images_per_combination: the count, except for ``balance``.

    Returns:
        The columns and ``count``, one row per combination, sorted.

    Raises:
        InputError: for an unknown kind or column, no columns, a count below 1, or an empty plan.
    """
    if kind not in PLANS:
        raise unknown_value("kind of plan", kind, PLANS, "The path of a table with a `count` column is also a plan.")
    if images_per_combination < 1:
        raise InputError(f"images_per_combination = {images_per_combination}: it must be 1 or more")
    if not columns:
        raise InputError(f"the plan {kind!r} needs one or more columns")
    require_columns(table, columns, "the training table")
    counts = table.groupby(list(columns)).size()
    present = {key if isinstance(key, tuple) else (key,): int(size) for key, size in counts.items()}
    values = [sorted(set(table[column]) - {""}) for column in columns]
    if kind != "observed" and math.prod(map(len, values)) > MAX_COMBINATIONS:
        raise InputError(
            f"the plan {kind!r} of {list(columns)} has {math.prod(map(len, values)):,} combinations, more than the "
            f"{MAX_COMBINATIONS:,} that are compared: name fewer columns, or give the path of a table"
        )
    product = itertools.product(*values)
    if kind == "observed":
        plan = {key: images_per_combination for key in sorted(present) if "" not in key}
    elif kind == "unseen":
        plan = {key: images_per_combination for key in product if key not in present}
    elif kind == "all":
        plan = dict.fromkeys(product, images_per_combination)
    else:
        largest = max(present.values())
        plan = {key: largest - present.get(key, 0) for key in product if present.get(key, 0) < largest}
    if not plan:
        raise InputError(
            f"the plan {kind!r} is empty: the training table contains every combination of {list(columns)}"
        )
    return pd.DataFrame([(*key, count) for key, count in plan.items()], columns=[*columns, "count"])


def held_out_combinations(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Combinations of a cohort table that no training row has, sorted; those with an empty cell do not count.

    Args:
        table: with ``split``; excluded rows do not count.
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


def read_plan(path: str | os.PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """Read a plan from a table with label, attributes and ``count``.

    Args:
        path: CSV, TSV, Excel or Parquet.
        columns: required columns besides ``count``; additional columns are part of the combination. An empty cell
            requests the *unknown* token; for attributes without a column, the model chooses.

    Raises:
        InputError: for a missing column, or a count that is not a whole number of 1 or more.
    """
    table = read_table(path)
    require_columns(table, [*columns, "count"], path)
    for row, count in enumerate(table["count"], start=1):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", count) or int(count) < 1:
            raise InputError(f"{path}, row {row}: count {count!r} must be a whole number of 1 or more")
    keys = [column for column in table.columns if column != "count"]
    table[keys] = table[keys].mask(table[keys].map(is_missing), "")
    table = table.assign(count=table["count"].astype(int))
    if not keys:
        return pd.DataFrame({"count": [table["count"].sum()]})
    return table.groupby(keys, sort=False, as_index=False)["count"].sum()[[*keys, "count"]]


def expand_plan(plan: pd.DataFrame) -> pd.DataFrame:
    """One row per image: its combination and ``number`` (0, 1, …) within the combination.

    Raises:
        InputError: for more images than a table in memory can list.
    """
    total = sum(map(int, plan["count"]))
    check_memory(
        f"a plan of {total:,} images",
        total * (len(plan.columns) + 1) * BYTES_PER_CELL,
        "Plan fewer images per combination.",
    )
    rows = plan.loc[plan.index.repeat(plan["count"])].drop(columns="count")
    return rows.assign(number=rows.groupby(level=0).cumcount()).reset_index(drop=True)
