"""Rows of a table that name volumes: each becomes one row per slice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.tables.repeats import REPEATS, contradictions
from medi_monai.cohort.volumes.rules import VolumeRules

__all__ = ["FILE", "SERIES", "SLICE", "VOLUME_SUFFIXES", "expand_volumes"]

#: columns of rows on their way to a cohort: names that no table has, since templates may use any of its own
FILE, SLICE, SERIES = "file of the row", "slice of the row", "series of the row"

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd")


def expand_volumes(rows: pd.DataFrame, folder: Path, rules: VolumeRules) -> pd.DataFrame:
    """One row per slice, for rows that name a volume.

    Args:
        rows: strings ``image`` and ``problem``; :data:`SLICE` is the index of a slice if the table has one, or empty;
            :data:`SERIES` identifies a DICOM series, or is empty.
        folder: what paths are relative to.
        rules: which slices, where the table does not say.

    Returns:
        The rows with :data:`FILE`, the path of the file or folder, and ``image``, which names the slice as well.
        :data:`SLICE` is one of :attr:`VolumeRules.names`, an index, or empty for a file that is an image.
    """
    rows = rows.assign(**{FILE: rows["image"]})
    whole = rows[SLICE].str.fullmatch(r"\d+(\.0+)?")
    wrong = (rows[SLICE] != "") & ~whole & (rows["problem"] == "")
    rows["problem"] = rows["problem"].mask(wrong, "slice " + rows[SLICE].map(repr) + " is not a whole number from 0")
    rows[SLICE] = rows[SLICE].str.replace(r"\.0+$", "", regex=True)
    volume = rows["image"].str.lower().str.endswith(VOLUME_SUFFIXES) | (rows[SERIES] != "")
    # a folder of a DICOM series has no suffix, and many a file of an image neither
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
