"""What the experiment with metadata writes into ``experiment.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from medi_monai.results.finding import Finding
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.results.typed import Result

__all__ = ["CohortSummary", "CombinationCounts", "ExperimentResults", "SplitCounts"]


@dataclass(frozen=True)
class SplitCounts(Result):
    """What a split holds."""

    patches: int
    slides: int
    patients: int


@dataclass(frozen=True)
class CombinationCounts(Result):
    """Combinations of label and attributes in training, and those that are not."""

    seen: int
    unseen: int


@dataclass(frozen=True)
class CohortSummary(Result):
    """The cohort of an experiment.

    Args:
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
class ExperimentResults(Result):
    """The content of ``experiment.json``.

    Args:
        question: that the experiment asks.
        cohort: what it was run on.
        verdict: the answer first.
        fidelity: of the evaluation.
        probe: of the probing.
        links: pages of the stages, from the folder of the experiment.
        settings: as resolved.
        seconds: how long each stage took.
    """

    question: str
    cohort: CohortSummary
    verdict: Annotated[tuple[Finding, ...], Field(min_length=1)]
    fidelity: ArmsMetrics
    probe: ProbeResults
    links: Mapping[str, str]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float | None]
