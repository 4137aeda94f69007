"""Optimal-transport pseudo-targets: assign a subgroup to each image so that the batch meets its target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from medi_monai.utils.errors import InputError

__all__ = ["TransportLabels", "apportion", "subset_counts", "transport_labels"]


@dataclass(frozen=True)
class TransportLabels:
    """Pseudo-targets of a batch, on the CPU.

    Args:
        distribution: ``(N, G)`` fraction of draws that assign each subgroup to each image.
        labels: ``(N,)`` most frequently assigned subgroup.
        confidence: ``(N,)`` fraction of draws that assign this subgroup.
        confident: ``(N,)`` boolean, whether the confidence reaches the required minimum.
    """

    distribution: torch.Tensor
    labels: torch.Tensor
    confidence: torch.Tensor
    confident: torch.Tensor


def transport_labels(
    probabilities: torch.Tensor,
    target: torch.Tensor,
    draws: int | None = 200,
    generator: torch.Generator | None = None,
    min_confidence: float = 0.8,
) -> TransportLabels:
    """Compute optimal-transport pseudo-targets (Shen et al., arXiv 2311.07604, distributional alignment loss).

    N labels are drawn from the target and assigned to the images so that the sum of Euclidean distances between
    predictions and one-hot labels is minimal; the fraction of draws that agree is the confidence of an image's label.
    Draws with the same counts are solved once.

    Args:
        probabilities: ``(N, G)`` probabilities predicted by the guide.
        target: ``(G,)`` shares that sum to 1.
        draws: number of label sets to draw; ``None`` instead apportions the target to the batch once, which makes all
            labels equally confident.
        generator: random generator on the CPU, for the draws or, with ``None``, for equal remainders.
        min_confidence: confidence in [0, 1] below which an image is not confident.
    """
    if probabilities.ndim != 2 or probabilities.shape[1:] != target.shape or not len(probabilities):
        raise InputError(
            f"probabilities {tuple(probabilities.shape)} do not match a target of {tuple(target.shape)}: "
            "(N, G) and (G,) are needed"
        )
    if not 0 <= min_confidence <= 1 or (draws is not None and draws < 1):
        raise InputError(f"min_confidence = {min_confidence} must be in [0, 1], and draws = {draws} must be at least 1")
    predicted = probabilities.detach().double().cpu()
    cost = torch.cdist(predicted, torch.eye(len(target), dtype=torch.float64)).numpy()
    total = np.zeros(cost.shape)
    counts, times = _drawn_counts(len(predicted), target.detach().double().cpu(), draws, generator)
    for count, weight in zip(counts, times):
        labels = np.repeat(np.arange(len(target)), count)
        rows, columns = linear_sum_assignment(cost[:, labels])
        total[rows, labels[columns]] += weight
    distribution = torch.from_numpy(total / times.sum())
    confidence, best = distribution.max(1)
    return TransportLabels(distribution, best, confidence, confidence >= min_confidence - 1e-12)


def apportion(target: torch.Tensor, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return ``(G,)`` whole numbers that sum to ``count`` and are nearest to ``count · target`` (largest remainders).

    Args:
        target: ``(G,)`` shares that sum to 1.
        count: total number to divide.
        generator: random generator on the CPU that breaks ties between remainders, so that no group is favored over
            many batches; without it, they go to the first group.
    """
    quotas = target.double() * count
    # 0.7 of 10 must be 7 despite floating-point error
    whole = (quotas + 1e-9).floor()
    mixed = torch.arange(len(quotas)) if generator is None else torch.randperm(len(quotas), generator=generator)
    order = mixed[(quotas - whole)[mixed].round(decimals=9).argsort(descending=True, stable=True)]
    whole[order[: count - int(whole.sum())]] += 1
    return whole.long()


def subset_counts(available: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return ``(G,)`` row counts of each subgroup in the largest set with the target's shares and no repeated row.

    The size is limited by the subgroup that runs out first; the counts come from the largest remainders of
    :func:`apportion`, which are nearest to the target and sum to the size. Rounding down would lose a row of almost
    every subgroup.

    Args:
        available: ``(G,)`` number of available rows.
        target: ``(G,)`` shares that sum to 1.

    Returns:
        Whole numbers, none above ``available``; all 0 if a subgroup with a positive share has no rows.
    """
    wanted = target > 0
    size = int(np.floor((available[wanted] / target[wanted]).min() + 1e-9))
    return apportion(torch.from_numpy(target), size).numpy()


def _drawn_counts(
    count: int, target: torch.Tensor, draws: int | None, generator: torch.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    if draws is None:
        return apportion(target, count, generator).numpy()[None], np.ones(1)
    drawn = torch.multinomial(target, draws * count, replacement=True, generator=generator).view(draws, count)
    counts = torch.nn.functional.one_hot(drawn, len(target)).sum(1).numpy()
    return np.unique(counts, axis=0, return_counts=True)
