"""Check the values of columns: patients that may be unknown, values that look alike, and cells that are not numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medi_monai.schema import missing_cells
from medi_monai.utils.text import look_alikes, number_in

__all__ = ["look_alike_section", "not_numbers", "patients_named_by"]

#: columns that only tables of patches have; in a table of slides, one row per patient is common
OF_PATCHES = ("x", "y")


def patients_named_by(table: pd.DataFrame, patient: str, slide: str) -> str | None:
    """Tell whether patients are named by image or by slide, which suggests that the real patients are unknown.

    Args:
        table: one row per patch or slide.
        patient: column of the patient.
        slide: column of the slide.

    Returns:
        ``image`` if no two patches share a patient, ``slide`` if every patient has the name of its slide, otherwise
        None.
    """
    known = table[~missing_cells(table[patient])]
    if len(known) < 2:
        return None
    if set(OF_PATCHES) <= set(table.columns) and known[patient].is_unique:
        return "image"
    same = known[patient].astype(str) == known[slide].astype(str)
    return "slide" if same.all() and known[patient].nunique() > 1 else None


def look_alike_section(table: pd.DataFrame, columns: Sequence[str]) -> dict[str, list[list[str]]]:
    """Group values that differ only in Unicode form, case, spaces or leading zeros, by column, most frequent first."""
    groups = {
        name: look_alikes(map(str, table.loc[~missing_cells(table[name]), name].value_counts().index))
        for name in columns
    }
    return {name: alike for name, alike in groups.items() if alike}


def not_numbers(column: pd.Series) -> list[str]:
    """Return the values of a column that are neither missing nor numbers, sorted."""
    values = column[~missing_cells(column)].astype(str).unique()
    return sorted(value for value in values if number_in(value) is None)
