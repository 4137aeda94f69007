"""Clean columns of strings, once per distinct value: a million rows have few of them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from medi_monai.schema import MISSING_WORDS, missing_cells

__all__ = ["clean_cells"]


def clean_cells(cells: pd.Series, missing: Iterable[str] | None = None) -> pd.Series:
    """Strip surrounding blanks from a column of strings, and replace words for missing data with the empty string.

    Args:
        cells: column of strings.
        missing: words for missing data, in upper or lower case; by default :data:`medi_monai.schema.MISSING_WORDS`.
    """
    codes, values = pd.factorize(cells.astype("str"), use_na_sentinel=False)
    stripped = pd.Series(values, dtype="str").str.strip()
    cleaned = stripped.mask(missing_cells(stripped, MISSING_WORDS if missing is None else missing), "")
    return cleaned.take(codes).set_axis(cells.index).rename(cells.name)
