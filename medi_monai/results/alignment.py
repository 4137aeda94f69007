"""What the run ``evaluation`` of an alignment writes into ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.measures import ClassifierAccuracy, FidelityFigures, Memorization
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
    """The target.

    Args:
        attributes: that were aligned.
        target: share by subgroup.
        parts: shares of every attribute, and of the joint of several, by value.
    """

    attributes: tuple[str, ...]
    target: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class JudgeAccuracies(Result):
    """The judge: its accuracies by attribute, and the attributes that it classifies at chance level."""

    held_out: Mapping[str, ClassifierAccuracy]
    at_chance: tuple[str, ...]


@dataclass(frozen=True)
class Distances(Result):
    """Distances of shares to the target: total variation and Kullback-Leibler divergence."""

    total_variation: Figure
    kl: Figure


@dataclass(frozen=True, kw_only=True)
class CorrectedShares(Distances):
    """Shares corrected for misclassification, and their distances to the target.

    Args:
        proportions: by value.
        undefined: why they are undefined, or ``None``.
        inside: whether the correction needed no bounds; ``None`` where it is undefined.
        n: images.
        confusion_n: images by true value that the error rates are of.
    """

    proportions: Mapping[str, Figure]
    undefined: str | None
    inside: bool | None = None
    n: int | None = None
    confusion_n: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistanceToTarget(Distances):
    """Distances of predicted shares to the target, and, of the judge, those of the corrected shares."""

    corrected: CorrectedShares | None = None

    @property
    def correction(self) -> CorrectedShares | None:
        """The corrected shares, where they are defined."""
        return self.corrected if self.corrected and self.corrected.undefined is None else None


@dataclass(frozen=True)
class PredictedShares(Result):
    """Shares of subgroups as a classifier predicts them.

    Args:
        proportions: by arm, attribute and value.
        distance_to_target: by arm and attribute.
        change: of the total variation since ``before``, by arm and attribute.
    """

    proportions: Mapping[str, Mapping[str, Mapping[str, Figure]]]
    distance_to_target: Mapping[str, Mapping[str, DistanceToTarget]]
    change: Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True)
class OtherClassifier(PredictedShares):
    """A classifier other than the judge: what it predicts, and its accuracies by attribute where they are known."""

    held_out: Mapping[str, ClassifierAccuracy]


@dataclass(frozen=True, kw_only=True)
class PromptShares(Distances):
    """Predicted shares among the images of one prompt in one arm; ``few`` where there are too few images."""

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
    """Mean total variation over prompts; ``by_chance`` is that of equally many draws from the target."""

    by_chance: float | None


@dataclass(frozen=True)
class ResultsByPrompt(Result):
    """Shares of an attribute by prompt.

    Args:
        prompts: each with its shares.
        mean: by arm, over the prompts with enough images.
        least_images: that are enough.
    """

    prompts: tuple[PromptRow, ...]
    mean: Mapping[str, PromptMean]
    least_images: int


@dataclass(frozen=True, kw_only=True)
class ArmFidelity(FidelityFigures):
    """Fidelity of an arm; ``ratio`` is that of its Fréchet distance to that of ``before``."""

    ratio: Figure


@dataclass(frozen=True)
class GroupFidelity(Result):
    """Fidelity of all images, or of those of a subgroup.

    Args:
        matched: images of each set that are compared; 0 where there are too few.
        counts: images by arm, and of ``reference``.
        one_patient: whether all real images are of one patient.
        floor: real images against real images of other patients.
        arms: by name.
    """

    matched: int
    counts: Mapping[str, int]
    one_patient: bool
    floor: FidelityFigures
    arms: Mapping[str, ArmFidelity]


@dataclass(frozen=True, kw_only=True)
class DiversityFigure(Figure):
    """Mean difference between two images, with its ratio to that of ``before``."""

    ratio: Figure


@dataclass(frozen=True)
class SubgroupDiversity(Result):
    """Diversity within a subgroup: by structure (1 - MS-SSIM), and by features."""

    ms_ssim: DiversityFigure
    features: DiversityFigure


@dataclass(frozen=True)
class Consistency(Result):
    """Cosine similarity of images from the same noise before and after.

    Args:
        num_stayed: pairs that kept their predicted subgroup.
        num_changed: pairs that did not.
        score_change: CLIP score less that before.
        all: similarity of all pairs.
        stayed: of those that kept their subgroup.
        changed: of the others.
        unrelated: of images from different noise.
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
        """Pairs of images from the same noise."""
        return self.num_stayed + self.num_changed


