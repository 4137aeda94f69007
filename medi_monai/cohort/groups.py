"""Group the rows of a table: codes, weights, and row numbers by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = [
    "codes_of",
    "combination_codes",
    "group_weights",
    "half_of_patients",
    "lent_rows",
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


def lent_rows(patients: np.ndarray, groups: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``(N,)`` bool: which training images serve as validation images where no patients are set apart for it.

    They are those of one patient from every group with at least three, and of one from every class with at least two
    that has given none; no class loses its last patient. If there is no such patient, they are a fifth of the images.

    Args:
        patients: ``(N,)`` codes of the patients.
        groups: ``(N,)`` codes of the combinations.
        labels: ``(N,)`` codes of the classes.
        rng: random generator of the choice.
    """
    chosen = np.isin(patients, _lent_patients(patients, groups, labels, rng))
    if not chosen.any():
        chosen[spread_rows(groups, max(1, len(patients) // 5), rng)] = True
    return chosen


def _lent_patients(patients: np.ndarray, groups: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> list[int]:
    pairs = np.unique(np.stack([patients, groups, labels], axis=1), axis=0)
    members = pd.DataFrame(pairs, columns=["patient", "group", "label"])
    classes_of = members.groupby("patient")["label"].unique()
    left = members.drop_duplicates(["patient", "label"])["label"].value_counts().to_dict()
    lent: set[int] = set()
    for column, least in (("group", 3), ("label", 2)):
        for _, of_group in members.groupby(column)["patient"]:
            names = of_group.unique()
            if len(names) < least or lent.intersection(names.tolist()):
                continue
            # a patient with several classes may be the last one of a class
            free = [name for name in names.tolist() if all(left[label] > 1 for label in classes_of[name])]
            if free:
                chosen = int(rng.choice(free))
                lent.add(chosen)
                for label in classes_of[chosen]:
                    left[label] -= 1
    return sorted(lent)


def half_of_patients(patients: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``(N,)`` bool: the images of a random half of the patients of every group; a patient is on one side.

    Args:
        patients: ``(N,)`` codes of the patients.
        groups: ``(N,)`` codes of the groups.
        rng: random generator of the choice.
    """
    first: dict[int, bool] = {}
    for rows in rows_by_group(groups):
        for name in rng.permutation(np.unique(patients[rows])).tolist():
            of_group = [first[known] for known in np.unique(patients[rows]).tolist() if known in first]
            first.setdefault(name, 2 * sum(of_group) < len(of_group) or (not of_group and bool(rng.integers(2))))
    return np.array([first[name] for name in patients.tolist()], bool)


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
