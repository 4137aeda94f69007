"""Group the rows of a table: codes, weights, and row numbers by group."""

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
    """Return ``(N,)`` weights with mean 1 that give each group the same total weight.

    Args:
        groups: ``(N,)`` non-negative integer codes of the groups.
    """
    sizes = np.bincount(groups)
    return len(groups) / (sizes[groups] * np.count_nonzero(sizes))


def rows_by_group(groups: np.ndarray, num_groups: int = 0, order: np.ndarray | None = None) -> list[np.ndarray]:
    """Return the row numbers of each group, as a list of arrays.

    Args:
        groups: ``(N,)`` non-negative integer codes.
        num_groups: minimum length of the list; it is always long enough for the largest code.
        order: ``(N,)`` row numbers in the order that they have within each group; ascending by default.
    """
    order = np.arange(len(groups)) if order is None else order
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups, minlength=num_groups)
    return np.split(order, np.cumsum(sizes)[:-1])[: len(sizes)]


def spread_rows(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Select ``count`` distinct rows (or all, if fewer), spread over groups as evenly as their sizes allow."""
    order = rng.permutation(len(groups))
    # rank of each row within its group, in random order: taking low ranks first fills groups evenly
    rank = pd.Series(groups[order]).groupby(groups[order]).cumcount().to_numpy()
    turn = rng.permutation(int(groups.max(initial=0)) + 1)[groups[order]]
    return np.sort(order[np.lexsort((turn, rank))[:count]])


def codes_of(
    table: pd.DataFrame, columns: Sequence[str], names: Sequence[tuple] | None = None
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Return ``(N,)`` integer codes for the combinations of ``columns`` in a table, and the list of combinations.

    Args:
        table: table with these columns; a missing cell counts as the value ``""``.
        columns: label and attributes.
        names: combinations that get the first codes; all others follow in sorted order.
    """
    combinations: list[tuple[str, ...]] = list(names or ())
    if not columns:
        return np.zeros(len(table), np.int64), combinations or [()]
    keys = table[list(columns)].astype(str).fillna("")
    numbers = keys.groupby(list(columns), sort=False).ngroup().to_numpy()
    # look at one row per combination, because even a million rows have few
    first = np.unique(numbers, return_index=True)[1]
    keys_of_table = list(keys.iloc[first].itertuples(index=False, name=None))
    combinations += sorted(set(keys_of_table) - set(combinations))
    code_of = {key: code for code, key in enumerate(combinations)}
    return np.array([code_of[key] for key in keys_of_table], np.int64)[numbers], combinations


def combination_codes(
    tables: Sequence[pd.DataFrame], columns: Sequence[str]
) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
    """Like :func:`codes_of` for several tables, with one sorted list of combinations for all tables."""
    together = pd.concat([table[list(columns)].astype(str) for table in tables], ignore_index=True)
    codes, names = codes_of(together, columns)
    return np.split(codes, np.cumsum([len(table) for table in tables])[:-1]), names


def stable_order(table: pd.DataFrame) -> np.ndarray:
    """Return the row numbers sorted by image, which makes random draws independent of the order of the rows.

    Patches read from the same slide have the same image and are sorted by ``y`` and ``x``.
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
