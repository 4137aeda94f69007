"""How well a classifier does overall, in the worst group, and how unlike each other groups fare.

Counts are confusions ``(…, C, C)``, target by predicted class. What is undefined is NaN with its count beside it.
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

#: the largest number below 1 in single precision: torchmetrics gives a confidence of 1 a bin of its own
BELOW_ONE = 1 - 2.0**-24


class GroupConfusion(Metric):
    """Confusions by group, added up over batches and processes.

    Args:
        num_groups: G.
        num_classes: C.
        kwargs: of ``torchmetrics.Metric``.
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
        """Add ``(N,)`` codes of each.

        Raises:
            InputError: for codes out of range (rows whose group is unknown are left out beforehand, or have a group of
                their own), or columns of unequal length.
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
        """``(G, C, C)`` int64: group, target, predicted class."""
        return self.confusion


def balanced_accuracy(confusion: Counts) -> np.ndarray:
    """``(…)`` mean recall of the classes that have targets, NaN where there is none (scikit-learn's definition)."""
    return _mean_of_known(_recall(_counts(confusion)))


def accuracy(confusion: Counts) -> np.ndarray:
    """``(…)`` share of the targets that are predicted right, NaN where there is none."""
    counts = _counts(confusion)
    return _ratio(_diagonal(counts).sum(-1), counts.sum((-2, -1)))


def matthews_correlation(confusion: Counts) -> np.ndarray:
    """``(…)`` multi-class correlation of Matthews (Gorodkin 2004), in [-1, 1].

    NaN where all targets or all predictions are of one class, which scikit-learn calls 0.
    """
    counts = _counts(confusion)
    targets, predicted, total = counts.sum(-1), counts.sum(-2), counts.sum((-2, -1))
    covariance = _diagonal(counts).sum(-1) * total - (targets * predicted).sum(-1)
    spreads = [total**2 - (margin**2).sum(-1) for margin in (targets, predicted)]
    return _ratio(covariance, np.sqrt(spreads[0]) * np.sqrt(spreads[1]))


def worst_group_accuracy(counts: Counts, names: Sequence, min_count: int = 1) -> dict:
    """The lowest accuracy among groups of at least ``min_count`` members; of equals the earlier group.

    Args:
        counts: confusions ``(G, C, C)``, or ``(G, 2)``: right and all members of every group.
        names: of the G groups.
        min_count: 1 or more.

    Returns:
        ``value`` (NaN where no group is large enough), ``group`` (its name, or ``None``) and ``n`` (its members),
        ``num_groups`` compared, ``num_too_small`` (with members, but fewer) and ``num_empty``.

    Raises:
        InputError: for counts of another shape, or not a name per group.
    """
    array = _counts(counts, ndim=3) if np.ndim(counts) == 3 else _array(counts)
    if array.ndim == 3:
        array = np.stack([_diagonal(array).sum(-1), array.sum((-2, -1))], axis=-1)
    if array.ndim != 2 or array.shape[1] != 2 or len(names) != len(array) or (array[:, 0] > array[:, 1]).any():
        raise InputError(
            f"counts of the shape {np.shape(counts)} with {len(names)} names are neither confusions (groups, classes, "
            "classes) nor right and all members (groups, 2), with a name per group"
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
    """How far groups differ in recall (Hardt, Price & Srebro 2016): the largest gap of any class.

    Args:
        confusions: ``(G, C, C)``.
        min_count: groups with fewer targets of a class are left out for that class.

    Returns:
        ``value`` (NaN where no class has two groups), ``class`` (its code, or ``None``), ``num_classes`` with two
        groups or more, and lists by class: ``by_class`` (NaN where there are fewer), ``num_groups`` and ``n`` targets
        compared.
    """
    counts = _counts(confusions, ndim=3)
    return _largest_gap(_diagonal(counts), counts.sum(-1), min_count)


def equalized_odds_gap(confusions: Counts, min_count: int = 1) -> dict:
    """The larger of both gaps of equalized odds (Hardt, Price & Srebro 2016): in recall, and in false positive rate.

    Args:
        confusions: ``(G, C, C)``.
        min_count: groups with fewer targets of a class (of other classes, for the false positive rate) are left out for
            that class.

    Returns:
        ``value`` (NaN where either gap is), and ``recall`` and ``false_positive_rate`` as of
        :func:`equal_opportunity_gap`.
    """
    counts = _counts(confusions, ndim=3)
    targets, predicted = counts.sum(-1), counts.sum(-2)
    others = targets.sum(-1, keepdims=True) - targets
    recall = _largest_gap(_diagonal(counts), targets, min_count)
    false_positives = _largest_gap(predicted - _diagonal(counts), others, min_count)
    value = float(np.maximum(recall["value"], false_positives["value"]))  # NaN where either is
    return {"value": value, "recall": recall, "false_positive_rate": false_positives}


def auroc(probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray) -> dict:
    """Area under the receiver operating characteristic, one class against the rest, mean over classes.

    Args:
        probabilities: ``(N, C)`` in [0, 1].
        targets: ``(N,)`` codes.

    Returns:
        ``value`` (NaN where no class has both targets and others), ``num_classes`` that have, and ``n``.
    """
    scores, codes = _checked(probabilities, targets)
    present = torch.bincount(codes, minlength=scores.shape[1])
    known = torch.nonzero((present > 0) & (present < len(codes))).flatten().tolist()
    areas = [float(binary_auroc(scores[:, code], (codes == code).long(), validate_args=False)) for code in known]
    return {"value": float(np.mean(areas)) if areas else float("nan"), "num_classes": len(areas), "n": len(codes)}


def calibration_error(
    probabilities: torch.Tensor | np.ndarray, targets: torch.Tensor | np.ndarray, num_bins: int = 15
) -> dict:
    """Expected calibration error of the most probable class (Guo et al. 2017): ``value`` (NaN without rows) and ``n``.

    Args:
        probabilities: ``(N, C)`` in [0, 1].
        targets: ``(N,)`` codes.
        num_bins: of equal width.
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
    # exact up to 2^53, and its squares do not wrap around
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
    # negated, for NaN compares false
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
