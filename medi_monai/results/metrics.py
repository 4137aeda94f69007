"""Results of the run ``evaluation`` for arms: the content of its ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.measures import (
    CompressionEffect,
    CopySearchResults,
    FidelityFigures,
    Memorization,
    ProbeAccuracy,
)
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

#: precision of an arm below which its images count as noise, and precision of real images required for this judgment
UNTRAINED_PRECISION, INFORMATIVE_PRECISION = 0.05, 0.25


@dataclass(frozen=True, kw_only=True)
class MeanFigure(Figure):
    """A mean over ``num_combinations`` combinations; ``n`` is their total number of matched images."""

    num_combinations: int


@dataclass(frozen=True, kw_only=True)
class PooledFigure(Figure):
    """Fréchet distance of several pooled combinations, with its range over the random halves of the real images."""

    range_over_halves: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class LabelFigure(MeanFigure):
    """A metric averaged over the combinations of one label.

    Args:
        value: mean over the combinations.
        ci95: interval of the mean.
        n: total number of matched images.
        num_combinations: number of combinations of the label that have enough images.
        floor: the same metric between real images of different patients.
        pooled: Fréchet distance of all combinations pooled; ``None`` for other metrics.
        pooled_floor: the pooled distance between real images.
    """

    floor: float | None
    pooled: PooledFigure | None = None
    pooled_floor: PooledFigure | None = None


@dataclass(frozen=True, kw_only=True)
class CombinationFigure(MeanFigure):
    """A metric of one combination of label and attributes.

    Args:
        value: the metric; ``None`` if there are too few images.
        ci95: interval of the metric.
        n: number of matched images.
        num_combinations: 1, or 0 if the metric is undefined.
        values: label and attributes of the combination, by column.
        seen: whether the combination occurs in training.
        floor: the same metric between real images of different patients.
        counts: number of images in each arm and in ``real``.
        one_patient: whether all real images are from one patient.
    """

    values: Mapping[str, str]
    seen: bool
    floor: float | None
    counts: Mapping[str, int]
    one_patient: bool


@dataclass(frozen=True)
class MetricFigures(Result):
    """One metric of an arm, with that of real images (``floor``) for comparison.

    Args:
        mean: mean over all combinations.
        seen: mean over the combinations in training.
        unseen: mean over the other combinations.
        floor: ``mean`` for real images.
        floor_seen: ``seen`` for real images.
        floor_unseen: ``unseen`` for real images.
        by_label: means over the combinations of each label.
        by_combination: all combinations, including those with too few images.
        all_images: Fréchet distance of all images pooled, without matched counts; ``None`` for other metrics.
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
    """Fidelity, averaged over combinations."""

    frechet_distance: MeanFigure
    kernel_distance: MeanFigure
    precision: MeanFigure
    recall: MeanFigure
    density: MeanFigure
    coverage: MeanFigure


@dataclass(frozen=True, kw_only=True)
class PredictedShare(Figure):
    """Share of images for which a classifier predicts the requested value.

    Args:
        value: the share, with equal weight for every combination.
        ci95: Wilson's interval.
        n: number of images.
        left_out: number of images requested with a value that the classifier was not trained on.
        by_value: share by requested value.
        seen: share over the combinations in training.
        unseen: share over the other combinations.
    """

    left_out: int
    by_value: Mapping[str, float]
    seen: float | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class RealMetrics(Result):
    """Metrics of real images, with which those of the arms have to be compared.

    Args:
        floor: fidelity of real images compared with real images of other patients.
        label_fidelity: accuracy with which a classifier predicts the label of real images of other patients; ``None``
            if it cannot be measured.
        attribute_fidelity: the same accuracy for each attribute.
        diversity: mean diversity over combinations.
        memorization: memorization of held-out images; ``None`` if there are none.
        copy_search: how reliable the search for copies is; ``None`` without a search, and in files of earlier versions.
    """

    floor: MeanFidelity
    label_fidelity: ProbeAccuracy | None
    attribute_fidelity: Mapping[str, ProbeAccuracy | None]
    diversity: Figure
    memorization: Memorization | None
    copy_search: CopySearchResults | None = None


