"""Shortcut diagnostics: what features show of class and center, and what their correlation does to classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from medi_monai.results.figure import Figure
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.results.typed import Result

__all__ = [
    "ClusteringScore",
    "CorrelationArm",
    "CorrelationPoint",
    "CorrelationSweep",
    "RobustnessIndex",
    "Shortcut",
]


@dataclass(frozen=True)
class CorrelationPoint(Result):
    """Mean balanced accuracy over ``n`` draws of each training, at one level of the correlation of class and center."""

    level: float
    value: float | None
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class CorrelationArm(Result):
    """Curve of an arm, and what it loses, on new patients of the training centers and at other centers.

    Intervals are over test patients, training patients, generated images and trainings.

    Args:
        curve: accuracy on new patients of the training centers.
        average_performance_drop: PathoROB's: 0 is no drop, −0.2 a loss of one fifth of the accuracy.
        nipd: croma's normalized integrated performance degradation: 0 is no loss, −0.5 a steady fall to chance.
        outside_drop: average performance drop at other centers, PathoROB's out-of-domain one.
        outside_nipd: nIPD at other centers.
        num_trainings: number of trainings of the arm's generative model over which all of these are means; 1 for an arm
            without one.
    """

    curve: tuple[CorrelationPoint, ...]
    average_performance_drop: Figure
    nipd: Figure = Figure(None)
    outside_drop: Figure = Figure(None)
    outside_nipd: Figure = Figure(None)
    num_trainings: int = 1


@dataclass(frozen=True)
class CorrelationSweep(Result):
    """Accuracy as center and class become correlated.

    Args:
        levels: levels of the correlation, 0 to 1.
        arms: curve of each arm; empty if no two classes share two centers.
        num_squares: number of squares, pairs of classes at pairs of centers.
        num_test: number of test images at the centers in training, in all squares.
        num_test_known: number of test images, here and at other centers, from patients that the generative model was
            trained on.
        num_outside: number of test images at other centers, in all squares.
        left_out: arms whose generative model was, or may have been, trained on images that the sweep withholds.
    """

    levels: tuple[float, ...] = ()
    arms: Mapping[str, CorrelationArm] = field(default_factory=dict)
    num_squares: int = 0
    num_test: int = 0
    num_test_known: int = 0
    num_outside: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class RobustnessIndex(Result):
    """PathoROB's robustness index: 1 if features reflect only the class, 0 if they reflect only the center.

    Args:
        value: the index; ``None`` if no two classes share two centers.
        k: number of nearest neighbors.
        num_pairs: number of balanced pairs of two classes and two centers.
        n: number of images in these pairs.
        balanced_accuracy: accuracy with which these neighbors predict the class, mean over pairs.
        ci95: interval over patients, who are resampled within class and center; ``k``, the pairs and the neighbors of
            each image are those of the data. ``None`` if it was not measured.
    """

    value: float | None
    k: int | None
    num_pairs: int
    n: int
    balanced_accuracy: float | None = None
    ci95: tuple[float, float] | None = None

    @property
    def figure(self) -> Figure:
        """The index with its interval and number of images."""
        return Figure(self.value, self.ci95, self.n)


@dataclass(frozen=True)
class ClusteringScore(Result):
    """PathoROB's clustering score: 1 if clusters of features are the classes, −1 if they are the centers.

    Args:
        value: ``label_agreement`` − ``center_agreement``; ``None`` if no two classes share two centers.
        label_agreement: mean adjusted Rand index of clusters and classes.
        center_agreement: mean adjusted Rand index of clusters and centers.
        num_clusters: median number of clusters.
        num_pairs: number of balanced pairs of two classes and two centers.
        n: number of images in these pairs.
        num_repeats: number of clusterings of a pair.
        ci95: interval over patients, random halves of whom are clustered again; the pairs and their numbers of clusters
            are those of the data. ``None`` if it was not measured.
    """

    value: float | None
    label_agreement: float | None = None
    center_agreement: float | None = None
    num_clusters: float | None = None
    num_pairs: int = 0
    n: int = 0
    num_repeats: int = 0
    ci95: tuple[float, float] | None = None

    @property
    def figure(self) -> Figure:
        """The score with its interval and number of images."""
        return Figure(self.value, self.ci95, self.n)


@dataclass(frozen=True)
class Shortcut(Result):
    """Shortcut diagnostics: class and center information in features, and the effect of their correlation on arms."""

    label_probe_accuracy: ProbeAccuracy
    center_probe_accuracy: ProbeAccuracy
    robustness_index: RobustnessIndex
    correlation: CorrelationSweep
    clustering_score: ClusteringScore = ClusteringScore(None)
