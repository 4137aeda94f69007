"""The content of ``probe.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.results.typed import Result

__all__ = [
    "ArmResults",
    "Comparison",
    "CorrelationArm",
    "CorrelationPoint",
    "CorrelationSweep",
    "DemographicGapFigures",
    "GroupAccuracy",
    "ProbeResults",
    "RepeatedFigure",
    "RobustnessIndex",
    "Shortcut",
    "SweepPoint",
    "TestGroup",
    "TestSet",
    "Training",
    "TrainingSet",
    "WorstGroupFigure",
]


@dataclass(frozen=True)
class RepeatedFigure(Figure):
    """A mean over draws, with an interval over draws and, where the figure follows from counts, over test patients.

    Args:
        value: mean over the draws.
        ci95: its interval.
        n: test images.
        repeats: the figure of every draw.
    """

    repeats: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class WorstGroupFigure(RepeatedFigure):
    """Worst-group accuracy.

    Args:
        value: mean over the draws.
        ci95: its interval.
        n: test images of ``group``.
        repeats: the figure of every draw.
        group: the group that is the worst in most draws; ``None`` where none has enough images.
        num_groups: groups that were compared.
        num_too_small: groups with images, but too few of them.
    """

    group: str | None = None
    num_groups: int = 0
    num_too_small: int = 0


@dataclass(frozen=True)
class DemographicGapFigures(Result):
    """Gaps between the groups of a demographic column, means over the draws, and the test images by group."""

    equal_opportunity: Figure
    equalized_odds: Figure
    groups: Mapping[str, int]


@dataclass(frozen=True)
class GroupAccuracy(Result):
    """Accuracy within a center or of a class.

    Args:
        value: balanced accuracy within a center, recall of a class; ``None`` without test images.
        n: test images.
        num_classes: that a center has test images of; ``None`` for a class.
    """

    value: float | None
    n: int
    num_classes: int | None = None


@dataclass(frozen=True)
class Training(Result):
    """What a probe was trained with; in ``probe.json`` means over the draws.

    Args:
        num_real: real images.
        num_added: images added to them.
        c: inverse strength of the regularizer that was chosen.
        converged: whether the probe reached its optimum; of several draws the share.
    """

    num_real: float
    num_added: float
    c: float
    converged: float


@dataclass(frozen=True)
class ArmResults(Result):
    """Figures of an arm over all draws; ``per_center`` and ``per_class`` are means without intervals."""

    balanced_accuracy: RepeatedFigure
    worst_group_accuracy: WorstGroupFigure
    group_mean_accuracy: RepeatedFigure
    mcc: RepeatedFigure
    auroc: RepeatedFigure
    calibration_error: RepeatedFigure
    per_center: Mapping[str, GroupAccuracy]
    per_class: Mapping[str, GroupAccuracy]
    demographics: Mapping[str, DemographicGapFigures]
    training: Training


@dataclass(frozen=True)
class Comparison(Result):
    """The first of two arms less the second in one figure, with p values.

    Args:
        figure: name of the figure.
        arms: both arms.
        difference: of the figures.
        p_draws: exchanging the arms draw by draw.
        p_patients: of other test patients; ``None`` for AUROC and calibration error, and where it is undefined.
        num_patients: test patients that were exchanged, for the balanced accuracy.
        p_value: the larger of both, or ``p_draws`` alone for AUROC and calibration error.
        p_holm: ``p_value`` corrected for the number of arms.
    """

    figure: str
    arms: tuple[str, str]
    difference: Figure
    p_draws: float | None
    p_patients: float | None
    num_patients: int | None
    p_value: float | None
    p_holm: float | None = None


@dataclass(frozen=True)
class SweepPoint(Result):
    """An arm at a point of a sweep: means over ``n`` draws, and the lowest and highest of them."""

    point: int | float
    arm: str
    n: int
    balanced_accuracy: float | None
    balanced_accuracy_range: tuple[float, float] | None
    worst_group_accuracy: float | None
    worst_group_accuracy_range: tuple[float, float] | None
    num_real: float
    num_added: float


@dataclass(frozen=True)
class CorrelationPoint(Result):
    """Balanced accuracy at a level of the correlation of class and center, over ``n`` draws."""

    level: float
    value: float | None
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class CorrelationArm(Result):
    """The curve of an arm, and PathoROB's average performance drop: 0 is none, −0.2 a fifth lost."""

    curve: tuple[CorrelationPoint, ...]
    average_performance_drop: Figure


