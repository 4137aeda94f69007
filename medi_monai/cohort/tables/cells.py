"""Clean columns of strings; each distinct value is cleaned once, because even a million rows have few of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from medi_monai.schema import MISSING_WORDS, missing_cells

__all__ = ["clean_cells", "clean_table"]


def clean_cells(cells: pd.Series, missing: Iterable[str] | None = None) -> pd.Series:
    """Strip surrounding whitespace from a column of strings, and replace words for missing data with the empty string.

    Args:
        cells: column of strings.
        missing: words for missing data, matched regardless of case; by default :data:`medi_monai.schema.MISSING_WORDS`.
    """
    codes, values = pd.factorize(cells.astype("str"), use_na_sentinel=False)
    stripped = pd.Series(values, dtype="str").str.strip()
    cleaned = stripped.mask(missing_cells(stripped, MISSING_WORDS if missing is None else missing), "")
    return cleaned.take(codes).set_axis(cells.index).rename(cells.name)


def clean_table(
    table: pd.DataFrame, missing: Iterable[str] | None = None, kept: Mapping[str, Collection[str]] | None = None
) -> pd.DataFrame:
    """Apply :func:`clean_cells` to all columns of a table.

    Args:
        table: columns of strings.
        missing: words for missing data; see :func:`clean_cells`.
        kept: by column, words for missing data that are kept as values, because a mapping renames them.
    """

    def cleaned(cells: pd.Series) -> pd.Series:
        values = (kept or {}).get(str(cells.name), ())
        stripped = clean_cells(cells, ())
        return (
            clean_cells(cells, missing).mask(stripped.isin(list(values)), stripped)
            if values
            else clean_cells(cells, missing)
        )

    return table.apply(cleaned)
