"""How far the subgroups of a batch are from their target: losses on a frozen classifier's log-probabilities."""

from __future__ import annotations

import math

import torch

from medi_monai.utils.errors import InputError

__all__ = ["batch_matching_loss", "transport_loss"]

#: in place of the logarithm of a probability of exactly 0
LOWEST = -1e4


def batch_matching_loss(log_probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Batch probability matching: KL(target || mean prediction of a batch).

    Han et al. (arXiv 2406.14847) match the classifier's probabilities over generated images to those expected in the
    target data. This divergence, which is steepest where a wanted subgroup is absent, and working on logarithms, are
    ours. The mean is blind to which image changes, and a batch of undecided images has the mean of a batch of decided
    ones; :func:`transport_loss` tells them apart.

    Args:
        log_probabilities: ``(N, G)`` log-softmax of the guide; a row may be sure (0 and very negative).
        target: ``(G,)`` shares that sum to 1.

    Returns:
        A scalar, zero where the mean is the target.
    """
    _check(log_probabilities, target)
    share = target.to(log_probabilities)
    log_mean = torch.nan_to_num(log_probabilities, neginf=LOWEST).logsumexp(0) - math.log(len(log_probabilities))
    return (torch.xlogy(share, share) - share * log_mean).sum()


def transport_loss(log_probabilities: torch.Tensor, labels: torch.Tensor, confident: torch.Tensor) -> torch.Tensor:
    """Cross-entropy to pseudo-targets, those that are not confident left out (Shen et al., arXiv 2311.07604).

    Args:
        log_probabilities: ``(N, G)`` log-softmax of the guide.
        labels: ``(N,)`` of :func:`medi_monai.alignment.functional.transport_labels`.
        confident: ``(N,)`` boolean.

    Returns:
        The sum over confident images divided by N, so that a batch with few of them pulls less; zero with none.
    """
    if labels.shape != log_probabilities.shape[:1] or confident.shape != labels.shape:
        raise InputError(
            f"labels {tuple(labels.shape)} and confident {tuple(confident.shape)} do not match "
            f"log-probabilities {tuple(log_probabilities.shape)}"
        )
    rows = confident.to(log_probabilities.device).nonzero()[:, 0]
    chosen = log_probabilities[rows, labels.to(log_probabilities.device)[rows]]
    return -torch.nan_to_num(chosen, neginf=LOWEST).sum() / max(len(labels), 1)


def _check(log_probabilities: torch.Tensor, target: torch.Tensor) -> None:
    if log_probabilities.ndim != 2 or log_probabilities.shape[1:] != target.shape or not len(log_probabilities):
        raise InputError(
            f"log-probabilities {tuple(log_probabilities.shape)} do not match a target of {tuple(target.shape)}: "
            "(N, G) and (G,) are needed"
        )
