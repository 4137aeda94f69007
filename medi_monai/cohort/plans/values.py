"""Values of continuous attributes in plans: numbers, and ranges such as ``40..60`` from which numbers are drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import generator_from
from medi_monai.utils.text import number_in

__all__ = ["ValueRange", "binned", "draw_values", "ranges_in"]

SEPARATOR = ".."
RANGE = re.compile(r"\s*(\S+?)\s*\.\.\s*(\S+)\s*")
#: drawn numbers are rounded to about a thousandth of the width of the range
DIGITS = 3


@dataclass(frozen=True)
class ValueRange:
    """A value, or a range of values, of a continuous attribute.

    Args:
        low, high: bounds of the range; equal for a single value.
    """

    low: float
    high: float

    @classmethod
    def parse(cls, text: object, column: str) -> ValueRange:
        """Parse a number such as ``47``, or a range such as ``40..60``.

        Args:
            text: cell of a plan.
            column: name of the column, for messages.

        Raises:
            InputError: for any other text, or if the second number is below the first.
        """
        match = RANGE.fullmatch(str(text))
        bounds = [number_in(word) for word in (match.groups() if match else (str(text),) * 2)]
        if None in bounds:
            raise InputError(
                f"{column} = {str(text)!r} is neither a number nor a range: write a range as 40{SEPARATOR}60"
            )
        low, high = (float(bound) for bound in bounds if bound is not None)
        if high < low:
            raise InputError(f"{column} = {str(text)!r}: write the smaller number of a range first")
        return cls(low, high)

    def draw(self, generator: torch.Generator) -> float:
        """Draw a number uniformly from the range, rounded to about a thousandth of its width."""
        if self.low == self.high:
            return self.low
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        number = self.low + share * (self.high - self.low)
        return min(self.high, max(self.low, round(number, DIGITS - math.floor(math.log10(self.high - self.low)))))


def ranges_in(cells: Iterable[object], column: str) -> dict[object, ValueRange]:
    """Return the ranges in a column, by cell; cells that are not a range of two numbers are omitted.

    Raises:
        InputError: for a range that ends below its start.
    """
    spans = {cell: RANGE.fullmatch(cell) for cell in dict.fromkeys(cells) if isinstance(cell, str)}
    return {
        cell: ValueRange.parse(cell, column)
        for cell, match in spans.items()
        if match and None not in map(number_in, match.groups())
    }


def binned(cells: pd.Series, values: Sequence[object]) -> pd.Series:
    """Replace the numbers of a column by the first of the values or ranges that contain them.

    Args:
        cells: numbers, as numbers or text.
        values: numbers and ranges, such as ``47`` or ``40..60``; they may share bounds but must not overlap otherwise.

    Returns:
        For each cell, the value or range as text; the empty string for a number in none of them and for missing data.

    Raises:
        InputError: for ranges that overlap, or a value that is neither a number nor a range.
    """
    column = str(cells.name)
    ranges = {text: ValueRange.parse(text, column) for text in map(str, values)}
    ordered = sorted(ranges.items(), key=lambda item: (item[1].low, item[1].high))
    for (first, before), (second, after) in zip(ordered, ordered[1:]):
        if after.low < before.high or before == after:
            raise InputError(f"the values {first!r} and {second!r} of {column!r} overlap: a patch would be in both")
    numbers = pd.to_numeric(cells, errors="coerce")
    bins = np.full(len(cells), "", dtype=object)
    # from last to first, so that a shared bound belongs to the first range
    for text, values_in in reversed(ordered):
        bins[(numbers >= values_in.low) & (numbers <= values_in.high)] = text
    return pd.Series(bins, index=cells.index, name=cells.name)


def draw_values(rows: pd.DataFrame, columns: Sequence[str], seed: int) -> pd.DataFrame:
    """Replace ranges by numbers drawn from them; a draw depends only on the seed and the identity of the image.

    Args:
        rows: an expanded plan, with one row per image and the column ``number``.
        columns: columns that may contain ranges.
        seed: random seed.
    """
    drawn = {}
    for column in columns:
        ranges = ranges_in(rows[column], column)
        if not ranges:
            continue
        cells = rows[column].astype(object).tolist()
        for index, row in enumerate(rows.to_dict("records")):
            if cells[index] in ranges:
                identity = {str(name): None if cell is None else str(cell) for name, cell in row.items()}
                number = ranges[cells[index]].draw(generator_from("value", column, seed, identity))
                cells[index] = str(int(number)) if number.is_integer() else repr(number)
        drawn[column] = pd.Series(cells, index=rows.index, dtype=object)
    return rows.assign(**drawn) if drawn else rows
