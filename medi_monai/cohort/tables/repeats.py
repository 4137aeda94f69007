"""Rows of a table that name the same image: those that only repeat another, and those that contradict each other."""

from __future__ import annotations

import pandas as pd

from medi_monai.utils.text import listed

__all__ = ["REPEATS", "contradictions", "repeats"]

REPEATS = "the same as an earlier row of the table, which is used"


def repeats(rows: pd.DataFrame) -> pd.Series:
    """Which rows are equal to an earlier one in all columns."""
    return rows.duplicated(keep="first")


def contradictions(rows: pd.DataFrame) -> pd.Series:
    """Why rows that name the same image cannot be used.

    Args:
        rows: strings ``image`` and others; no two rows are equal.

    Returns:
        The problem, with the columns in which the rows of the image differ; empty for an image with one row.
    """
    shared = rows[rows["image"].duplicated(keep=False)]
    differ = shared.groupby("image").nunique() > 1
    problems = {
        image: "several rows of the table name this image"
        + (f", with different {listed(differ.columns[which])}" if which.any() else "")
        for image, which in zip(differ.index, differ.to_numpy())
    }
    texts = shared["image"].map(problems) if problems else shared["image"]
    return texts.reindex(rows.index, fill_value="").astype("str")
