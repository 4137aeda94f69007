"""Columns of strings, worked on once per different value: a million rows hold few of them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from medi_monai.schema import missing_cells

__all__ = ["clean_cells"]


def clean_cells(cells: pd.Series, missing: Iterable[str] = ()) -> pd.Series:
    """A column of strings without blanks around its cells, and with the empty string where data are missing.

    Args:
        cells: strings.
        missing: strings that mean missing data besides :data:`medi_monai.schema.MISSING_STRINGS`.
    """
    codes, values = pd.factorize(cells.astype("str"), use_na_sentinel=False)
    stripped = pd.Series(values, dtype="str").str.strip()
    cleaned = stripped.mask(missing_cells(stripped, missing), "")
    return cleaned.take(codes).set_axis(cells.index).rename(cells.name)
