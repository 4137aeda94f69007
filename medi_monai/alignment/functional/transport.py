"""Which subgroup each image of a batch should show: the least change that brings the batch to its target."""

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
        distribution: ``(N, G)``, how often each image was given each subgroup.
        labels: ``(N,)`` its most frequent one.
        confidence: ``(N,)`` the share of that one.
        confident: ``(N,)`` whether the confidence suffices.
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
    """Optimal-transport pseudo-targets (Shen et al., arXiv 2311.07604, distributional alignment loss).

    N labels are drawn from the target and given to the images so that the sum of Euclidean distances between
    predictions and one-hot labels is least; the average over draws says how sure an image's label is. Draws with the
    same counts are solved once.

    Args:
        probabilities: ``(N, G)`` of the guide.
        target: ``(G,)`` shares that sum to 1.
        draws: batches of labels that are drawn; ``None`` apportions the target to the batch instead, once, where every
            label is as sure as any.
        generator: on the CPU; of the draws, or of the remainders of ``None``.
        min_confidence: in [0, 1]; images below are not confident.
    """
    if probabilities.ndim != 2 or probabilities.shape[1:] != target.shape or not len(probabilities):
        raise InputError(
            f"probabilities {tuple(probabilities.shape)} do not match a target of {tuple(target.shape)}: "
            "(N, G) and (G,) are needed"
        )
    if not 0 <= min_confidence <= 1 or (draws is not None and draws < 1):
        raise InputError(f"min_confidence = {min_confidence} has to lie in [0, 1], and draws = {draws} be 1 or more")
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
    """``(G,)`` whole numbers that sum to ``count`` and are nearest to ``count · target`` (largest remainders).

    Of equal remainders the first come first; with a generator chance decides, so that over many sets none is favored.
    """
    quotas = target.double() * count
    # a share of 0.7 of 10 is 7, whatever its binary form
    whole = (quotas + 1e-9).floor()
    mixed = torch.arange(len(quotas)) if generator is None else torch.randperm(len(quotas), generator=generator)
    order = mixed[(quotas - whole)[mixed].round(decimals=9).argsort(descending=True, stable=True)]
    whole[order[: count - int(whole.sum())]] += 1
    return whole.long()


def subset_counts(available: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``(G,)`` rows of each subgroup in the largest set that has the shares of a target and no row twice.

    Its size is that of the subgroup which runs out first; the counts are the largest remainders of :func:`apportion`,
    which are nearest to the target and sum to the size: rounding down would leave out a row of almost every subgroup.

    Args:
        available: ``(G,)`` rows there are.
        target: ``(G,)`` shares that sum to 1.

    Returns:
        Whole numbers, none above ``available``; all 0 where a subgroup that is wanted has no row.
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
