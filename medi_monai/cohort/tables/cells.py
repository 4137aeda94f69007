"""Columns of strings, worked on once per different value: a million rows hold few of them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from medi_monai.schema import MISSING_WORDS, missing_cells

__all__ = ["clean_cells"]


def clean_cells(cells: pd.Series, missing: Iterable[str] | None = None) -> pd.Series:
    """A column of strings without blanks around its cells, and with the empty string where data are missing.

    Args:
        cells: strings.
        missing: words that mean missing data, in any case; None: :data:`medi_monai.schema.MISSING_WORDS`.
    """
    codes, values = pd.factorize(cells.astype("str"), use_na_sentinel=False)
    stripped = pd.Series(values, dtype="str").str.strip()
    cleaned = stripped.mask(missing_cells(stripped, MISSING_WORDS if missing is None else missing), "")
    return cleaned.take(codes).set_axis(cells.index).rename(cells.name)
