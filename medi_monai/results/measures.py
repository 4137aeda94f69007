"""Results shared by the evaluations of arms and of alignments: fidelity, memorization, accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medi_monai.results.figure import Figure
from medi_monai.results.typed import Result

__all__ = [
    "ClassifierAccuracy",
    "CompressionEffect",
    "CopySearchResults",
    "FidelityFigures",
    "Memorization",
    "ProbeAccuracy",
    "SeedResults",
]


@dataclass(frozen=True)
class FidelityFigures(Result):
    """Fidelity: how similar images are to real images; all figures compare their features at matched counts.

    Args:
        frechet_distance: Fréchet distance; smaller is better.
        kernel_distance: kernel distance, whose expected value does not depend on the number of images; smaller is
            better.
        precision: share of images that lie among real images; larger is better, as for the figures below.
        recall: share of real images that lie among these images.
        density: mean number of real images that an image lies among, divided by the number of neighbors.
        coverage: share of real images with at least one of these images nearby.
    """

    frechet_distance: Figure
    kernel_distance: Figure
    precision: Figure
    recall: Figure
    density: Figure
    coverage: Figure


@dataclass(frozen=True)
class Memorization(Result):
    """How close images are to individual training images.

    Args:
        distance: median distance, between features, from an image to its nearest training image.
        copies: share of images whose correlation with a training image is above ``limit``, at its best orientation and
            shift, and apart from stain; undefined if copies were not searched.
        limit: 0.9, or the correlation that 99 % of held-out real images stay below if that is higher.
        correlation: highest correlation with a training image; ``None`` if every image has a uniform color.
        nearer: share of images that are closer to training than to validation images; ``None`` without validation
            images, and for held-out real images.
        ratio: ``distance`` divided by that of held-out real images; ``None`` if there are none.
    """

    distance: float
    copies: Figure
    limit: float
    correlation: float | None
    nearer: Figure | None
    ratio: float | None

    def reproduces_training_images(self, held_out: Memorization | None) -> bool:
        """Return whether copies are more frequent than among held-out real images, by intervals without overlap."""
        if held_out is None or self.copies.ci95 is None or held_out.copies.ci95 is None:
            return False
        return self.copies.ci95[0] > held_out.copies.ci95[1]


@dataclass(frozen=True)
class SeedResults(Result):
    """Results of the single seeds of a tuning.

    Args:
        distance_to_target: total variation of the shares from the target, by seed.
        frechet_ratio: Fréchet distance divided by that before, by group and seed.
    """

    distance_to_target: tuple[float | None, ...]
    frechet_ratio: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class CopySearchResults(Result):
    """How reliable the search for copies of training images is.

    Args:
        limit: correlation with a training image above which an image counts as a copy.
        splits: splits of the held-out real images from which the limit is derived; empty if there are none.
        recall: share of copies of training images, planted on purpose, that the search finds, by how they were
            changed: ``unchanged``, ``turned``, ``restained``, ``shifted``, ``compressed``, ``noisy``, ``combined``.
    """

    limit: float
    splits: tuple[str, ...]
    recall: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class ClassifierAccuracy(Result):
    """Accuracy of a classifier for one attribute, on real images of patients that it was not trained on.

    Args:
        values: values of the attribute.
        chance: accuracy expected by chance, 1 / number of values.
        n: number of images.
        num_patients: number of patients.
        confusion: ``(G, G)`` counts, true by predicted value.
        balanced_accuracy: mean of the recalls.
        recall: recall of each value.
        accuracy: share of images that are classified correctly.
        calibration_error: expected calibration error, the mean gap between confidence and accuracy.
        num_folds: number of folds of the cross-validation; ``None`` if there was none.
        design_effect: variance of the error rates over patients, relative to that over independent images; ``None`` if
            it was not measured.
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
    design_effect: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeAccuracy(Figure):
    """Accuracy with which a linear probe predicts a column from features, on patients it was not trained on.

    Args:
        value: balanced accuracy; ``None`` if it cannot be measured.
        ci95: interval over test patients; ``None`` if it was not asked for.
        n: number of images.
        chance: balanced accuracy expected by chance, 1 / ``num_values``; ``None`` if ``value`` is.
        num_values: number of values of the column that could be predicted.
    """

    chance: float | None
    num_values: int


@dataclass(frozen=True)
class CompressionEffect(Result):
    """Mean Fréchet distances with and without JPEG compression of all images, of the same images.

    Args:
        quality: JPEG quality.
        num_combinations: number of combinations.
        n: total number of matched images.
        plain: distance of ``floor`` and of each arm without compression.
        compressed: the same after compression.
    """

    quality: int
    num_combinations: int
    n: int
    plain: Mapping[str, float]
    compressed: Mapping[str, float]
