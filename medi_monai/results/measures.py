"""What the evaluations of arms and of alignments have in common: fidelity, memorization, accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medi_monai.results.figure import Figure
from medi_monai.results.typed import Result

__all__ = ["ClassifierAccuracy", "FidelityFigures", "Memorization", "ProbeAccuracy"]


@dataclass(frozen=True)
class FidelityFigures(Result):
    """How close images come to real images.

    Args:
        frechet_distance: between features, at matched counts; smaller is better, as for ``kernel_distance``.
        kernel_distance: likewise, without bias by the number of images.
        precision: share of images that lie among real images; larger is better, as for all that follow.
        recall: share of real images that lie among these images.
        density: how many real images an image lies among, relative to the number of neighbors.
        coverage: share of real images with one of these images nearby.
    """

    frechet_distance: Figure
    kernel_distance: Figure
    precision: Figure
    recall: Figure
    density: Figure
    coverage: Figure


@dataclass(frozen=True)
class Memorization(Result):
    """How near images come to single training images.

    Args:
        distance: median to the nearest training image.
        copies: share of images that correlate with a training image by more than ``limit``.
        limit: 0.9, or what 99 % of held-out real images stay below.
        correlation: the highest; ``None`` where all images are of one color.
        nearer: how often an image is nearer to training than to validation images; ``None`` without validation images,
            and of held-out real images.
        ratio: of ``distance`` to that of held-out real images; ``None`` without any.
    """

    distance: float
    copies: Figure
    limit: float
    correlation: float | None
    nearer: Figure | None
    ratio: float | None

    def reproduces_training_images(self, held_out: Memorization | None) -> bool:
        """Whether images are copies more often than held-out real images are."""
        if held_out is None or self.copies.ci95 is None or held_out.copies.ci95 is None:
            return False
        return self.copies.ci95[0] > held_out.copies.ci95[1]


@dataclass(frozen=True, kw_only=True)
class ClassifierAccuracy(Result):
    """How accurate a classifier is for one attribute, on real images of patients that it was not trained on.

    Args:
        values: of the attribute.
        chance: 1 / number of values.
        n: images.
        num_patients: their patients.
        confusion: ``(G, G)`` counts, true by predicted value.
        balanced_accuracy: mean of the recalls.
        recall: by value.
        accuracy: share of images that are classified correctly.
        calibration_error: mean gap between confidence and accuracy.
        num_folds: of the cross-validation that it was measured by; ``None`` without one.
    """

    values: tuple[str, ...]
    chance: float
    n: int
    num_patients: int
    confusion: tuple[tuple[int, ...], ...]
    balanced_accuracy: Figure
    recall: Mapping[str, Figure]
    accuracy: Figure | None = None
    calibration_error: Figure | None = None
    num_folds: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeAccuracy(Figure):
    """How well a column can be predicted from features, on patients that the probe was not trained on.

    Args:
        value: balanced accuracy; ``None`` where it cannot be measured.
        ci95: none.
        n: images.
        chance: 1 / values predicted.
        num_values: values of the column that could be predicted.
    """

    chance: float | None
    num_values: int
