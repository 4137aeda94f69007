"""Summarize a cohort for ``experiment.json``."""

from __future__ import annotations

from collections.abc import Sequence

from medi_monai.cohort import Cohort
from medi_monai.cohort.demo import are_made_up
from medi_monai.cohort.table import SPLITS
from medi_monai.results.experiment import CohortSummary, CombinationCounts, SplitCounts

__all__ = ["summarize_cohort"]


def summarize_cohort(cohort: Cohort, columns: Sequence[str], folder: str) -> CohortSummary:
    """Count a cohort by split, and its combinations by whether they occur in training.

    Args:
        cohort: cohort with its split; rows in ``excluded`` are ignored.
        columns: label, followed by the attributes.
        folder: folder of the cohort, as named in results.
    """
    table = cohort.table[cohort.table["split"] != "excluded"]
    keys = table[list(columns)].astype(str).agg(" · ".join, axis=1)
    seen = set(keys[table["split"] == "train"])
    counts = {
        split: SplitCounts(len(rows), int(rows["slide"].nunique()), int(rows["patient"].nunique()))
        for split in SPLITS
        if len(rows := table[table["split"] == split])
    }
    combinations = CombinationCounts(len(seen), len(set(keys) - seen))
    return CohortSummary(columns[0], tuple(columns[1:]), folder, counts, combinations, are_made_up(table["patient"]))
