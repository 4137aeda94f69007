"""Rows of a table that name volumes: each becomes one row per slice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.volumes.rules import VolumeRules

__all__ = ["VOLUME_SUFFIXES", "expand_volumes"]

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd")


def expand_volumes(rows: pd.DataFrame, folder: Path, rules: VolumeRules) -> pd.DataFrame:
    """One row per slice, for rows that name a volume.

    Args:
        rows: strings ``image`` and ``problem``; ``slice`` is the index of a slice where the table has one, or empty;
            ``series`` identifies a DICOM series, or is empty.
        folder: what paths are relative to.
        rules: which slices, where the table does not say.

    Returns:
        The rows with ``file``, the path of the file or folder, and ``image``, which names the slice as well. ``slice``
        is one of :attr:`VolumeRules.names`, an index, or empty for a file that is an image.
    """
    rows = rows.assign(file=rows["image"])
    whole = rows["slice"].str.fullmatch(r"\d+(\.0+)?")
    wrong = (rows["slice"] != "") & ~whole & (rows["problem"] == "")
    rows["problem"] = rows["problem"].mask(wrong, "slice " + rows["slice"].map(repr) + " is not a whole number from 0")
    rows["slice"] = rows["slice"].str.replace(r"\.0+$", "", regex=True)
    volume = rows["image"].str.lower().str.endswith(VOLUME_SUFFIXES) | (rows["series"] != "")
    # a folder of a DICOM series has no suffix, and many a file of an image neither
    bare = ~volume & ~rows["image"].str.contains(r"\.[A-Za-z]\w*$", regex=True)
    volume |= np.array([is_bare and os.path.isdir(folder / image) for is_bare, image in zip(bare, rows["image"])], bool)
    several = volume & (rows["slice"] == "")
    if several.any():
        names = pd.Series([rules.names if many else [own] for many, own in zip(several, rows["slice"])], rows.index)
        rows = rows.assign(slice=names).explode("slice", ignore_index=True)
    named = rows["slice"] != ""
    series = (" series " + rows["series"]).where(rows["series"] != "", "")
    rows["image"] = rows["image"].mask(named, rows["image"] + series + f" {rules.plane} slice " + rows["slice"])
    twice = rows["image"].duplicated(keep=False) & (rows["problem"] == "")
    rows["problem"] = rows["problem"].mask(twice, "several rows of the table name this image")
    return rows
