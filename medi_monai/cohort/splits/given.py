"""A split that the table of a data set already has: names of its parts, and each patient on one side."""

from __future__ import annotations

import pandas as pd

from medi_monai.cohort.splits.patients import keep_apart
from medi_monai.cohort.table import SPLITS
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.utils.errors import unknown_value

__all__ = ["GIVEN_SPLIT", "one_side", "split_names"]

#: temporary name of the split column in an :class:`~medi_monai.cohort.ImageTable`, which uses the name ``split`` for
#: another purpose
GIVEN_SPLIT = "split of the table"
#: names of splits in published data sets, and their names here
SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "test": "holdout"}


def split_names(cells: pd.Series, where: str) -> pd.Series:
    """Return the names of splits as they are here; empty cells stay empty.

    Args:
        cells: names as in the table, such as ``Test``.
        where: name of the table, for the error message.

    Raises:
        InputError: for an unknown name.
    """
    names = clean_cells(cells).str.lower()
    names = names.map(lambda name: SPLIT_NAMES.get(name, name)).astype("str")
    for value in sorted(set(names)):
        if value not in ("", *SPLITS):
            raise unknown_value(f"split in {where}", value, (*SPLITS, *SPLIT_NAMES))
    return names


def one_side(rows: pd.DataFrame, where: str) -> pd.Series:
    """Put each patient on one side of the split: exclude the other rows of patients who are held out; print how many.

    Args:
        rows: table with ``patient`` and ``split``, names of :func:`split_names`.
        where: name of the table, for the note.

    Returns:
        The split of each row; ``excluded`` also where it is empty.
    """
    split = rows["split"].mask(rows["split"] == "", "excluded")
    for held in ("val", "holdout"):
        apart = keep_apart(rows, (split == held).to_numpy())
        split = split.mask((apart == "excluded") & split.isin(["train", "val"]), "excluded")
    moved = int(((split == "excluded") & rows["split"].isin(["train", "val"])).sum())
    if moved:
        print(
            f"{where}: {moved} rows are excluded because other rows of their patients are held out",
            flush=True,
        )
    return split
