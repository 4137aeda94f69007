"""Tables of pages: data frames as headings and cells of text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.report.blocks.arms import ArmTitle

__all__ = ["table_content"]


def table_content(frame: pd.DataFrame, max_rows: int) -> dict[str, Any]:
    """Return the headings and cells of a table: whole numbers with separators, others to three digits.

    Args:
        frame: content of the table; an index other than a range becomes the headings of the rows.
        max_rows: maximum number of rows.

    Returns:
        ``columns``: heading of each column, and whether it holds numbers; ``headed``: number of columns that are
        headings of rows; ``rows``: cells as text; ``more``: a sentence if there are more rows.
    """
    shown = frame.head(max_rows)
    levels = [] if isinstance(frame.index, pd.RangeIndex) else list(range(frame.index.nlevels))
    # select columns by position, because a name may occur twice
    # as objects: text of pandas would lose the color of titles
    columns = [pd.Series(shown.index.get_level_values(level).to_numpy(object), dtype=object) for level in levels]
    columns += [shown.iloc[:, column] for column in range(shown.shape[1])]
    names = [*(frame.index.names[level] for level in levels), *frame.columns]
    return {
        "headed": len(levels),
        "columns": [(_heading(name), _is_number(column)) for name, column in zip(names, columns)],
        "rows": list(zip(*(map(_cell, column.tolist()) for column in columns))),
        "more": f"{len(shown):,} of {len(frame):,} rows are shown." if len(shown) < len(frame) else "",
    }


def _heading(name: object) -> str:
    if isinstance(name, tuple):
        return " · ".join(str(level) for level in name if level not in (None, ""))
    return "" if name is None else str(name)


def _is_number(column: pd.Series) -> bool:
    # a column of counts that contains None has the type object
    return pd.api.types.infer_dtype(column.dropna(), skipna=True) in ("integer", "floating", "mixed-integer-float")


def _cell(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return "–"
        size = abs(float(value))
        return f"{value:,.0f}" if 1000 <= size < math.inf else f"{value:.3g}"
    if value is None or value is pd.NA or value is pd.NaT:
        return "–"
    return value if isinstance(value, ArmTitle) else str(value)
