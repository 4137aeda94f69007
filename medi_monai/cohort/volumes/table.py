"""Expand the rows of a table that name volumes to one row per slice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.tables.repeats import REPEATS, contradictions
from medi_monai.cohort.volumes.rules import VolumeRules

__all__ = ["FILE", "SERIES", "SLICE", "VOLUME_SUFFIXES", "expand_volumes"]

#: additional columns of the rows; their names occur in no table, because templates may use any column of a table
FILE, SLICE, SERIES = "file of the row", "slice of the row", "series of the row"

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd")


def expand_volumes(rows: pd.DataFrame, folder: Path, rules: VolumeRules) -> pd.DataFrame:
    """Expand rows that name a volume to one row per slice.

    Args:
        rows: columns of strings: ``image``, ``problem``, :data:`SLICE` (index of a slice if the table has one, else
            empty) and :data:`SERIES` (UID of a DICOM series, or empty).
        folder: folder to which image paths are relative.
        rules: which slices to take if the table does not name one.

    Returns:
        The rows, where :data:`FILE` is the path of the file or folder, ``image`` also names the slice, and
        :data:`SLICE` is one of :attr:`VolumeRules.names`, an index, or empty for a file that is an image.
    """
    rows = rows.assign(**{FILE: rows["image"]})
    whole = rows[SLICE].str.fullmatch(r"\d+(\.0+)?")
    wrong = (rows[SLICE] != "") & ~whole & (rows["problem"] == "")
    rows["problem"] = rows["problem"].mask(wrong, "slice " + rows[SLICE].map(repr) + " is not a whole number from 0")
    rows[SLICE] = rows[SLICE].str.replace(r"\.0+$", "", regex=True)
    volume = rows["image"].str.lower().str.endswith(VOLUME_SUFFIXES) | (rows[SERIES] != "")
    # a name without a suffix may be the folder of a DICOM series or an image file
    bare = ~volume & ~rows["image"].str.contains(r"\.[A-Za-z]\w*$", regex=True)
    volume |= np.array([is_bare and os.path.isdir(folder / image) for is_bare, image in zip(bare, rows["image"])], bool)
    several = volume & (rows[SLICE] == "")
    if several.any():
        names = pd.Series([rules.names if many else [own] for many, own in zip(several, rows[SLICE])], rows.index)
        rows = rows.assign(**{SLICE: names}).explode(SLICE, ignore_index=True)
    named = rows[SLICE] != ""
    series = (" series " + rows[SERIES]).where(rows[SERIES] != "", "")
    rows["image"] = rows["image"].mask(named, rows["image"] + series + f" {rules.plane} slice " + rows[SLICE])
    kept = rows[rows["problem"] != REPEATS].drop(columns=["problem", "row"], errors="ignore")
    clashes = contradictions(kept).reindex(rows.index, fill_value="")
    rows["problem"] = rows["problem"].mask((clashes != "") & (rows["problem"] == ""), clashes)
    return rows
