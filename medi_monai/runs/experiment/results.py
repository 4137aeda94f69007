"""``experiment.json`` of the experiment with metadata, as ``experiment.schema.json`` describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medi_monai.cohort import Cohort
from medi_monai.cohort.table import SPLITS
from medi_monai.results import Finding

__all__ = ["CohortSummary", "CombinationCounts", "ExperimentResults", "SplitCounts", "summarize_cohort"]


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds."""

    patches: int
    slides: int
    patients: int


@dataclass(frozen=True)
class CombinationCounts:
    """Combinations of label and attributes in training, and those that are not."""

    seen: int
    unseen: int


@dataclass(frozen=True)
class CohortSummary:
    """The cohort of an experiment.

    Attributes:
        label: column of the class.
        attributes: columns of metadata that the generator knows.
        dir: its folder, from that of the experiment.
        counts: by split.
        combinations: of label and attributes.
    """

    label: str
    attributes: tuple[str, ...]
    dir: str
    counts: Mapping[str, SplitCounts]
    combinations: CombinationCounts


@dataclass(frozen=True)
class ExperimentResults:
    """The content of ``experiment.json``.

    Attributes:
        question: that the experiment asks.
        cohort: what it was run on.
        verdict: the answer first.
        fidelity: content of ``metrics.json``.
        probe: content of ``probe.json``.
        links: pages of the stages, from the folder of the experiment.
        settings: as resolved.
        seconds: how long each stage took.
    """

    question: str
    cohort: CohortSummary
    verdict: Sequence[Finding]
    fidelity: Mapping[str, Any]
    probe: Mapping[str, Any]
    links: Mapping[str, str]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float | None]


def summarize_cohort(cohort: Cohort, columns: Sequence[str], folder: str) -> CohortSummary:
    """Counts of a cohort by split, and of combinations in training or not.

    Args:
        cohort: with its split; rows that a split scheme excluded do not count.
        columns: the label, then the attributes.
        folder: of the cohort, as results name it.
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
    return CohortSummary(columns[0], tuple(columns[1:]), folder, counts, combinations)
