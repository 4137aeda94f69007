"""One draw of training patients: its conditions, and its results by arm, a file in the run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from medi_monai.metrics import estimate, percentile_interval
from medi_monai.results.probing import GroupAccuracy, Training
from medi_monai.results.typed import Result

__all__ = [
    "FIGURES",
    "FIGURES_OF_COUNTS",
    "IN_DOMAIN",
    "OUTSIDE",
    "ArmDraw",
    "ArmScores",
    "DemographicGaps",
    "Draw",
    "DrawCondition",
    "Outcome",
    "TestedPatients",
    "WorstGroup",
    "arms_of",
    "floats",
    "known_interval",
    "known_mean",
    "mean_and_interval",
]

#: figures computed from counts, which therefore have an interval over test units
FIGURES_OF_COUNTS = ("balanced_accuracy", "worst_group_accuracy", "group_mean_accuracy", "mcc")
#: balanced accuracy on validation patients, whose combinations are in training
IN_DOMAIN = "in_domain_accuracy"
FIGURES = (*FIGURES_OF_COUNTS, "auroc", "calibration_error", IN_DOMAIN)
#: balanced accuracy at other centers, in the sweep over the correlation of class and center
OUTSIDE = "outside_accuracy"


@dataclass(frozen=True)
class DrawCondition:
    """Conditions that vary between runs of the protocol.

    Args:
        ratio: number of synthetic images per real image, the same number for each class.
        real_per_class: maximum number of real training images per class; by default all.
        centers: values of the first attribute for training images; by default all.
        real_rows: rows of the real table to train on, instead of the resampled training split; synthetic images are
            then limited to their classes.
        val_rows: rows on which the regularizer is chosen; by default those of the split, or of other patients of
            ``real_rows``.
        test_rows: rows of the real table to test on, instead of the holdout.
    """

    ratio: float = 1.0
    real_per_class: int | None = None
    centers: tuple[str, ...] | None = None
    real_rows: np.ndarray | None = field(default=None, repr=False)
    val_rows: np.ndarray | None = field(default=None, repr=False)
    test_rows: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one arm: its predictions for the test rows, and how they were obtained.

    Args:
        arm: name of the arm.
        probabilities: ``(N, C)`` class probabilities of the test rows.
        c: selected value of C.
        num_real: number of real training images.
        num_added: number of images added to them.
        converged: whether the probe reached its optimum.
        in_domain_accuracy: balanced accuracy on the validation images, by which C is chosen.
    """

    arm: str
    probabilities: torch.Tensor
    c: float
    num_real: int
    num_added: int
    converged: bool
    in_domain_accuracy: float


@dataclass(frozen=True)
class WorstGroup(Result):
    """The group with the lowest accuracy.

    Args:
        value: accuracy of the group; NaN if no group has enough images.
        group: class and attributes of the group; ``None`` if no group has enough images.
        n: number of test images of the group.
        num_groups: number of groups that were compared.
        num_too_small: number of non-empty groups with too few images.
        num_empty: number of groups without images.
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
        equal_opportunity: largest gap in recall; ``None`` for fewer than two groups.
        equalized_odds: the larger of the gaps in recall and in the false positive rate.
        groups: number of test images of each group.
    """

    equal_opportunity: float | None
    equalized_odds: float | None
    groups: Mapping[str, int]


@dataclass(frozen=True)
class ArmScores(Result):
    """All figures of one arm in one draw.

    Args:
        figures: value of each of :data:`FIGURES`, in the correlation sweep also of :data:`OUTSIDE`; undefined ones are
            NaN, in JSON ``null``.
        replicates: values of each of :data:`FIGURES_OF_COUNTS` in bootstrap samples of the test units, the same samples
            in all draws and arms.
        worst_group: group with the lowest accuracy.
        per_center: accuracy at each center.
        per_class: recall of each class.
        demographics: gaps between the groups of each demographic column.
        right: in the correlation sweep, the number of correct predictions for each entry of :class:`TestedPatients`.
    """

    figures: Mapping[str, float | None]
    replicates: Mapping[str, list[float | None]]
    worst_group: WorstGroup | None
    per_center: Mapping[str, GroupAccuracy]
    per_class: Mapping[str, GroupAccuracy]
    demographics: Mapping[str, DemographicGaps]
    right: tuple[int, ...] = ()

    @classmethod
    def balanced_accuracy_alone(
        cls, value: float | None, outside: float | None = None, right: Sequence[int] = ()
    ) -> ArmScores:
        """Create scores of which only the balanced accuracy was measured, and :data:`OUTSIDE`, at other centers."""
        return cls({"balanced_accuracy": value, OUTSIDE: outside}, {}, None, {}, {}, {}, tuple(right))

    def figures_alone(self) -> ArmScores:
        """Return a copy with only the figures needed for the points of a sweep."""
        return ArmScores(self.figures, {}, None, {}, {}, {}, self.right)