@dataclass(frozen=True)
class PromptAdherence(Result):
    """Whether prompts that name a value get it.

    Args:
        share: of images that are predicted as requested.
        by_value: likewise by requested value.
        left_out: images whose prompt names no value.
        ratio: to ``before``, of pairs from the same noise.
    """

    share: Figure
    by_value: Mapping[str, Figure]
    left_out: int
    ratio: Figure


@dataclass(frozen=True)
class ValidationDistance(Result):
    """Distance to the target at one update of the tuning, as one classifier predicts.

    Args:
        distance: of the mean predicted probabilities of all images.
        proportions: these probabilities by subgroup.
        distance_of_prompts: mean over single prompts, or ``None``.
    """

    distance: float
    proportions: Mapping[str, float]
    distance_of_prompts: float | None = None


@dataclass(frozen=True)
class CurveRow(Result):
    """One update of the tuning, and the distances to the target by classifier."""

    step: int
    classifiers: Mapping[str, ValidationDistance]


@dataclass(frozen=True)
class TuningCurve(Result):
    """Distances to the target during the tuning, and the update whose weights were kept."""

    rows: tuple[CurveRow, ...]
    kept_step: int


@dataclass(frozen=True)
class ArmCost(Result):
    """What an arm cost.

    Args:
        stages: seconds by name; ``None`` where they are unknown.
        gradient_images: images that went through the network forward and backward.
        gradient_images_allowed: as many as there could have been.
        left_out: why the arm has no images.
    """

    stages: Mapping[str, float | None]
    gradient_images: int | None = None
    gradient_images_allowed: int | None = None
    left_out: str | None = None

    @property
    def seconds(self) -> float | None:
        """Of all stages whose time is known; ``None`` without any."""
        known = [seconds for seconds in self.stages.values() if seconds is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Selection(Result):
    """How many images were chosen, and of how many."""

    images: int
    of: int


#: answers of a verdict
Answer: TypeAlias = Literal["met", "missed", "no effect", "fooled the guide", "quality lost", "undecided"]


@dataclass(frozen=True)
class AlignmentVerdict(Result):
    """The answer for one arm.

    Args:
        answer: see :data:`Answer`.
        quality_lost: whether a measure of quality is worse than allowed.
        findings: that it rests on, the answer first.
    """

    answer: Answer
    quality_lost: bool
    findings: Annotated[tuple[Finding, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class AlignmentMetrics(PredictedShares):
    """Of an alignment, before and after, subgroup by subgroup; shares are those that the judge predicts.

    Args:
        part: the attribute, or the joint of several, that the verdict goes by.
        target: shares wanted.
        judge: its accuracies.
        training: shares among real images in training, by attribute and value.
        readers: the other classifiers.
        by_prompt: shares by prompt, by attribute.
        notes: what had to be done for these figures.
        fidelity: by ``all`` and subgroup.
        diversity: by subgroup and arm, and of ``reference``.
        memorization: by arm, and of ``held_out`` real images.
        consistency: by arm.
        clip_score: by arm.
        named_prompts: by attribute and arm, of prompts that name a value.
        curve: of the tuning, or ``None``.
        costs: by arm.
        chosen: of arms whose images were chosen among others.
        settings_that_differ: of the sampling, by setting and arm.
        encoder: what features are of.
        settings: as resolved.
        digests: of images and models.
        verdict: by arm, ``before`` left out.
        warnings: what limits the conclusions.
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

    @property
    def tolerance(self) -> float:
        """A total variation up to it is within the target."""
        return float(self.settings["tolerance"])
