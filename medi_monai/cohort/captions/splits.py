"""Splits of captioned images by patient, stratified by attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from medi_monai.cohort.splits.patients import validation_patients
from medi_monai.cohort.table import require_columns
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["PatientSplit"]

#: by default, a numeric column with more distinct values than this is not used for stratification
MAX_STRATA = 10
#: minimum number of patients in a combination: two for training and one for each of the two held-out splits
LEAST = 4


@dataclass(frozen=True)
class PatientSplit:
    """How patients are split into training, validation and holdout.

    Args:
        columns: attributes to stratify by; by default all attributes except numbers with more than ten values. The
            first columns matter most: a combination with too few patients is merged with others that agree in all
            columns but the last.
        val_fraction: fraction of the patients of each combination used for validation, in [0, 1).
        holdout_fraction: fraction of the patients of each combination held out; the sum of both must be below 1.
        seed: random seed for the selection of patients.

    Raises:
        InputError: for fractions out of range, or columns that are not a list of names.
    """

    columns: Sequence[str] | None = None
    val_fraction: float = 0.15
    holdout_fraction: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("val_fraction", "holdout_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise InputError(f"{name} = {value!r}: it must be in [0, 1)")
        if self.val_fraction + self.holdout_fraction >= 1:
            raise InputError(
                f"val_fraction {self.val_fraction} and holdout_fraction {self.holdout_fraction} leave no patient for "
                "training; their sum must be below 1"
            )
        if self.columns is not None and (
            isinstance(self.columns, str) or not all(isinstance(name, str) for name in self.columns)
        ):
            raise InputError(f"columns = {self.columns!r}: use a list of attributes to stratify by")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"seed = {self.seed!r}: it must be a whole number")

    def assign(self, rows: pd.DataFrame, attributes: Sequence[str] = ()) -> pd.Series:
        """Return the split of each row: ``train``, ``val`` or ``holdout``; no patient is in two of them.

        Splits do not depend on the order of the rows. Each value of the first column with at least four patients occurs
        in every split whose fraction is above 0, unless holding out its patients would leave another value without a
        patient.

        Args:
            rows: one row per image, with ``patient`` and the columns to stratify by; missing data count as a value.
            attributes: columns to stratify by if :attr:`columns` is None.

        Raises:
            InputError: for a missing column, rows without a patient, or too few patients to hold any out.
        """
        columns = list(attributes if self.columns is None else self.columns)
        require_columns(rows, ["patient", *columns], "the table to split")
        units = rows[["patient", *columns]].astype("str").fillna("").drop_duplicates()
        if (units["patient"] == "").any():
            raise InputError("there are rows without a patient; remove them first")
        if self.columns is None:
            columns = [column for column in columns if not _is_quantity(units[column])]
        units = _strata(units[["patient", *columns]].drop_duplicates(), columns, self._fewest)
        held = validation_patients(units, columns, self.holdout_fraction, seed_from("holdout", self.seed))
        left = units[~units["patient"].isin(held)]
        # the fraction refers to all patients, not only to those that remain
        share = self.val_fraction / (1 - self.holdout_fraction)
        chosen = validation_patients(left, columns, share, seed_from("val", self.seed))
        for name, fraction, patients in (
            ("holdout_fraction", self.holdout_fraction, held),
            ("val_fraction", self.val_fraction, chosen),
        ):
            if fraction > 0 and not patients:
                raise InputError(
                    f"{name} = {fraction}: of {units['patient'].nunique()} patients, none can be held out, "
                    "because a combination of attributes needs at least three. Check the column of patients, or set "
                    f"{name}: 0"
                )
        split = pd.Series("train", index=rows.index, dtype="str")
        split = split.mask(rows["patient"].isin(chosen), "val")
        return split.mask(rows["patient"].isin(held), "holdout")

    @property
    def _fewest(self) -> int:
        # with fewer patients, a single one would exceed the fraction
        smallest = min((value for value in (self.val_fraction, self.holdout_fraction) if value > 0), default=1)
        return max(LEAST, math.ceil(1 / smallest))


def _is_quantity(column: pd.Series) -> bool:
    values = pd.Series(column[column != ""].unique())
    return len(values) > MAX_STRATA and bool(pd.to_numeric(values, errors="coerce").notna().all())


def _strata(units: pd.DataFrame, columns: Sequence[str], fewest: int) -> pd.DataFrame:
    """Return ``units`` with the last columns left empty for combinations with fewer than ``fewest`` patients."""
    for position in range(len(columns) - 1, -1, -1):
        sizes = units.groupby(list(columns), sort=False)["patient"].transform("nunique")
        rare = sizes < (fewest if position else LEAST)
        units = units.assign(**{columns[position]: units[columns[position]].mask(rare, "")})
    return units.drop_duplicates()
