"""Results of the run ``probing``: the content of ``probe.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medi_monai.results.diagnostics import Shortcut
from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.typed import Result

__all__ = [
    "ALPHA",
    "CEILING",
    "ArmResults",
    "Comparison",
    "DemographicGapFigures",
    "GroupAccuracy",
    "ProbeResults",
    "RepeatedFigure",
    "SweepPoint",
    "TestGroup",
    "TestSet",
    "Training",
    "TrainingSet",
    "WorstGroupFigure",
]

#: arm with real images of the tested combinations: not a rival, but what nobody has
CEILING = "ceiling"
#: level of significance of all verdicts and pages
ALPHA = 0.05


@dataclass(frozen=True)
class RepeatedFigure(Figure):
    """A mean over trainings and draws; its interval covers both and, for figures computed from counts, test units.

    Args:
        value: mean over trainings and draws.
        ci95: interval of the mean.
        n: number of test images.
        repeats: the figure in each draw.
        trainings: the figure for each training of the arm's generative model; one for an arm without such a model.
    """

    repeats: tuple[float | None, ...] = ()
    trainings: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class WorstGroupFigure(RepeatedFigure):
    """Worst-group accuracy.

    Args:
        value: mean over the draws.
        ci95: interval of the mean.
        n: number of test images of ``group``.
        repeats: the figure in each draw.
        trainings: the figure for each training of the arm's generative model.
        group: group that is most often the worst; ``None`` if no group has enough images.
        num_groups: number of groups that were compared.
        num_too_small: number of non-empty groups with too few images.
    """

    group: str | None = None
    num_groups: int = 0
    num_too_small: int = 0


@dataclass(frozen=True)
class DemographicGapFigures(Result):
    """Gaps between the groups of a demographic column, averaged over draws, with the test images per group."""

    equal_opportunity: Figure
    equalized_odds: Figure
    groups: Mapping[str, int]


@dataclass(frozen=True)
class GroupAccuracy(Result):
    """Accuracy for one center or one class.

    Args:
        value: balanced accuracy for a center, recall for a class; ``None`` without test images.
        n: number of test images.
        num_classes: number of classes with test images at the center; ``None`` for a class.
    """

    value: float | None
    n: int
    num_classes: int | None = None


@dataclass(frozen=True)
class Training(Result):
    """Training data and regularization of a probe; in ``probe.json``, means over the draws.

    Args:
        num_real: number of real images.
        num_added: number of images added to them.
        c: selected value of C, the inverse strength of the regularizer.
        converged: whether the probe reached its optimum; over several draws, the share that did.
    """

    num_real: float
    num_added: float
    c: float
    converged: float


@dataclass(frozen=True)
class ArmResults(Result):
    """Figures of an arm over all draws; those in ``per_center`` and ``per_class`` are means without intervals.

    ``in_domain_accuracy`` is the balanced accuracy on validation patients, whose combinations are in training."""

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
    in_domain_accuracy: RepeatedFigure = RepeatedFigure(None, None, 0)


@dataclass(frozen=True)
class Comparison(Result):
    """Difference between two arms in one figure, with p values.

    Args:
        figure: name of the figure.
        arms: names of the first and the second arm.
        difference: figure of the first arm minus that of the second.
        standard_error: standard error of the difference; ``None`` if it is unknown.
        df: its degrees of freedom; ``None`` if they are infinite.
        variance: its square by source: ``test`` (combinations or patients), ``draws`` (training patients), ``images``
            (generated images) and ``trainings``. With one training, ``draws`` contains ``images``.
        p_value: p value of a difference of 0 (two-sided); ``None`` for AUROC and calibration error, and if unknown.
        p_holm: ``p_value`` corrected for the number of arms compared (Holm).
        p_equivalence: p value of a difference larger than the margin; only for the balanced accuracy.
    """

    figure: str
    arms: tuple[str, str]
    difference: Figure
    standard_error: float | None = None
    df: float | None = None
    variance: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None
    p_holm: float | None = None
    p_equivalence: float | None = None

    @property
    def significant(self) -> bool | None:
        """Whether the difference is significant after correction; None if it has no p value."""
        return None if self.p_holm is None else self.p_holm < ALPHA


@dataclass(frozen=True)
class SweepPoint(Result):
    """One arm at one point of a sweep: means over ``n`` draws of each training, with 95% intervals.

    Intervals are over training patients, generated images and trainings; all draws have the same test images.
    """

    point: int | float
    arm: str
    n: int
    num_trainings: int
    balanced_accuracy: float | None
    balanced_accuracy_ci95: tuple[float, float] | None
    worst_group_accuracy: float | None
    worst_group_accuracy_ci95: tuple[float, float] | None
    num_real: float
    num_added: float


@dataclass(frozen=True)
class TestGroup(Result):
    """Combination of label and attributes in the test set: values, number of images, and whether training has it."""

    __test__ = False

    values: Mapping[str, str]
    n: int
    seen: bool


@dataclass(frozen=True)
class TestSet(Result):
    """The test images.

    Args:
        n: number of images.
        patients: number of patients.
        left_out: number of images left out, because their class has no training images.
        groups: combinations of label and attributes.
        what: which patients and combinations these are, in words.
        unit: what another study would draw anew in the intervals: ``combination``, or ``patient`` if there are too few.
        num_units: number of these.
    """

    __test__ = False

    n: int
    patients: int
    left_out: int
    groups: tuple[TestGroup, ...]
    what: str
    unit: str
    num_units: int


@dataclass(frozen=True)
class TrainingSet(Result):
    """Numbers of real training images, of their patients and of validation images, and the classes."""

    n: int
    patients: int
    validation: int
    classes: tuple[str, ...]

    @property
    def chance(self) -> float | None:
        """Balanced accuracy of guessing: 1 / number of classes; None without classes."""
        return 1 / len(self.classes) if self.classes else None


@dataclass(frozen=True)
class ProbeResults(Result):
    """The content of ``probe.json``.

    Args:
        arms: figures of each arm.
        comparisons: comparisons of the focus with every other arm.
        sweeps: points of each sweep.
        shortcut: shortcut diagnostics of the center.
        test: the test images.
        training: the training images.
        label: column of the class.
        attributes: columns that form a combination with the label; the first is the center.
        demographics: columns whose groups are compared.
        encoder: description of the feature encoder.
        settings: resolved settings of the run.
        settings_that_differ: sampling settings that are not the same in all arms, by setting and arm.
        digests: digests of the cohort, and of everything that determines the draws.
        warnings: limitations of the conclusions.
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
        """The first attribute, which is tested as a shortcut."""
        return self.attributes[0]

    @property
    def focus(self) -> str:
        """The arm that is compared with every other arm."""
        return str(self.settings["focus"])

    @property
    def generated(self) -> tuple[str, ...]:
        """Arms that add generated images to real ones."""
        return tuple(self.settings["arms"])

    @property
    def num_trainings(self) -> int:
        """Number of trainings of the generative model of the focus; 1 for an arm without one."""
        return max(1, len(self.arms[self.focus].balanced_accuracy.trainings)) if self.focus in self.arms else 1

    @property
    def baselines(self) -> list[str]:
        """The arms without generated images, besides real images alone and the ceiling, most accurate first."""
        variants = tuple(f"{arm}_" for arm in self.generated)
        values = {
            arm: of_arm.balanced_accuracy.value
            for arm, of_arm in self.arms.items()
            if arm not in ("real", CEILING, *self.generated) and not arm.startswith(variants)
        }
        known = {arm: value for arm, value in values.items() if value is not None}
        return sorted(known, key=known.__getitem__, reverse=True)

    @property
    def best_baseline(self) -> str | None:
        """The first of :attr:`baselines`; ``None`` without one."""
        return next(iter(self.baselines), None)

    @property
    def num_repeats(self) -> int:
        """Number of draws of training patients."""
        return int(self.settings["num_repeats"])

    @property
    def min_count(self) -> int:
        """Minimum number of test images of a group for worst-group accuracy and group gaps."""
        return int(self.settings["min_count"])

    @property
    def c_values(self) -> tuple[float, ...]:
        """Values of C from which the probes select."""
        return tuple(self.settings["c_values"])

    def comparison(self, figure: str, other: str) -> Comparison | None:
        """Return the comparison of the focus with another arm in one figure; ``None`` if there is none."""
        return next((row for row in self.comparisons if row.figure == figure and row.arms[1] == other), None)
