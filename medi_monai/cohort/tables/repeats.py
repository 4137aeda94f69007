"""Find rows of a table that name the same image: rows that repeat another one, and rows that contradict each other."""

from __future__ import annotations

import pandas as pd

from medi_monai.utils.text import listed

__all__ = ["REPEATS", "contradictions", "repeats"]

REPEATS = "the same as an earlier row of the table, which is used"


def repeats(rows: pd.DataFrame) -> pd.Series:
    """Return ``(N,)`` bool: rows that are equal to an earlier row in all columns."""
    return rows.duplicated(keep="first")


def contradictions(rows: pd.DataFrame) -> pd.Series:
    """Return the problem of rows that name the same image but differ in other columns.

    Args:
        rows: columns of strings, including ``image``; no two rows are equal.

    Returns:
        For each row, the problem with the columns in which the rows of its image differ; empty if the image has only
        one row.
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