@dataclass(frozen=True)
class CorrelationSweep(Result):
    """Accuracy as center and class become correlated.

    Args:
        levels: of the correlation, 0 to 1.
        arms: by name; none where no two classes share two centers.
        num_squares: pairs of classes and centers.
        num_test: test images of all squares.
        num_test_known: those of patients that the generative model was trained on.
    """

    levels: tuple[float, ...] = ()
    arms: Mapping[str, CorrelationArm] = field(default_factory=dict)
    num_squares: int = 0
    num_test: int = 0
    num_test_known: int = 0


@dataclass(frozen=True)
class RobustnessIndex(Result):
    """PathoROB's robustness index: 1 where the features follow the class, 0 where they follow the center.

    Args:
        value: ``None`` where no two classes share two centers.
        k: neighbors.
        num_pairs: pairs of classes and centers.
        n: images.
    """

    value: float | None
    k: int | None
    num_pairs: int
    n: int


@dataclass(frozen=True)
class Shortcut(Result):
    """How much of the class and of the center the features hold, and what arms make of it."""

    label_probe_accuracy: ProbeAccuracy
    center_probe_accuracy: ProbeAccuracy
    robustness_index: RobustnessIndex
    correlation: CorrelationSweep


@dataclass(frozen=True)
class TestGroup(Result):
    """A combination of label and attributes in the test: its values, its images, and whether training has it."""

    __test__ = False

    values: Mapping[str, str]
    n: int
    seen: bool


@dataclass(frozen=True)
class TestSet(Result):
    """The test images.

    Args:
        n: images.
        patients: their patients.
        left_out: images of classes without training images.
        groups: by combination of label and attributes.
        what: of whom they are, in words.
    """

    __test__ = False

    n: int
    patients: int
    left_out: int
    groups: tuple[TestGroup, ...]
    what: str


@dataclass(frozen=True)
class TrainingSet(Result):
    """The real images of training, their patients, those of validation, and the classes."""

    n: int
    patients: int
    validation: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ProbeResults(Result):
    """The content of ``probe.json``.

    Args:
        arms: by name.
        comparisons: of the focus with every other arm.
        sweeps: points by name of the sweep.
        shortcut: diagnostics of the center.
        test: images tested on.
        training: images trained on.
        label: column of the class.
        attributes: columns that make a combination with the label; the first is the center.
        demographics: columns whose groups are compared.
        encoder: of the features.
        settings: of the run.
        settings_that_differ: settings of the sampling that are not the same for all arms.
        digests: of the cohort and of what the draws are made of.
        warnings: what limits the conclusions.
    """

    arms: Mapping[str, ArmResults]
    comparisons: tuple[Comparison, ...]
    sweeps: Mapping[str, tuple[SweepPoint, ...]]
    shortcut: Shortcut
    test: TestSet
    training: TrainingSet
    label: str
    attributes: tuple[str, ...]
    demographics: tuple[str, ...]
    encoder: Mapping[str, Any]
    settings: Mapping[str, Any]
    settings_that_differ: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]
    warnings: tuple[Finding, ...] = ()

    @property
    def center(self) -> str:
        """The first attribute, which may be a shortcut."""
        return self.attributes[0]

    @property
    def focus(self) -> str:
        """The arm that is compared with every other one."""
        return str(self.settings["focus"])

    @property
    def generated(self) -> tuple[str, ...]:
        """Arms that add generated images to real ones."""
        return tuple(self.settings["arms"])

    @property
    def num_repeats(self) -> int:
        """Draws of training patients."""
        return int(self.settings["num_repeats"])

    @property
    def min_count(self) -> int:
        """Smaller test groups do not count."""
        return int(self.settings["min_count"])

    @property
    def c_values(self) -> tuple[float, ...]:
        """Values of C that probes choose from."""
        return tuple(self.settings["c_values"])

    def comparison(self, figure: str, other: str) -> Comparison | None:
        """Of the focus with another arm in one figure."""
        return next((row for row in self.comparisons if row.figure == figure and row.arms[1] == other), None)
