"""Convert the values of metadata columns to codes and back.

Two negative codes are common to all columns: ``NULL`` (-2) is conditioning that was dropped, for guidance; ``UNKNOWN``
(-1) is missing data. Other codes are values: an index into a vocabulary, or a number scaled to [0, 1] over the range of
the training data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.text import number_in

__all__ = [
    "NULL",
    "UNKNOWN",
    "BUILT_IN",
    "MISSING_WORDS",
    "check_names",
    "is_missing",
    "missing_cells",
    "CategoricalColumn",
    "ContinuousColumn",
]

NULL = -2
UNKNOWN = -1

#: default words for missing data, as in exports of the GDC and of hospitals, except ``NA``, which is a site code. They
#: are used when a source table is read; in a prepared cohort, only empty cells are missing
MISSING_WORDS = ("'--", "--", "not reported", "unknown", "not available", "nan", "none")

#: columns of cohorts, plans and manifests that identify the image of a row and its origin
BUILT_IN = (
    *("image", "slide", "patient", "x", "y", "mpp", "source_mpp", "split", "row", "rows", "problem"),
    *("combination", "number", "count", "seed", "guidance_scale", "num_steps", "solver", "checkpoint"),
    *("seen", "training_patches", "rarest_value_patches", "tar"),
)


def check_names(names: Iterable[str]) -> None:
    """Raise an :class:`InputError` for a label or attribute with the name of one of the columns in ``BUILT_IN``."""
    for name in names:
        if name in BUILT_IN:
            raise InputError(
                f"the label or attribute {name!r} has the name of a built-in column: give it another one in the table, "
                f"or in the overlay with mapping: {{my_{name}: {{column: {name}}}}}"
            )


def is_missing(value: object) -> bool:
    """Return whether a cell of a cohort or plan is empty: ``None``, NaN, or only whitespace."""
    if isinstance(value, str):
        return not value.strip()
    return bool(pd.isna(value))


def missing_cells(cells: pd.Series, words: Iterable[str] = ()) -> pd.Series:
    """Apply :func:`is_missing` to a whole column; a million strings take a tenth of a second.

    Args:
        cells: column of any type.
        words: additional words for missing data, matched regardless of case.

    Returns:
        A Boolean series with the index of ``cells``.
    """
    strings = {"", *(str(text).strip().lower() for text in words)}
    if isinstance(cells.dtype, pd.StringDtype):
        return cells.isna() | cells.str.strip().str.lower().isin(strings)
    missing = cells.map(lambda cell: cell.strip().lower() in strings if isinstance(cell, str) else is_missing(cell))
    return missing.astype(bool)


@dataclass(frozen=True)
class CategoricalColumn:
    """A column with a closed vocabulary.

    Args:
        name: column of the cohort table.
        values: vocabulary; the code of a value is its index.
    """

    name: str
    values: tuple[str, ...]

    kind = "categorical"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(map(str, self.values)))
        if len(set(self.values)) != len(self.values):
            raise InputError(f"the vocabulary of {self.name!r} contains a duplicate value: {list(self.values)}")
        object.__setattr__(self, "_codes", {value: code for code, value in enumerate(self.values)})

    @classmethod
    def from_values(cls, name: str, values: Iterable[object]) -> CategoricalColumn:
        """Create the column with the sorted distinct ``values``, except missing ones, as its vocabulary."""
        return cls(name, tuple(sorted({_spelled(value) for value in values if not is_missing(value)})))

    def encode(self, value: object, null: bool = False) -> float:
        """Return the code of a value; :data:`UNKNOWN` for missing data, :data:`NULL` if ``null`` is set."""
        if null:
            return NULL
        if is_missing(value):
            return UNKNOWN
        codes: dict[str, int] = self._codes  # type: ignore[attr-defined]
        if _spelled(value) not in codes:
            remedy = "The model was not trained on it." + _empty_instead(value)
            raise unknown_value(f"value of {self.name!r}", value, self.values, remedy)
        return codes[_spelled(value)]

    def decode(self, code: float) -> str | None:
        """Return the value of a code; ``None`` for null, the empty string for unknown."""
        if code in (NULL, UNKNOWN):
            return None if code == NULL else ""
        if code not in range(len(self.values)):
            raise InputError(f"{code} is not a code of {self.name!r}, which has {len(self.values)} values")
        return self.values[int(code)]

    def to_dict(self) -> dict:
        return {"name": self.name, "kind": self.kind, "values": list(self.values)}


@dataclass(frozen=True)
class ContinuousColumn:
    """A numeric column, such as age in years.

    Args:
        name: column of the cohort table.
        low: smallest value in the training data, which gets the code 0.
        high: largest value in the training data, which gets the code 1.
    """

    name: str
    low: float
    high: float

    kind = "continuous"

    def __post_init__(self) -> None:
        # 25 and 25.0 are the same bound and must have the same digest
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(
                f"the continuous attribute {self.name!r} needs at least two different finite values in the "
                f"training table; its range is [{self.low}, {self.high}]"
            )

    @classmethod
    def from_values(cls, name: str, values: Iterable[object]) -> ContinuousColumn:
        """Create the column with the range of ``values``, except missing ones."""
        numbers = [_number(name, value) for value in values if not is_missing(value)]
        if not numbers:
            raise InputError(f"the continuous attribute {name!r} has no values in the training table")
        return cls(name, min(numbers), max(numbers))

    def encode(self, value: object, null: bool = False) -> float:
        """Return the code of a value in [0, 1]; :data:`UNKNOWN` for missing data, :data:`NULL` if ``null`` is set."""
        if null:
            return NULL
        if is_missing(value):
            return UNKNOWN
        number = _number(self.name, value)
        if not self.low <= number <= self.high:
            raise InputError(
                f"{self.name} = {value} is outside the range of the training data, [{self.low:g}, {self.high:g}]"
            )
        return (number - self.low) / (self.high - self.low)

    def decode(self, code: float) -> float | str | None:
        """Return the value of a code; ``None`` for null, the empty string for unknown."""
        if code in (NULL, UNKNOWN):
            return None if code == NULL else ""
        return min(self.high, self.low + float(code) * (self.high - self.low))

    def to_dict(self) -> dict:
        return {"name": self.name, "kind": self.kind, "low": self.low, "high": self.high}


def _spelled(value: object) -> str:
    # pandas converts a column of whole numbers with a missing value to floats: 3.0 is 3
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(name: str, value: object) -> float:
    number = number_in(str(value))
    if number is None:
        pointed = str(value).replace(",", ".")
        comma = f"; write it with a point, {pointed}" if number_in(pointed) is not None else ""
        hint = comma or _empty_instead(value)
        raise InputError(f"{name} = {value!r} is not a finite number, but {name} is declared continuous{hint}")
    return number


def _empty_instead(value: object) -> str:
    usual = isinstance(value, str) and value.strip().lower() in MISSING_WORDS
    return " For missing data, leave the cell empty." if usual else ""
