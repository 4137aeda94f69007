"""What the run ``evaluation`` writes into ``metrics.json``: of arms, or of an alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medi_monai.results.finding import Finding

__all__ = ["AlignmentMetrics", "AlignmentVerdict", "ArmMetrics", "ArmsMetrics", "RealMetrics"]

#: name to a figure as functions of ``metrics`` return it, or to a mapping that ends in such figures
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class RealMetrics:
    """Of real images: what the figures of arms have to be seen beside.

    Args:
        floor: by metric, of real images against real images of other patients.
        label_fidelity: how well a classifier predicts the label of real images of other patients, or None.
        attribute_fidelity: likewise by attribute.
        diversity: mean over combinations.
        memorization: of held-out images, or None without one.
    """

    floor: Figures
    label_fidelity: Figures | None
    attribute_fidelity: Mapping[str, Figures | None]
    diversity: Figures
    memorization: Figures | None


@dataclass(frozen=True)
class ArmMetrics:
    """Of one arm.

    Args:
        frechet_distance: ``mean``, ``seen``, ``unseen``, their floors, ``by_label``, ``by_combination`` and
            ``all_images``; the other distances and shares likewise, without the last.
        kernel_distance: see there.
        precision: see there.
        recall: see there.
        density: see there.
        coverage: see there.
        label_fidelity: the share of images in which a classifier predicts the label that was requested, or None.
        attribute_fidelity: likewise by attribute.
        diversity: mean over combinations.
        memorization: how near images come to single training images.
    """

    frechet_distance: Figures
    kernel_distance: Figures
    precision: Figures
    recall: Figures
    density: Figures
    coverage: Figures
    label_fidelity: Figures | None
    attribute_fidelity: Mapping[str, Figures | None]
    diversity: Figures
    memorization: Figures


@dataclass(frozen=True)
class ArmsMetrics:
    """Of arms, combination by combination of label and attributes.

    Args:
        label: column of the class.
        attributes: columns that make a combination with it.
        encoder: what features are of.
        settings: as resolved.
        settings_that_differ: of the sampling, by arm.
        digests: of the cohort and of the images of each arm.
        real: of real images.
        arms: by name.
        comparisons: of two arms each, paired by combination.
    """

    label: str
    attributes: Sequence[str]
    encoder: Mapping[str, Any]
    settings: Mapping[str, Any]
    settings_that_differ: Mapping[str, Any]
    digests: Mapping[str, str]
    real: RealMetrics
    arms: Mapping[str, ArmMetrics]
    comparisons: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AlignmentVerdict:
    """The answer for one arm.

    Args:
        answer: one of ``medi_monai.evaluation.verdicts.alignment.ANSWERS``.
        quality_lost: whether a measure of quality is worse than allowed.
        findings: that it rests on, the answer first.
    """

    answer: str
    quality_lost: bool
    findings: Sequence[Finding]


@dataclass(frozen=True)
class AlignmentMetrics:
    """Of an alignment, before and after, subgroup by subgroup.

    Args:
        part: the attribute, or the joint of several, that the verdict goes by.
        target: ``attributes``, ``target`` (shares of the subgroups) and ``parts`` (those of every attribute).
        judge: ``held_out`` (accuracies by attribute) and ``at_chance`` (attributes that it cannot tell).
        training: shares among real images in training.
        proportions: by arm, attribute and value, as the judge predicts.
        distance_to_target: by arm and attribute, also ``corrected`` for misclassification.
        change: of the total variation since ``before``.
        readers: the same of the other classifiers.
        by_prompt: the same by prompt, of the judge.
        notes: what had to be done for these figures.
        fidelity: by ``all`` and subgroup.
        diversity: by subgroup.
        memorization: by arm, and of ``held_out`` real images.
        consistency: by arm, of pairs of the same noise.
        clip_score: by arm.
        named_prompts: by attribute and arm, of prompts that name a value.
        curve: of the tuning, or None.
        costs: by arm.
        chosen: of arms whose images were chosen among others, how.
        settings_that_differ: of the sampling, by arm.
        encoder: what features are of.
        settings: as resolved.
        digests: of images and models.
        verdict: by arm, ``before`` left out.
        warnings: what limits the conclusions.
    """

    part: str
    target: Mapping[str, Any]
    judge: Mapping[str, Any]
    training: Figures
    proportions: Figures
    distance_to_target: Figures
    change: Figures
    readers: Figures
    by_prompt: Figures
    notes: Sequence[str]
    fidelity: Figures
    diversity: Figures
    memorization: Figures
    consistency: Figures
    clip_score: Figures
    named_prompts: Figures
    curve: Mapping[str, Any] | None
    costs: Mapping[str, Any]
    chosen: Mapping[str, Any]
    settings_that_differ: Mapping[str, Any]
    encoder: Mapping[str, Any]
    settings: Mapping[str, Any]
    digests: Mapping[str, str]
    verdict: Mapping[str, AlignmentVerdict]
    warnings: Sequence[Finding]
