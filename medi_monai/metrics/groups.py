"""Classifier performance overall and in the worst group, and gaps between groups.

Counts are confusion matrices ``(…, C, C)``, target by predicted class. Undefined figures are NaN, with their count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from medi_monai.utils.errors import InputError

__all__ = [
    "Counts",
    "GroupConfusion",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "calibration_error",
    "equal_opportunity_gap",
    "equalized_odds_gap",
    "matthews_correlation",
    "worst_group_accuracy",
]

Counts = np.ndarray | torch.Tensor

#: largest number below 1 in single precision, to which confidences are limited, because torchmetrics puts a confidence
#: of 1 into an extra bin
BELOW_ONE = 1 - 2.0**-24


class GroupConfusion(Metric):
    """Confusion matrices by group, accumulated over batches and processes.

    Args:
        num_groups: number of groups G.
        num_classes: number of classes C.
        kwargs: arguments of ``torchmetrics.Metric``.
    """

    full_state_update = False
    confusion: torch.Tensor

    def __init__(self, num_groups: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if min(num_groups, num_classes) < 1:
            raise InputError(
                f"{num_groups} groups and {num_classes} classes cannot be counted: give at least one of each"
            )
        self.sizes = {"group": num_groups, "target": num_classes, "predicted class": num_classes}
        shape = num_groups, num_classes, num_classes
        self.add_state("confusion", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> None:
        """Add ``(N,)`` codes of predicted classes, targets and groups.

        Raises:
            InputError: for codes out of range (remove rows of unknown group beforehand, or give them their own group),
                or columns of unequal length.
        """
        if not predicted.shape == targets.shape == groups.shape or predicted.ndim != 1:
            shapes = [tuple(codes.shape) for codes in (predicted, targets, groups)]
            raise InputError(f"predicted classes, targets and groups must have the same length, not {shapes}")
        cells = torch.zeros_like(groups, dtype=torch.int64)
        for (kind, size), codes in zip(self.sizes.items(), (groups, targets, predicted)):
            if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < size:
                extremes = f"{int(codes.min())} to {int(codes.max())}"
                raise InputError(f"codes of the {kind} must be 0 to {size - 1}, not {extremes}")
            cells = cells * size + codes.to(torch.int64)
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> torch.Tensor:
        """Return ``(G, C, C)`` int64 counts: group, target, predicted class."""
        return self.confusion


def balanced_accuracy(confusion: Counts) -> np.ndarray:
    """Return the ``(…)`` mean recall over classes with targets (scikit-learn's definition); NaN if there are none."""
    return _mean_of_known(_recall(_counts(confusion)))


def accuracy(confusion: Counts) -> np.ndarray:
    """Return the ``(…)`` share of correct predictions; NaN without targets."""
    counts = _counts(confusion)
    return _ratio(_diagonal(counts).sum(-1), counts.sum((-2, -1)))


def matthews_correlation(confusion: Counts) -> np.ndarray:
    """Return ``(…)`` multi-class Matthews correlation coefficients (Gorodkin 2004), in [-1, 1].

    NaN if all targets or all predictions belong to one class, for which scikit-learn returns 0.
    """
    counts = _counts(confusion)
    targets, predicted, total = counts.sum(-1), counts.sum(-2), counts.sum((-2, -1))
    covariance = _diagonal(counts).sum(-1) * total - (targets * predicted).sum(-1)
    spreads = [total**2 - (margin**2).sum(-1) for margin in (targets, predicted)]
    return _ratio(covariance, np.sqrt(spreads[0]) * np.sqrt(spreads[1]))


def worst_group_accuracy(counts: Counts, names: Sequence, min_count: int = 1) -> dict:
    """Return the lowest accuracy among groups of at least ``min_count`` members; the first group in case of ties.

    Args:
        counts: confusion matrices ``(G, C, C)``, or ``(G, 2)`` numbers of correct and of all members of each group.
        names: names of the G groups.
        min_count: minimum number of members of a group, at least 1.

    Returns:
        ``value`` (NaN if no group is large enough), ``group`` (its name, or ``None``) and ``n`` (its members),
        ``num_groups`` compared, ``num_too_small`` (non-empty groups with fewer members) and ``num_empty``.

    Raises:
        InputError: for counts of the wrong shape, or a number of names other than the number of groups.
    """
    array = _counts(counts, ndim=3) if np.ndim(counts) == 3 else _array(counts)
    if array.ndim == 3:
        array = np.stack([_diagonal(array).sum(-1), array.sum((-2, -1))], axis=-1)
    if array.ndim != 2 or array.shape[1] != 2 or len(names) != len(array) or (array[:, 0] > array[:, 1]).any():
        raise InputError(
            f"counts of shape {np.shape(counts)} with {len(names)} names are neither confusion matrices (groups, "
            "classes, classes) nor numbers of correct and all members (groups, 2), with a name per group"
        )
    right, members = array.T
    large = members >= _at_least_one(min_count)
    worst = int(np.argmin(np.where(large, _ratio(right, members), np.inf))) if large.any() else None
    return {
        "value": float("nan") if worst is None else float(right[worst] / members[worst]),
        "group": None if worst is None else names[worst],
        "n": 0 if worst is None else int(members[worst]),
        "num_groups": int(large.sum()),
        "num_too_small": int(((members > 0) & ~large).sum()),
        "num_empty": int((members == 0).sum()),
    }


def equal_opportunity_gap(confusions: Counts, min_count: int = 1) -> dict:
    """Return the equal opportunity gap: the largest difference in recall between groups, over classes.

    Source: Hardt, Price & Srebro 2016.

    Args:
        confusions: ``(G, C, C)`` confusion matrices by group.
        min_count: number of targets of a class below which a group is left out for that class.

    Returns:
        ``value`` (NaN if no class has two groups), ``class`` (its code, or ``None``), ``num_classes`` with at least two
        groups, and lists by class: ``by_class`` (NaN for fewer than two groups), ``num_groups`` and ``n`` targets
        compared.
    """
    counts = _counts(confusions, ndim=3)
    return _largest_gap(_diagonal(counts), counts.sum(-1), min_count)


def equalized_odds_gap(confusions: Counts, min_count: int = 1) -> dict:
    """Return the equalized odds gap: the larger of the gaps in recall and in false positive rate.

    Source: Hardt, Price & Srebro 2016.

    Args:
        confusions: ``(G, C, C)`` confusion matrices by group.
        min_count: number of targets of a class (of other classes, for the false positive rate) below which a group is
            left out for that class.

    Returns:
        ``value`` (NaN if either gap is NaN), and ``recall`` and ``false_positive_rate``, each in the form of
        :func:`equal_opportunity_gap`.
    """
    counts = _counts(confusions, ndim=3)
    targets, predicted = counts.sum(-1), counts.sum(-2)
    others = targets.sum(-1, keepdims=True) - targets
    recall = _largest_gap(_diagonal(counts), targets, min_count)
    false_positives = _largest_gap(predicted - _diagonal(counts), others, min_count)
    value = float(np.maximum(recall["value"], false_positives["value"]))  # NaN if either is
    return {"value": value, "recall": recall, "false_positive_rate": false_positives}


def auroc(probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray) -> dict:
    """Return the area under the ROC curve, one class versus the rest, averaged over classes.

    Args:
        probabilities: ``(N, C)`` predicted probabilities in [0, 1].
        targets: ``(N,)`` codes of the true classes.

    Returns:
        ``value`` (NaN if no class has both positives and negatives), ``num_classes`` (classes that do), and ``n``.
    """
    scores, codes = _checked(probabilities, targets)
    present = torch.bincount(codes, minlength=scores.shape[1])
    known = torch.nonzero((present > 0) & (present < len(codes))).flatten().tolist()
    areas = [float(binary_auroc(scores[:, code], (codes == code).long(), validate_args=False)) for code in known]
    return {"value": float(np.mean(areas)) if areas else float("nan"), "num_classes": len(areas), "n": len(codes)}


def calibration_error(
    probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray, num_bins: int = 15
) -> dict:
    """Return the expected calibration error (Guo et al. 2017): ``value`` (NaN without rows) and ``n``.

    Args:
        probabilities: ``(N, C)`` predicted probabilities in [0, 1].
        targets: ``(N,)`` codes of the true classes.
        num_bins: number of confidence bins of equal width.
    """
    scores, codes = _checked(probabilities, targets)
    if num_bins < 1:
        raise InputError(f"num_bins = {num_bins}: give 1 or more")
    if not len(codes):
        return {"value": float("nan"), "n": 0}
    error = multiclass_calibration_error(
        scores.clamp(max=BELOW_ONE), codes, scores.shape[1], n_bins=num_bins, validate_args=False
    )
    return {"value": float(error), "n": len(codes)}


def _array(counts: Counts) -> np.ndarray:
    array = counts.detach().cpu().numpy() if isinstance(counts, torch.Tensor) else np.asarray(counts)
    if array.dtype.kind not in "iuf" or (array < 0).any() or not np.isfinite(array).all():
        raise InputError("counts must not be negative")
    # float64: exact up to 2^53, and squares do not overflow
    return array.astype(np.float64)


def _counts(confusion: Counts, ndim: int | None = None) -> np.ndarray:
    array = _array(confusion)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or ndim not in (None, array.ndim):
        expected = "(groups, classes, classes)" if ndim else "(…, classes, classes)"
        raise InputError(f"confusions have to be {expected}, target by predicted class, not {array.shape}")
    return array


def _checked(
    probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    scores, codes = torch.as_tensor(probabilities).double(), torch.as_tensor(targets).long()
    if scores.ndim != 2 or codes.shape != scores.shape[:1]:
        raise InputError(f"probabilities {tuple(scores.shape)} do not match targets {tuple(codes.shape)}")
    if not len(codes):
        return scores, codes
    # negated, because comparisons with NaN are false
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise InputError("probabilities must be between 0 and 1, without NaN")
    if codes.min() < 0 or codes.max() >= scores.shape[1]:
        raise InputError(f"targets must be 0 to {scores.shape[1] - 1}, not {int(codes.min())} to {int(codes.max())}")
    return scores, codes.to(scores.device)


def _at_least_one(min_count: int) -> int:
    if min_count < 1:
        raise InputError(f"min_count = {min_count}: a group without members has no accuracy; give 1 or more")
    return min_count


def _largest_gap(events: np.ndarray, totals: np.ndarray, min_count: int) -> dict:
    # (G, C) each
    used = totals >= _at_least_one(min_count)
    rates = _ratio(events, totals)
    num_groups = used.sum(0)
    spread = np.where(used, rates, -np.inf).max(0, initial=-np.inf) - np.where(used, rates, np.inf).min(
        0, initial=np.inf
    )
    gaps = np.where(num_groups > 1, spread, np.nan)
    known = num_groups > 1
    worst = int(np.nanargmax(gaps)) if known.any() else None
    return {
        "value": float("nan") if worst is None else float(gaps[worst]),
        "class": worst,
        "num_classes": int(known.sum()),
        "by_class": gaps.tolist(),
        "num_groups": num_groups.tolist(),
        "n": np.where(used, totals, 0).sum(0).astype(int).tolist(),
    }


def _diagonal(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _recall(counts: np.ndarray) -> np.ndarray:
    return _ratio(_diagonal(counts), counts.sum(-1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(
        numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=np.asarray(denominator) > 0
    )


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(-1), known.sum(-1))
