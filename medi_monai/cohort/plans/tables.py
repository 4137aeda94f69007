"""Read plans from files, and expand them to one row per image."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pandas as pd

from medi_monai.cohort.table import require_columns
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError
from medi_monai.utils.sizes import check_memory
from medi_monai.utils.tables import read_table

__all__ = ["expand_plan", "read_plan"]

#: memory of a table in bytes per cell: a pointer to the text, the index, and a copy during sorting
BYTES_PER_CELL = 24


def read_plan(path: str | os.PathLike, columns: Sequence[str]) -> pd.DataFrame:
    """Read a plan from a table with label, attributes and ``count``.

    Args:
        path: CSV, TSV, Excel or Parquet.
        columns: required columns besides ``count``; additional columns are part of the combination. An empty cell
            requests the *unknown* token; for attributes without a column, the model chooses. A cell of a continuous
            attribute may be a range, ``40..60``.

    Raises:
        InputError: for a missing column, or a count that is not a whole number of 1 or more.
    """
    table = read_table(path)
    require_columns(table, [*columns, "count"], path)
    counts = table["count"].astype(str).str.strip()
    wrong = ~counts.str.fullmatch(r"[0-9]{1,9}") | counts.str.fullmatch("0*")
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise InputError(
            f"{path}, row {row + 1}: count {table['count'].iloc[row]!r} must be a whole number of 1 or more"
        )
    keys = [column for column in table.columns if column != "count"]
    for column in keys:
        table[column] = table[column].mask(missing_cells(table[column]), "")
    table = table.assign(count=counts.astype(int))
    if not keys:
        return pd.DataFrame({"count": [table["count"].sum()]})
    return table.groupby(keys, sort=False, as_index=False)["count"].sum()[[*keys, "count"]]


def expand_plan(plan: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one row per image: its combination, and its ``number`` (0, 1, …) within the combination.

    Raises:
        InputError: if the table would not fit in memory.
    """
    total = sum(map(int, plan["count"]))
    check_memory(
        f"a plan of {total:,} images",
        total * (len(plan.columns) + 1) * BYTES_PER_CELL,
        "Plan fewer images per combination.",
    )
    rows = plan.loc[plan.index.repeat(plan["count"])].drop(columns="count")
    return rows.assign(number=rows.groupby(level=0).cumcount()).reset_index(drop=True)
