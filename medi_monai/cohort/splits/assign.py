"""Assign each row of a table to a split, with any scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medi_monai.cohort.splits.combinations import split_by_combination, split_by_subpopulation
from medi_monai.cohort.splits.folds import split_by_fold
from medi_monai.cohort.splits.medi_2025 import split_as_medi_2025
from medi_monai.cohort.splits.patients import validation_patients
from medi_monai.cohort.splits.scheme import SCHEMES, SplitScheme
from medi_monai.cohort.splits.sites import split_by_site
from medi_monai.cohort.table import require_columns
from medi_monai.utils.errors import InputError

__all__ = ["ChosenSplit", "assign_splits", "choose_split"]

#: schemes that ``auto`` tries in this order, the hardest test first
TRIED = ("combination_holdout", "subpopulation_holdout", "patient_kfold")


@dataclass(frozen=True)
class ChosenSplit:
    """A split, with the scheme that made it.

    Args:
        split: split of each row; see :func:`assign_splits`.
        scheme: name of the scheme; for ``auto``, of the one that it chose.
        reason: why this one, for ``auto``; otherwise empty.
    """

    split: pd.Series
    scheme: str
    reason: str = ""


def split_automatically(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Split by ``auto``: the first of :data:`TRIED` that the cohort allows; print its name and why earlier ones failed.

    Args:
        units: one row per patient and combination.
        scheme: columns, fraction, number of folds (reduced if a class has fewer patients) and seed.

    Raises:
        InputError: if none of them is possible; the message has the reason for each.
    """
    return _choose(units, scheme).split


def _choose(units: pd.DataFrame, scheme: SplitScheme) -> ChosenSplit:
    reasons: list[str] = []
    for name in TRIED:
        if len(scheme.columns) < SCHEMES[name].min_columns:
            continue
        chosen = replace(scheme, name=name)
        if name == "patient_kfold":
            smallest = int(units.groupby(scheme.columns[0])["patient"].nunique().min())
            chosen = replace(chosen, num_folds=max(2, min(scheme.num_folds, smallest)), fold=0)
        try:
            split = RULES[name](units, chosen)
        except InputError as error:
            reasons.append(f"{name}: {error}")
            continue
        why = "".join(f"\n  not {reason}" for reason in reasons)
        print(f"split: {name}, chosen by --split_scheme auto{why}", flush=True)
        reason = "the first scheme that these rows allow (--split_scheme auto)"
        return ChosenSplit(split, name, "; ".join([reason, *(f"not {other}" for other in reasons)]))
    raise InputError("no split of this cohort is possible. " + " ".join(reasons))


#: rule of each scheme in ``SCHEMES``
RULES: dict[str, Callable[[pd.DataFrame, SplitScheme], pd.Series]] = {
    "auto": split_automatically,
    "combination_holdout": split_by_combination,
    "subpopulation_holdout": split_by_subpopulation,
    "site_holdout": split_by_site,
    "patient_kfold": split_by_fold,
    "medi_2025": split_as_medi_2025,
}


def assign_splits(rows: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Return the split of each row: ``train``, ``val``, ``holdout`` or ``excluded``.

    No patient is in two of the first three. A row is ``excluded`` if it is not held out itself and

    - its patient has other rows that are held out, or
    - it lacks a value (an empty cell) and may therefore belong to what is held out. A missing value does not count as
      another combination or center: such a row is never held out, and is in training only if its other values show that
      it cannot belong to what is held out.

    ``medi_2025`` treats a missing value as another value, and ``patient_kfold`` requires only the label.

    Args:
        rows: one row per slide or patch with ``patient`` and the scheme's columns. All schemes except ``medi_2025`` are
            independent of the order of the rows. ``medi_2025`` uses the position in the file, from a column ``row`` if
            there is one, otherwise the order of ``rows``.
        scheme: the split scheme.

    Returns:
        A series with the index of ``rows``.

    Raises:
        InputError: for a missing column, a row without patient or label, or if a guarantee of the scheme cannot be met;
            the message names the classes or centers that are too small.
    """
    return choose_split(rows, scheme).split


def choose_split(rows: pd.DataFrame, scheme: SplitScheme) -> ChosenSplit:
    """Return the split of :func:`assign_splits` with the scheme that made it, which matters for ``auto``.

    Args:
        rows: as for :func:`assign_splits`.
        scheme: the split scheme.

    Raises:
        InputError: as :func:`assign_splits`.
    """
    columns = ["patient", *scheme.columns]
    require_columns(rows, columns, "the table to split")
    units, unit_of_row = _units(rows, columns)
    if SCHEMES[scheme.name].by_file_order:
        units = units.loc[_file_order(rows, unit_of_row)]
    auto = scheme.name == "auto"
    made = _choose(units, scheme) if auto else ChosenSplit(RULES[scheme.name](units, scheme), scheme.name)
    split = made.split
    training = units[split == "train"]
    chosen = validation_patients(training, scheme.columns, scheme.validation_share, scheme.seed)
    split[(split == "train") & units["patient"].isin(chosen)] = "val"
    return replace(made, split=split.sort_index().take(unit_of_row).set_axis(rows.index))


def _units(rows: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    # a cohort has about a hundred patches per patient, so rules work on distinct, sorted rows, and results are mapped
    # back
    cells = rows[list(columns)].astype("str").fillna("")
    if cells.empty:
        raise InputError("the table to split has no rows")
    for column, meaning in zip(columns[:2], ("patient", "label")):
        lacking = int((cells[column] == "").sum())
        if lacking:
            raise InputError(f"{lacking} of {len(cells)} rows have no {meaning} (column {column!r}); remove them first")
    unit_of_row = cells.groupby(list(columns), sort=True).ngroup().to_numpy()
    first_row = np.unique(unit_of_row, return_index=True)[1]
    return cells.iloc[first_row].reset_index(drop=True), unit_of_row


def _file_order(rows: pd.DataFrame, unit_of_row: np.ndarray) -> np.ndarray:
    positions = pd.Series(np.arange(len(rows)))
    if "row" in rows:
        positions = pd.to_numeric(rows["row"].reset_index(drop=True), errors="coerce")
        wrong = rows["row"].to_numpy()[(positions.isna() | (positions % 1 != 0)).to_numpy()]
        if len(wrong):
            raise InputError(
                f"row {wrong[0]!r} of the table to split: the column must contain whole numbers, positions in a file"
            )
    return positions.groupby(unit_of_row).min().sort_values(kind="stable").index.to_numpy()
