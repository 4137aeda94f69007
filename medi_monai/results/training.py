"""Record of the data that a model was trained on, stored in ``model.json`` and with the images that it samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medi_monai.results.typed import Result, typed

__all__ = ["RECORD", "TrainingRecord"]

#: entry of ``model.json`` and of ``sampling.json`` that holds the record
RECORD = "trained_on"


@dataclass(frozen=True)
class TrainingRecord(Result):
    """Combinations of label and attributes in the training data of a model.

    Args:
        cohort: digest of the cohort.
        columns: label and attributes that form a combination.
        combinations: values of the columns in each combination, with its number of training images.
    """

    cohort: str
    columns: tuple[str, ...]
    combinations: tuple[tuple[tuple[str, ...], int], ...]

    def __post_init__(self) -> None:
        if any(len(values) != len(self.columns) for values, _ in self.combinations):
            raise ValueError("a combination has another number of values than there are columns")

    @classmethod
    def of(cls, table: pd.DataFrame, columns: Iterable[str], cohort: str) -> TrainingRecord:
        """Create the record of a training.

        Args:
            table: one row per training image.
            columns: label and categorical attributes; repetitions are ignored.
            cohort: digest of the cohort.
        """
        columns = tuple(dict.fromkeys(columns))
        sizes = table[list(columns)].astype(str).groupby(list(columns)).size()
        counts = {key if isinstance(key, tuple) else (key,): int(size) for key, size in sizes.items()}
        return cls(cohort, columns, tuple(sorted(counts.items())))

    @classmethod
    def in_config(cls, train_config: Mapping[str, Any] | None) -> TrainingRecord | None:
        """Return the record in the content of a ``model.json``, or None if there is none.

        Raises:
            InputError: for a damaged record.
        """
        record = (train_config or {}).get(RECORD)
        return None if record is None else typed(cls, record, f"{RECORD} in model.json")

    def of_columns(self, columns: Sequence[str]) -> set[tuple[str, ...]] | None:
        """Return the combinations of ``columns`` in the training data, or None if any of these is not recorded."""
        if not set(columns) <= set(self.columns):
            return None
        positions = [self.columns.index(column) for column in columns]
        return {tuple(values[position] for position in positions) for values, _ in self.combinations}

    def table(self) -> pd.DataFrame:
        """Return one row per training image with its values of the columns: all that a plan needs of a cohort."""
        rows = [values for values, count in self.combinations for _ in range(count)]
        return pd.DataFrame(rows, columns=list(self.columns), dtype=str)
