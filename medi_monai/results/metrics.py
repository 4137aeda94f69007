"""What the run ``evaluation`` of arms writes into ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.measures import FidelityFigures, Memorization, ProbeAccuracy
from medi_monai.results.typed import Result

__all__ = [
    "ArmComparison",
    "ArmMetrics",
    "ArmsMetrics",
    "CombinationFigure",
    "LabelFigure",
    "MeanFidelity",
    "MeanFigure",
    "MetricFigures",
    "PairedTest",
    "PooledFigure",
    "PredictedShare",
    "RealMetrics",
]

#: precision of an arm below which its images are noise; of real images, from which precision says anything
UNTRAINED_PRECISION, INFORMATIVE_PRECISION = 0.05, 0.25


@dataclass(frozen=True, kw_only=True)
class MeanFigure(Figure):
    """A mean over combinations; ``n`` are matched images."""

    num_combinations: int


@dataclass(frozen=True, kw_only=True)
class PooledFigure(Figure):
    """A Fréchet distance of several combinations taken together; its range is over halves of the real images."""

    range_over_halves: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class LabelFigure(MeanFigure):
    """A metric of the combinations of one label.

    Args:
        value: mean over the combinations.
        ci95: its interval.
        n: matched images.
        num_combinations: of the label.
        floor: of real images.
        pooled: of all combinations taken together, of the Fréchet distance.
        pooled_floor: likewise of real images.
    """

    floor: float | None
    pooled: PooledFigure | None = None
    pooled_floor: PooledFigure | None = None


@dataclass(frozen=True, kw_only=True)
class CombinationFigure(MeanFigure):
    """A metric of one combination of label and attributes.

    Args:
        value: undefined where there are too few images.
        ci95: its interval.
        n: matched images.
        num_combinations: 1, or 0 where it is undefined.
        values: by column.
        seen: whether the combination is in training.
        floor: of real images.
        counts: images by arm, and of ``real``.
        one_patient: whether all real images are of one patient.
    """

    values: Mapping[str, str]
    seen: bool
    floor: float | None
    counts: Mapping[str, int]
    one_patient: bool


@dataclass(frozen=True)
class MetricFigures(Result):
    """One metric of an arm, beside that of real images (``floor``).

    Args:
        mean: over all combinations.
        seen: over those in training.
        unseen: over the others.
        floor: as ``mean``.
        floor_seen: as ``seen``.
        floor_unseen: as ``unseen``.
        by_label: over the combinations of each label.
        by_combination: every combination, also those that are undefined.
        all_images: of all images together, not matched; of the Fréchet distance.
    """

    mean: MeanFigure
    seen: MeanFigure
    unseen: MeanFigure
    floor: MeanFigure
    floor_seen: MeanFigure
    floor_unseen: MeanFigure
    by_label: Mapping[str, LabelFigure]
    by_combination: tuple[CombinationFigure, ...]
    all_images: Figure | None = None


@dataclass(frozen=True)
class MeanFidelity(FidelityFigures):
    """Means over combinations."""

    frechet_distance: MeanFigure
    kernel_distance: MeanFigure
    precision: MeanFigure
    recall: MeanFigure
    density: MeanFigure
    coverage: MeanFigure


@dataclass(frozen=True, kw_only=True)
class PredictedShare(Figure):
    """The share of images in which a classifier predicts the value that was requested.

    Args:
        value: combinations weigh alike.
        ci95: Wilson's.
        n: images.
        left_out: images of values that the classifier does not know.
        by_value: share by requested value.
        seen: over combinations in training.
        unseen: over the others.
    """

    left_out: int
    by_value: Mapping[str, float]
    seen: float | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class RealMetrics(Result):
    """Of real images: what the figures of arms have to be seen beside.

    Args:
        floor: real images against real images of other patients.
        label_fidelity: how well a classifier predicts the label of real images of other patients, or ``None``.
        attribute_fidelity: likewise by attribute.
        diversity: mean over combinations.
        memorization: of held-out images, or ``None`` without any.
    """

    floor: MeanFidelity
    label_fidelity: ProbeAccuracy | None
    attribute_fidelity: Mapping[str, ProbeAccuracy | None]
    diversity: Figure
    memorization: Memorization | None


@dataclass(frozen=True)
class ArmMetrics(Result):
    """Of one arm.

    Args:
        frechet_distance: between features, at matched counts; smaller is better, as for ``kernel_distance``.
        kernel_distance: likewise.
        precision: larger is better, as for all that follow.
        recall: likewise.
        density: likewise.
        coverage: likewise.
        label_fidelity: the share of images in which a classifier predicts the label that was requested, or ``None``.
        attribute_fidelity: likewise by attribute.
        diversity: mean over combinations.
        memorization: how near images come to single training images.
        pixel_variance: variance of pixels among the images of a combination, as a multiple of that of real images;
            mean over combinations.
    """

    frechet_distance: MetricFigures
    kernel_distance: MetricFigures
    precision: MetricFigures
    recall: MetricFigures
    density: MetricFigures
    coverage: MetricFigures
    label_fidelity: PredictedShare | None
    attribute_fidelity: Mapping[str, PredictedShare | None]
    diversity: Figure
    memorization: Memorization
    pixel_variance: Figure

    @property
    def means(self) -> MeanFidelity:
        """Of all metrics over all combinations."""
        return MeanFidelity(**{field.name: getattr(self, field.name).mean for field in fields(MeanFidelity)})


@dataclass(frozen=True)
class PairedTest(Result):
    """A permutation test of paired figures: their mean difference, its p value, and the pairs."""

    difference: Figure
    p_value: float | None
    n: int


@dataclass(frozen=True)
class ArmComparison(Result):
    """Fréchet distances of two arms, paired by combination.

    Args:
        arms: both arms.
        combinations: ``all``, ``seen`` in training, or ``unseen``.
        ratio_of_means: first / second.
        log_ratio: of the logarithms of the distances.
    """

    arms: tuple[str, str]
    combinations: Literal["all", "seen", "unseen"]
    ratio_of_means: float | None
    log_ratio: PairedTest


@dataclass(frozen=True)
class ArmsMetrics(Result):
    """Of arms, combination by combination of label and attributes.

    Args:
        label: column of the class.
        attributes: columns that make a combination with it.
        encoder: what features are of.
        settings: as resolved.
        settings_that_differ: of the sampling, by setting and arm.
        digests: of the cohort and of the images of each arm.
        real: of real images.
        arms: by name.
        comparisons: of two arms each.
        warnings: what limits the conclusions.
    """

    label: str
    attributes: tuple[str, ...]
    encoder: Mapping[str, Any]
    settings: Mapping[str, Any]
    settings_that_differ: Mapping[str, Mapping[str, Any]]
    digests: Mapping[str, str]
    real: RealMetrics
    arms: Mapping[str, ArmMetrics]
    comparisons: tuple[ArmComparison, ...]
    warnings: tuple[Finding, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Label and attributes."""
        return (self.label, *self.attributes)

    @property
    def min_images(self) -> int:
        """Fewer images of a set give no figures."""
        return int(self.settings["min_images"])

    @property
    def copying_arms(self) -> list[str]:
        """Arms that reproduce training images more often than held-out real images resemble them."""
        held_out = self.real.memorization
        return [arm for arm, of_arm in self.arms.items() if of_arm.memorization.reproduces_training_images(held_out)]

    @property
    def untrained_arms(self) -> list[str]:
        """Arms of which hardly an image is among real ones, although real images of other patients are."""
        floor = self.real.floor.precision.value
        if floor is None or floor < INFORMATIVE_PRECISION:
            return []
        precisions = {arm: of_arm.precision.mean.value for arm, of_arm in self.arms.items()}
        return [arm for arm, value in precisions.items() if value is not None and value < UNTRAINED_PRECISION]

    def comparison(self, first: str, second: str) -> ArmComparison:
        """Of two arms over all combinations.

        Raises:
            KeyError: where they were not compared.
        """
        for row in self.comparisons:
            if row.combinations == "all" and set(row.arms) == {first, second}:
                return row
        raise KeyError((first, second))
