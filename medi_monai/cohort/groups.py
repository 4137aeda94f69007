"""Rows of a table by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = [
    "codes_of",
    "combination_codes",
    "group_weights",
    "rows_by_group",
    "spread_rows",
    "stable_order",
]


def group_weights(groups: np.ndarray) -> np.ndarray:
    """``(N,)`` weights of mean 1 under which every group has the same sum.

    Args:
        groups: ``(N,)`` integer codes.
    """
    sizes = np.bincount(groups)
    return len(groups) / (sizes[groups] * np.count_nonzero(sizes))


def rows_by_group(groups: np.ndarray, num_groups: int = 0, order: np.ndarray | None = None) -> list[np.ndarray]:
    """Row numbers of every group.

    Args:
        groups: ``(N,)`` integer codes of 0 or more.
        num_groups: groups that there are at least; by default those up to the largest code.
        order: ``(N,)`` row numbers; rows of a group come in it, by default ascending.
    """
    order = np.arange(len(groups)) if order is None else order
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups, minlength=num_groups)
    return np.split(order, np.cumsum(sizes)[:-1])[: len(sizes)]


def spread_rows(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` row numbers without repetition, spread as evenly over the groups as their sizes allow; all if fewer."""
    order = rng.permutation(len(groups))
    # the rank of each row within its group, in random order: taking low ranks first fills groups evenly
    rank = pd.Series(groups[order]).groupby(groups[order]).cumcount().to_numpy()
    turn = rng.permutation(int(groups.max(initial=0)) + 1)[groups[order]]
    return np.sort(order[np.lexsort((turn, rank))[:count]])


def codes_of(
    table: pd.DataFrame, columns: Sequence[str], names: Sequence[tuple] | None = None
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Integer codes ``(N,)`` of the combinations of ``columns`` in the rows of a table, and the combinations.

    Args:
        table: with the columns; a missing cell is the value ``""``.
        columns: label and attributes.
        names: combinations that come first; others follow in sorted order.
    """
    combinations: list[tuple[str, ...]] = list(names or ())
    if not columns:
        return np.zeros(len(table), np.int64), combinations or [()]
    keys = table[list(columns)].astype(str).fillna("")
    numbers = keys.groupby(list(columns), sort=False).ngroup().to_numpy()
    # one row of each combination: a million rows have few
    first = np.unique(numbers, return_index=True)[1]
    keys_of_table = list(keys.iloc[first].itertuples(index=False, name=None))
    combinations += sorted(set(keys_of_table) - set(combinations))
    code_of = {key: code for code, key in enumerate(combinations)}
    return np.array([code_of[key] for key in keys_of_table], np.int64)[numbers], combinations


def combination_codes(
    tables: Sequence[pd.DataFrame], columns: Sequence[str]
) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
    """:func:`codes_of` of several tables under one list of combinations, sorted."""
    together = pd.concat([table[list(columns)].astype(str) for table in tables], ignore_index=True)
    codes, names = codes_of(together, columns)
    return np.split(codes, np.cumsum([len(table) for table in tables])[:-1]), names


def stable_order(table: pd.DataFrame) -> np.ndarray:
    """Row numbers in the order of the images' names, so that a draw does not depend on the order of the rows.

    Patches that are read from one slide share its name, and go by ``y`` and ``x``.
    """
    if "image" not in table:
        return np.arange(len(table))
    order = np.argsort(table["image"].to_numpy(dtype=str), kind="stable")
    if not {"x", "y"} <= set(table.columns) or not table["image"].duplicated().any():
        return order
    numbers = pd.factorize(table["image"])[0]
    rank = np.empty(int(numbers.max()) + 1, np.int64)
    rank[numbers[order][::-1]] = np.arange(len(order))[::-1]
    return np.lexsort((*(pd.to_numeric(table[name], errors="coerce").to_numpy() for name in "xy"), rank[numbers]))
