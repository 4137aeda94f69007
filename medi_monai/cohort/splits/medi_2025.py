"""The split of the published MeDi code, for comparison."""

from __future__ import annotations

import pandas as pd

from medi_monai.cohort.splits.patients import keep_apart, quoted
from medi_monai.cohort.splits.scheme import SplitScheme
from medi_monai.utils.errors import InputError

__all__ = ["split_as_medi_2025"]


def split_as_medi_2025(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Split by ``medi_2025``: the first keys of each class, in file order, are for training; no site is in both splits.

    A key is a combination of ``columns[1:]``: site code, gender and race (``TSS_gender_race``). Of the ``n`` keys of a
    class, the first ``int((1 - fraction) * n)``, by their first row, go to training and the others to the holdout; then
    every site that occurs in both, in any classes, moves to the holdout with all its rows. A missing value counts as a
    value: if rows with missing values are omitted, or with ``round`` or ``ceil`` in place of ``int``, the published
    counts (TCGA: 7,061 and 1,665 slides, 398 and 228 site codes) are not reproduced.

    Args:
        units: one row per patient and combination, in file order.
        scheme: columns (project, site, then the others) and fraction.

    Raises:
        InputError: if a class is left without training rows, which happens with centers but not with TCGA site codes.
    """
    label, site = scheme.columns[:2]
    keys = units[list(scheme.columns)].drop_duplicates()
    rank = keys.groupby(label, sort=False).cumcount()
    size = keys[label].map(keys[label].value_counts())
    in_training = rank < ((1 - scheme.fraction) * size).astype(int)
    moved = set(keys.loc[in_training, site]) & set(keys.loc[~in_training, site])
    trains = keys[in_training & ~keys[site].isin(moved)]
    held = ~pd.MultiIndex.from_frame(units[list(scheme.columns)]).isin(pd.MultiIndex.from_frame(trains))
    split = keep_apart(units, held)
    lost = sorted(set(units[label]) - set(units.loc[split == "train", label]))
    if lost:
        counts = units.loc[units[label].isin(lost)].drop_duplicates([label, site])[label].value_counts()
        raise InputError(
            f"medi_2025 moves every {site} that is in both splits to the holdout and leaves no training rows of "
            f"{quoted(counts.to_dict(), 'site')}. It is meant for site codes, which belong to one class each; "
            "remove these classes, or use subpopulation_holdout."
        )
    return split
