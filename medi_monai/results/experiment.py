"""Results of the metadata experiment: the content of ``experiment.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.results.typed import Result

__all__ = [
    "ENOUGH_TRAININGS",
    "Agreement",
    "CohortSummary",
    "CombinationCounts",
    "EncoderComparison",
    "EncoderDifference",
    "ExperimentResults",
    "SecondEncoderResults",
    "SplitCounts",
    "TrainedArm",
    "TrainingSummary",
]

#: number of trainings of an arm from which differences between trainings are estimated
ENOUGH_TRAININGS = 3
Agreement: TypeAlias = Literal["same", "significance", "direction", "opposite", "neither", "undefined"]


@dataclass(frozen=True)
class SplitCounts(Result):
    """Numbers of patches, slides and patients in a split."""

    patches: int
    slides: int
    patients: int


@dataclass(frozen=True)
class CombinationCounts(Result):
    """Numbers of combinations of label and attributes that occur in training, and that do not."""

    seen: int
    unseen: int


@dataclass(frozen=True)
class CohortSummary(Result):
    """The cohort of an experiment.

    Args:
        label: column of the class.
        attributes: metadata columns that the generator is conditioned on.
        dir: folder of the cohort, relative to that of the experiment.
        counts: counts by split.
        combinations: numbers of combinations of label and attributes.
        demo: whether it is a demo cohort, with drawn images.
    """

    label: str
    attributes: tuple[str, ...]
    dir: str
    counts: Mapping[str, SplitCounts]
    combinations: CombinationCounts
    demo: bool = False


@dataclass(frozen=True)
class TrainedArm(Result):
    """Figures of one training of an arm: means over draws, and over combinations."""

    balanced_accuracy: float | None
    frechet_distance: float | None
    frechet_distance_unseen: float | None
    label_fidelity: float | None
    attribute_fidelity: Mapping[str, float | None]


@dataclass(frozen=True)
class TrainingSummary(Result):
    """One training of each arm.

    Args:
        seed: its seed.
        arms: figures of each arm.
        evaluation: path of the page of its evaluation, relative to the folder of the experiment.
    """

    seed: int
    arms: Mapping[str, TrainedArm]
    evaluation: str


@dataclass(frozen=True)
class EncoderDifference(Result):
    """A difference between two arms by one encoder.

    Args:
        difference: first arm minus second; of the Fréchet distance, the difference between the logarithms.
        p_value: its p value, corrected for the number of arms compared (balanced accuracy).
        effect: ``better``, ``worse``, ``equivalent`` (certain to be within the margin) or ``uncertain``; of the first
            arm, whether larger or smaller values are better.
    """

    difference: Figure
    p_value: float | None
    effect: Literal["better", "worse", "equivalent", "uncertain"]


@dataclass(frozen=True)
class EncoderComparison(Result):
    """A difference between two arms by both encoders.

    Args:
        figure: ``balanced_accuracy`` or ``frechet_distance``.
        arms: names of the first and the second arm.
        first: the difference by the first encoder.
        second: the difference by the second encoder.
        agreement: ``same`` direction and significance; ``significance``: same direction, significant by one encoder
            only; in opposite directions, ``opposite`` if both are significant, ``direction`` if one is, ``neither`` if
            none is; ``undefined`` if a difference is.
    """

    figure: Literal["balanced_accuracy", "frechet_distance"]
    arms: tuple[str, str]
    first: EncoderDifference
    second: EncoderDifference
    agreement: Agreement


@dataclass(frozen=True)
class SecondEncoderResults(Result):
    """Results with the second encoder, and their agreement with those of the first one.

    Args:
        name: name of the encoder.
        fidelity: results of the evaluation of the first training, without figures of pixels.
        probe: results of the probing, over all trainings.
        frechet_distances: mean Fréchet distance of each arm in each training.
        comparisons: the differences that the verdict rests on, by both encoders.
        links: paths of the stages' pages by title, relative to the folder of the experiment.
    """

    name: str
    fidelity: ArmsMetrics
    probe: ProbeResults
    frechet_distances: Mapping[str, tuple[float | None, ...]]
    comparisons: tuple[EncoderComparison, ...]
    links: Mapping[str, str]


@dataclass(frozen=True)
class ExperimentResults(Result):
    """The content of ``experiment.json``.

    Args:
        question: question that the experiment asks.
        cohort: cohort of the experiment.
        verdict: findings; the first is the answer.
        fidelity: results of the evaluation of the first training.
        probe: results of the probing, over all trainings.
        trainings: figures of each training.
        links: paths of the stages' pages, relative to the folder of the experiment.
        settings: resolved settings.
        seconds: duration of each stage; ``None`` if it is unknown.
        second: results with the second encoder; ``None`` if there is none, and in files of earlier versions.
    """

    question: str
    cohort: CohortSummary
    verdict: Annotated[tuple[Finding, ...], Field(min_length=1)]
    fidelity: ArmsMetrics
    probe: ProbeResults
    trainings: Annotated[tuple[TrainingSummary, ...], Field(min_length=1)]
    links: Mapping[str, str]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float | None]
    second: SecondEncoderResults | None = None
