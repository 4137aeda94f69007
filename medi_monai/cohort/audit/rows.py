"""Compact form of a cohort table: integer codes, with identical rows merged and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medi_monai.cohort.table import SPLITS
from medi_monai.schema import is_missing
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import in_order

__all__ = ["MISSING", "CodedRows", "code_column", "code_numbers", "code_split", "distinct"]

#: code of an empty cell
MISSING = -1

NUM_BINS = 10


@dataclass(frozen=True)
class CodedRows:
    """Distinct rows of a cohort, as integer codes with counts.

    Args:
        frame: codes, one column per role or metadata field, -1 for an empty cell; the column ``rows`` is the number of
            cohort rows with these codes.
        names: values of each column; a code is an index into this list.
    """

    frame: pd.DataFrame
    names: dict[str, list[str]]

    @classmethod
    def of(cls, coded: dict[str, tuple[np.ndarray, list[str]]]) -> CodedRows:
        """Merge and count equal rows of coded columns; the result does not depend on the order of the rows."""
        frame = pd.DataFrame({name: codes for name, (codes, _) in coded.items()})
        sizes = frame.groupby(list(frame.columns), sort=True).size()
        return cls(sizes.rename("rows").reset_index(), {name: names for name, (_, names) in coded.items()})

    @property
    def splits(self) -> list[str]:
        """Names of the splits in order, ``excluded`` last."""
        return self.names["split"]

    @property
    def sides(self) -> list[int]:
        """Codes of the splits that must not share data: all except ``excluded``."""
        return [code for code, name in enumerate(self.splits) if name != "excluded"]

    def of_split(self, split: str) -> pd.DataFrame:
        """Return the rows of one split, or of the whole cohort if ``split`` is ``all``."""
        if split == "all":
            return self.frame
        code = self.splits.index(split) if split in self.splits else len(self.splits)
        return self.frame[self.frame["split"] == code]

    def name_of(self, column: str, code: int) -> str:
        """Return the value that a code stands for; the empty string for an empty cell."""
        return "" if code == MISSING else self.names[column][code]


def code_column(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Code a column of strings: values are numbered from 0 in sorted order (bins by bounds), missing data are -1."""
    codes, values = pd.factorize(column)
    text = pd.Series(values).astype(str)
    missing = np.array([is_missing(value) for value in values], dtype=bool)
    names = in_order(set(text[~missing]))
    value_codes = np.where(missing, MISSING, pd.Index(names, dtype=object).get_indexer(text.astype(object)))
    # pandas codes NaN as -1, which indexes the last entry
    return np.array([*value_codes, MISSING], np.int32)[codes], names


def code_split(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Code the split column like :func:`code_column`, in the order train, val, holdout, other names, excluded."""
    codes, names = code_column(column)
    known = [name for name in SPLITS if name in names and name != "excluded"]
    further = [name for name in names if name not in SPLITS]
    ordered = [*known, *further, *(["excluded"] if "excluded" in names else [])]
    lookup = np.array([*(ordered.index(name) for name in names), MISSING], np.int32)
    return lookup[codes], ordered


def code_numbers(column: pd.Series, strict: bool) -> tuple[np.ndarray, list[str]]:
    """Code a numeric column: by value if it has at most ten distinct values, else by ten bins with similar row counts.

    Args:
        column: numbers, or numeric strings.
        strict: whether the column is declared numeric. If so, cells that are not numbers count as missing; if not, a
            column with such cells is treated as categorical.

    Raises:
        InputError: if the column is declared numeric but contains values and none of them is a number.
    """
    codes, names = code_column(column)
    numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce").to_numpy(float)
    wrong = [name for name, number in zip(names, numbers) if not np.isfinite(number)]
    if wrong and len(wrong) == len(names) and strict:
        raise InputError(f"{column.name} = {wrong[0]!r} is not a number, but {column.name} is declared continuous")
    if wrong and strict:
        return code_numbers(column.mask(column.astype(str).isin(wrong), ""), strict)
    if wrong or not names:
        return codes, names
    edges = np.unique(numbers)
    if len(edges) > NUM_BINS:
        known = numbers[codes[codes != MISSING]]
        # the largest number belongs to the last bin
        edges = np.unique(np.quantile(known, np.linspace(0, 1, NUM_BINS + 1)))[:-1]
    used, bins = np.unique(np.searchsorted(edges, numbers, side="right"), return_inverse=True)
    by_bin = [numbers[bins == number] for number in range(len(used))]
    labels = [_span(in_bin.min(), in_bin.max()) for in_bin in by_bin]
    return np.array([*bins, MISSING], np.int32)[codes], labels


def _span(low: float, high: float) -> str:
    return f"{low:.10g}" if low == high else f"{low:.10g} to {high:.10g}"


def distinct(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the distinct combinations of values in these columns, without those that have an empty cell."""
    unique = frame[list(columns)].drop_duplicates()
    return unique[(unique != MISSING).all(axis=1)]
