"""Results of one draw of training patients, by arm; each draw is a separate file in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medi_monai.results.probing import GroupAccuracy, Training
from medi_monai.results.typed import Result

__all__ = [
    "FIGURES",
    "FIGURES_OF_COUNTS",
    "ArmDraw",
    "ArmScores",
    "DemographicGaps",
    "Draw",
    "WorstGroup",
]

#: figures computed from counts, which therefore have an interval over patients
FIGURES_OF_COUNTS = ("balanced_accuracy", "worst_group_accuracy", "group_mean_accuracy", "mcc")
FIGURES = (*FIGURES_OF_COUNTS, "auroc", "calibration_error")


@dataclass(frozen=True)
class WorstGroup(Result):
    """The group with the lowest accuracy.

    Args:
        value: its accuracy; NaN where no group has enough images.
        group: class and attributes; ``None`` where no group has enough images.
        n: its test images.
        num_groups: groups that were compared.
        num_too_small: groups with images, but too few of them.
        num_empty: combinations without images.
    """

    value: float | None
    group: tuple[str, ...] | None
    n: int
    num_groups: int
    num_too_small: int
    num_empty: int


@dataclass(frozen=True)
class DemographicGaps(Result):
    """Gaps between the groups of a demographic column in one draw.

    Args:
        equal_opportunity: largest gap in recall; ``None`` with fewer than two groups.
        equalized_odds: the larger of that gap and that in the false positive rate.
        groups: test images by group.
    """

    equal_opportunity: float | None
    equalized_odds: float | None
    groups: Mapping[str, int]


@dataclass(frozen=True)
class ArmScores(Result):
    """All figures of one arm in one draw.

    Args:
        figures: by the names of :data:`FIGURES`; undefined ones are NaN, in JSON ``None``.
        replicates: over bootstrap samples of the test patients, by the names of :data:`FIGURES_OF_COUNTS`.
        worst_group: which group has the lowest accuracy.
        per_center: by center.
        per_class: by class.
        demographics: by column.
        gain: what each patient adds to the balanced accuracy.
    """

    figures: Mapping[str, float | None]
    replicates: Mapping[str, list[float | None]]
    worst_group: WorstGroup | None
    per_center: Mapping[str, GroupAccuracy]
    per_class: Mapping[str, GroupAccuracy]
    demographics: Mapping[str, DemographicGaps]
    gain: Mapping[str, float]

    @classmethod
    def balanced_accuracy_alone(cls, value: float | None) -> ArmScores:
        """Return scores for which only the balanced accuracy was measured."""
        return cls({"balanced_accuracy": value}, {}, None, {}, {}, {}, {})

    def figures_alone(self) -> ArmScores:
        """Return a copy with only the figures needed for the points of a sweep."""
        return ArmScores(self.figures, {}, None, {}, {}, {}, {})


@dataclass(frozen=True)
class ArmDraw(Result):
    """One arm in one draw: its scores, and what it was trained with."""

    scores: ArmScores
    training: Training


@dataclass(frozen=True)
class Draw(Result):
    """One draw of training patients with all arms on it.

    Args:
        sweep: ``main``, or the name of a sweep.
        point: of the sweep.
        repeat: number of the draw.
        arms: by name.
        square: which pair of classes and centers, in the sweep over their correlation.
        num_test: test images, in that sweep.
        num_test_known: those of patients that the generative model was trained on.
    """

    sweep: str
    point: int | float | None
    repeat: int
    arms: Mapping[str, ArmDraw]
    square: str | None = None
    num_test: int | None = None
    num_test_known: int | None = None