@dataclass(frozen=True)
class ArmMetrics(Result):
    """Metrics of one arm.

    Args:
        frechet_distance: fidelity, as in :class:`FidelityFigures`; smaller is better.
        kernel_distance: as in :class:`FidelityFigures`; smaller is better.
        precision: as in :class:`FidelityFigures`; larger is better.
        recall: as in :class:`FidelityFigures`; larger is better.
        density: as in :class:`FidelityFigures`; larger is better.
        coverage: as in :class:`FidelityFigures`; larger is better.
        label_fidelity: share of images for which a classifier predicts the requested label; ``None`` if it cannot be
            measured.
        attribute_fidelity: the same share for each attribute.
        diversity: mean diversity over combinations.
        memorization: how close images are to individual training images.
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
        """The means of all fidelity metrics over all combinations."""
        return MeanFidelity(**{field.name: getattr(self, field.name).mean for field in fields(MeanFidelity)})


@dataclass(frozen=True)
class PairedTest(Result):
    """Permutation test of paired figures: mean difference, p value, and number of pairs."""

    difference: Figure
    p_value: float | None
    n: int


@dataclass(frozen=True)
class ArmComparison(Result):
    """Comparison of the Fréchet distances of two arms, paired by combination.

    Args:
        arms: names of the first and the second arm.
        combinations: which combinations are compared: ``all``, those ``seen`` in training, or those ``unseen``.
        ratio_of_means: mean distance of the first arm divided by that of the second.
        log_ratio: test of the difference between the logarithms of the distances, first minus second.
    """

    arms: tuple[str, str]
    combinations: Literal["all", "seen", "unseen"]
    ratio_of_means: float | None
    log_ratio: PairedTest


@dataclass(frozen=True)
class ArmsMetrics(Result):
    """Metrics of all arms, by combination of label and attributes.

    Args:
        label: column of the class.
        attributes: columns that form a combination with the label.
        encoder: description of the feature encoder.
        settings: resolved settings of the evaluation.
        settings_that_differ: sampling settings that are not the same in all arms, by setting and arm.
        digests: digests of the cohort and of the images of each arm.
        real: metrics of real images.
        arms: metrics of each arm.
        comparisons: comparisons of each pair of arms.
        warnings: limitations of the conclusions.
        compression: Fréchet distances with and without JPEG compression; ``None`` if all combinations have too few
            images, and in results of earlier versions.
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
    compression: CompressionEffect | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a combination: label and attributes."""
        return (self.label, *self.attributes)

    @property
    def min_images(self) -> int:
        """Minimum number of images per set; combinations with fewer have no figures."""
        return int(self.settings["min_images"])

    @property
    def copying_arms(self) -> list[str]:
        """Arms that reproduce training images more often than held-out real images resemble them."""
        held_out = self.real.memorization
        return [arm for arm, of_arm in self.arms.items() if of_arm.memorization.reproduces_training_images(held_out)]

    @property
    def untrained_arms(self) -> list[str]:
        """Arms with a precision near 0, although that of real images of other patients is high enough."""
        floor = self.real.floor.precision.value
        if floor is None or floor < INFORMATIVE_PRECISION:
            return []
        precisions = {arm: of_arm.precision.mean.value for arm, of_arm in self.arms.items()}
        return [arm for arm, value in precisions.items() if value is not None and value < UNTRAINED_PRECISION]

    def comparison(self, first: str, second: str) -> ArmComparison:
        """Return the comparison of two arms over all combinations, in the stored order of the arms.

        Raises:
            KeyError: if they were not compared.
        """
        for row in self.comparisons:
            if row.combinations == "all" and set(row.arms) == {first, second}:
                return row
        raise KeyError((first, second))
