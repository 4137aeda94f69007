"""Validations during a tuning, as its record and the evaluation contain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medi_monai.results.typed import Result

__all__ = ["CurveRow", "TuningCurve", "ValidationDistance"]


@dataclass(frozen=True)
class ValidationDistance(Result):
    """Distance to the target after one update of the tuning, according to one classifier.

    Args:
        distance: total variation between the target and the predicted probabilities averaged over all images.
        proportions: these mean probabilities by subgroup.
        distance_of_prompts: mean distance over the prompts, or ``None``.
    """

    distance: float
    proportions: Mapping[str, float]
    distance_of_prompts: float | None = None


@dataclass(frozen=True)
class CurveRow(Result):
    """One update of the tuning, with the distance to the target according to each classifier."""

    step: int
    classifiers: Mapping[str, ValidationDistance]


@dataclass(frozen=True)
class TuningCurve(Result):
    """Distances to the target during the tuning, and the update whose weights were kept."""

    rows: tuple[CurveRow, ...]
    kept_step: int