@dataclass(frozen=True)
class TestedPatients(Result):
    """Test images of a draw of the correlation sweep, by patient, class and center.

    Args:
        patients: codes of the patients.
        labels: their class.
        centers: their center.
        outside: whether the center is not in training.
        counts: number of images.
    """

    __test__ = False

    patients: tuple[int, ...]
    labels: tuple[int, ...]
    centers: tuple[int, ...]
    outside: tuple[bool, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ArmDraw(Result):
    """Scores of one arm in one draw, with its training data and regularization."""

    scores: ArmScores
    training: Training


@dataclass(frozen=True)
class Draw(Result):
    """Results of all arms for one draw of training patients.

    Args:
        sweep: name of the sweep, or ``main`` for the comparison of arms.
        point: point of the sweep; ``None`` for ``main``.
        repeat: number of the draw.
        arms: results of each arm.
        square: in the sweep over the correlation of class and center, the name of the square.
        num_test: in that sweep, the number of test images at the centers in training.
        num_test_known: in that sweep, the number of test images, here and at other centers, from patients that the
            generative model was trained on.
        num_outside: in that sweep, the number of test images at other centers.
        tested: in that sweep, whose images these are.
    """

    sweep: str
    point: int | float | None
    repeat: int
    arms: Mapping[str, ArmDraw]
    square: str | None = None
    num_test: int | None = None
    num_test_known: int | None = None
    num_outside: int | None = None
    tested: TestedPatients | None = None


def arms_of(draw: Draw, trainings: Mapping[str, Sequence[str]] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the arms of a draw, each with the names of its trainings in the draw.

    Args:
        draw: the draw.
        trainings: names of the trainings of each arm with generated images; other arms have their own name.
    """
    arm_of = {name: arm for arm, names in (trainings or {}).items() for name in names}
    found: dict[str, tuple[str, ...]] = {}
    for name in draw.arms:
        arm = arm_of.get(name, name)
        found[arm] = (*found.get(arm, ()), name)
    return found


def floats(values: Iterable[float | None]) -> np.ndarray:
    """Return values as an array, with NaN for undefined ones."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def mean_and_interval(
    values: np.ndarray,
    replicates: np.ndarray | None = None,
    test_df: float = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float | None, tuple[float, float] | None, int]:
    """Return the mean of a figure over trainings and draws, and its 95% interval.

    Args:
        values: ``(T, J)`` figure of T trainings in J draws; draws in which it is undefined are left out.
        replicates: ``(T, J, B)`` values in bootstrap samples of the test units; see
            :func:`medi_monai.metrics.estimate`.
        test_df: degrees of freedom of the test units.
        bounds: smallest and largest possible value of the figure, at which the interval is truncated.

    Returns:
        Mean, interval, and number of draws in which the figure is defined; mean and interval are None if unknown.
    """
    known = np.isfinite(values).all(0)
    if not known.any():
        return None, None, 0
    found = estimate(values[:, known], None if replicates is None else replicates[:, known], test_df)
    interval = found.interval()
    ci95 = None if interval is None else (max(bounds[0], interval[0]), min(bounds[1], interval[1]))
    return found.value, ci95, int(known.sum())


def known_mean(values: np.ndarray) -> float | None:
    """Return the mean of the values that are defined; None if there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def known_interval(replicates: np.ndarray) -> tuple[float, float] | None:
    """Return the central 95% interval of the replicates that are defined; None if there are fewer than two."""
    interval = percentile_interval(replicates)
    return None if interval is None else (interval[0], interval[1])
