"""Results of the run ``evaluation`` for an alignment: the content of its ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.measures import (
    ClassifierAccuracy,
    CopySearchResults,
    FidelityFigures,
    Memorization,
    SeedResults,
)
from medi_monai.results.tuning import CurveRow, TuningCurve, ValidationDistance
from medi_monai.results.typed import Result

__all__ = [
    "AlignmentMetrics",
    "AlignmentVerdict",
    "Answer",
    "ArmCost",
    "ArmFidelity",
    "Consistency",
    "CorrectedShares",
    "CurveRow",
    "Distances",
    "DistanceToTarget",
    "DiversityFigure",
    "GroupFidelity",
    "JudgeAccuracies",
    "OtherClassifier",
    "PredictedShares",
    "PromptAdherence",
    "PromptMean",
    "PromptRow",
    "PromptShares",
    "ResultsByPrompt",
    "Selection",
    "SubgroupDiversity",
    "TargetShares",
    "TuningCurve",
    "ValidationDistance",
]


@dataclass(frozen=True)
class TargetShares(Result):
    """Target shares.

    Args:
        attributes: aligned attributes.
        target: target share of each subgroup.
        parts: target shares by value, for each attribute and, with several attributes, for their joint distribution.
    """

    attributes: tuple[str, ...]
    target: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class JudgeAccuracies(Result):
    """Accuracies of the judge by attribute, and the attributes that it classifies at chance level."""

    held_out: Mapping[str, ClassifierAccuracy]
    at_chance: tuple[str, ...]


@dataclass(frozen=True)
class Distances(Result):
    """Distances from shares to the target: total variation and Kullback-Leibler divergence."""

    total_variation: Figure
    kl: Figure


@dataclass(frozen=True, kw_only=True)
class CorrectedShares(Distances):
    """Shares corrected for misclassification, and their distances to the target.

    Args:
        proportions: corrected share of each value.
        undefined: reason why the shares are undefined, or ``None``.
        inside: whether the correction gave no negative share; ``None`` if it is undefined.
        n: number of images.
        confusion_n: number of images of each true value from which the error rates were estimated.
    """

    proportions: Mapping[str, Figure]
    undefined: str | None
    inside: bool | None = None
    n: int | None = None
    confusion_n: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistanceToTarget(Distances):
    """Distances from predicted shares to the target and, for the judge only, those of the corrected shares."""

    corrected: CorrectedShares | None = None

    @property
    def correction(self) -> CorrectedShares | None:
        """The corrected shares; ``None`` if they are undefined."""
        return self.corrected if self.corrected and self.corrected.undefined is None else None


@dataclass(frozen=True)
class PredictedShares(Result):
    """Shares of subgroups, as predicted by one classifier.

    Args:
        proportions: shares by arm, attribute and value.
        distance_to_target: distances to the target by arm and attribute.
        change: change of the total variation since ``before``, by arm and attribute.
    """

    proportions: Mapping[str, Mapping[str, Mapping[str, Figure]]]
    distance_to_target: Mapping[str, Mapping[str, DistanceToTarget]]
    change: Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True)
class OtherClassifier(PredictedShares):
    """Predictions of a classifier other than the judge, and its accuracies by attribute if they are known."""

    held_out: Mapping[str, ClassifierAccuracy]


@dataclass(frozen=True, kw_only=True)
class PromptShares(Distances):
    """Predicted shares among the ``n`` images of one prompt in one arm; ``few`` if these are too few to interpret."""

    n: int
    few: bool
    proportions: Mapping[str, Figure]


@dataclass(frozen=True)
class PromptRow(Result):
    """One prompt, with its shares by arm."""

    prompt: str
    arms: Mapping[str, PromptShares]


@dataclass(frozen=True, kw_only=True)
class PromptMean(Figure):
    """Mean total variation over prompts; ``by_chance`` is its expected value for as many draws from the target."""

    by_chance: float | None


@dataclass(frozen=True)
class ResultsByPrompt(Result):
    """Shares of an attribute by prompt.

    Args:
        prompts: prompts with their shares.
        mean: mean distance of each arm over the prompts with enough images.
        least_images: minimum number of images of a prompt to be included in the mean.
    """

    prompts: tuple[PromptRow, ...]
    mean: Mapping[str, PromptMean]
    least_images: int


@dataclass(frozen=True, kw_only=True)
class ArmFidelity(FidelityFigures):
    """Fidelity of an arm; ``ratio`` is its Fréchet distance divided by that of ``before``."""

    ratio: Figure


@dataclass(frozen=True)
class GroupFidelity(Result):
    """Fidelity of all images, or of the images of one subgroup.

    Args:
        matched: number of images compared from each set; 0 if there are too few.
        counts: number of images in each arm and in ``reference``, the real images.
        one_patient: whether all real images are from one patient.
        floor: real images compared with real images of other patients.
        arms: fidelity of each arm.
    """

    matched: int
    counts: Mapping[str, int]
    one_patient: bool
    floor: FidelityFigures
    arms: Mapping[str, ArmFidelity]


@dataclass(frozen=True, kw_only=True)
class DiversityFigure(Figure):
    """Mean difference between two images, and its ratio to that of ``before``."""

    ratio: Figure


@dataclass(frozen=True)
class SubgroupDiversity(Result):
    """Diversity within a subgroup: of structure (1 - MS-SSIM) and of features."""

    ms_ssim: DiversityFigure
    features: DiversityFigure


@dataclass(frozen=True)
class Consistency(Result):
    """Cosine similarity of images drawn from the same noise before and after tuning, of standardized features.

    Args:
        num_stayed: number of pairs that kept their predicted subgroup.
        num_changed: number of pairs that changed it.
        score_change: CLIP score after minus CLIP score before.
        all: mean similarity of all pairs.
        stayed: mean similarity of the pairs that kept their subgroup.
        changed: mean similarity of the pairs that changed it.
        unrelated: mean similarity of images from different noise, for comparison.
    """

    num_stayed: int
    num_changed: int
    score_change: Figure
    all: Figure
    stayed: Figure
    changed: Figure
    unrelated: Figure

    @property
    def num_pairs(self) -> int:
        """Number of pairs of images from the same noise."""
        return self.num_stayed + self.num_changed


@dataclass(frozen=True)
class PromptAdherence(Result):
    """How often images show the attribute value that their prompt names.

    Args:
        share: share of images that are predicted as requested.
        by_value: the same share for each requested value.
        left_out: number of images whose prompt names no value.
        ratio: ratio of the share to that of ``before``, over pairs from the same noise.
    """

    share: Figure
    by_value: Mapping[str, Figure]
    left_out: int
    ratio: Figure


@dataclass(frozen=True)
class ArmCost(Result):
    """Computational cost of an arm.

    Args:
        stages: duration of each stage in seconds; ``None`` if it is unknown.
        gradient_images: number of forward and backward passes of an image through the network.
        gradient_images_allowed: this number if tuning had not stopped early.
        left_out: reason why the arm has no images, or ``None``.
    """

    stages: Mapping[str, float | None]
    gradient_images: int | None = None
    gradient_images_allowed: int | None = None
    left_out: str | None = None

    @property
    def seconds(self) -> float | None:
        """Total duration of the stages with a known duration; ``None`` if there are none."""
        known = [seconds for seconds in self.stages.values() if seconds is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Selection(Result):
    """Number of selected images (``images``), and of candidates (``of``)."""

    images: int
    of: int


#: answers of a verdict; see :func:`medi_monai.evaluation.verdicts.alignment.alignment_verdict`
Answer: TypeAlias = Literal[
    "met", "missed", "no effect", "fooled the guide", "quality lost", "quality not shown", "undecided"
]


@dataclass(frozen=True)
class AlignmentVerdict(Result):
    """Verdict on one arm.

    Args:
        answer: one of :data:`Answer`.
        quality_lost: whether a measure of quality is significantly worse than allowed.
        findings: findings on which the verdict is based; the first states the answer.
    """

    answer: Answer
    quality_lost: bool
    findings: Annotated[tuple[Finding, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class AlignmentMetrics(PredictedShares):
    """Metrics of an alignment by arm and subgroup; the inherited shares are predicted by the judge.

    Args:
        part: attribute, or joint distribution of several, on which the verdict is based.
        target: target shares.
        judge: accuracies of the judge.
        training: shares among the real training images, by attribute and value.
        readers: predictions of the other classifiers, by name. Files have this key, elsewhere called classifiers.
        by_prompt: shares within prompts, by attribute.
        notes: remarks on how these figures were obtained.
        fidelity: fidelity of ``all`` images and of each subgroup.
        diversity: diversity by subgroup and arm, including ``reference``, the real images.
        memorization: memorization by arm, and of ``held_out`` real images for comparison.
        copy_search: how reliable the search for copies is; ``None`` in files of earlier versions.
        consistency: similarity to ``before``, by arm.
        clip_score: mean CLIP score by arm.
        named_prompts: adherence to prompts that name a value, by attribute and arm.
        curve: validations during the tuning, or ``None``.
        costs: computational cost by arm.
        chosen: arms whose images were selected from candidates, with the numbers of both.
        settings_that_differ: sampling settings that are not the same in all arms, by setting and arm.
        encoder: description of the encoder of distances, diversity and consistency.
        regularizer: description of the encoder of the consistency loss; ``None`` if there is none or it is unknown.
        settings: resolved settings of the evaluation.
        digests: digests of images and models.
        seeds: single seeds of the arms with several, whose figures are means over them.
        verdict: verdict on every arm except ``before``.
        warnings: limitations of the conclusions.
        demo: whether the real images are those of a demo cohort.
    """

    part: str
    target: TargetShares
    judge: JudgeAccuracies
    training: Mapping[str, Mapping[str, Figure]]
    readers: Mapping[str, OtherClassifier]
    by_prompt: Mapping[str, ResultsByPrompt]
    notes: tuple[str, ...]
    fidelity: Mapping[str, GroupFidelity]
    diversity: Mapping[str, Mapping[str, SubgroupDiversity]]
    memorization: Mapping[str, Memorization]
    consistency: Mapping[str, Consistency]
    clip_score: Mapping[str, Figure]
    named_prompts: Mapping[str, Mapping[str, PromptAdherence]]
    curve: TuningCurve | None
    costs: Mapping[str, ArmCost]
    chosen: Mapping[str, Selection]
    settings_that_differ: Mapping[str, Mapping[str, Any]]
    encoder: Mapping[str, Any]
    settings: Mapping[str, Any]
    digests: Mapping[str, str]
    verdict: Mapping[str, AlignmentVerdict]
    warnings: tuple[Finding, ...]
    copy_search: CopySearchResults | None = None
    regularizer: Mapping[str, Any] | None = None
    seeds: Mapping[str, SeedResults] = field(default_factory=dict)
    demo: bool = False

    @property
    def tolerance(self) -> float:
        """Largest total variation at which the target counts as met."""
        return float(self.settings["tolerance"])
