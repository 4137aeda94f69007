"""How far the subgroups of a batch are from their target: losses on a frozen classifier's log-probabilities."""

from __future__ import annotations

import math

import torch

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["DIVERGENCES", "batch_matching_loss", "transport_loss"]

#: between the target ``t`` and the batch mean ``m``: KL(t || m), KL(m || t), Jensen-Shannon, sum of squares
DIVERGENCES = ("kl", "reverse_kl", "js", "l2")

#: a share of 0 in the target, where its logarithm is needed
TARGET_FLOOR = 1e-6
#: in place of the logarithm of a probability of exactly 0
LOWEST = -1e4


def batch_matching_loss(log_probabilities: torch.Tensor, target: torch.Tensor, divergence: str = "kl") -> torch.Tensor:
    """Batch probability matching: a divergence between the mean prediction of a batch and the target.

    Han et al. (arXiv 2406.14847) match the classifier's probabilities over generated images to those expected in the
    target data. The choice among divergences, and working on logarithms, are ours. The mean is blind to which image
    changes, and a batch of undecided images has the mean of a batch of decided ones; :func:`transport_loss` tells them
    apart.

    Args:
        log_probabilities: ``(N, G)`` log-softmax of the guide; a row may be sure (0 and very negative).
        target: ``(G,)`` shares that sum to 1.
        divergence: ``kl`` is KL(target || mean), which is steepest where a wanted subgroup is absent; ``reverse_kl`` is
            KL(mean || target), with shares of 0 in the target taken as 1e-6; ``js`` lies in [0, log 2]; ``l2`` is the
            sum of squares, and has next to no gradient where the guide is sure.

    Returns:
        A scalar, zero where the mean is the target.
    """
    _check(log_probabilities, target)
    share = target.to(log_probabilities)
    log_mean = torch.nan_to_num(log_probabilities, neginf=LOWEST).logsumexp(0) - math.log(len(log_probabilities))
    mean = log_mean.exp()
    if divergence == "kl":
        return (torch.xlogy(share, share) - share * log_mean).sum()
    if divergence == "reverse_kl":
        return (mean * (log_mean - share.clamp(min=TARGET_FLOOR).log())).sum()
    if divergence == "js":
        log_middle = torch.logaddexp(log_mean, share.log()) - math.log(2)
        return 0.5 * (torch.xlogy(share, share) - share * log_middle + mean * (log_mean - log_middle)).sum()
    if divergence == "l2":
        return (mean - share).square().sum()
    raise unknown_value("divergence", divergence, DIVERGENCES)


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
    wanted = log_probabilities[rows, labels.to(log_probabilities.device)[rows]]
    return -torch.nan_to_num(wanted, neginf=LOWEST).sum() / max(len(labels), 1)


def _check(log_probabilities: torch.Tensor, target: torch.Tensor) -> None:
    if log_probabilities.ndim != 2 or log_probabilities.shape[1:] != target.shape or not len(log_probabilities):
        raise InputError(
            f"log-probabilities {tuple(log_probabilities.shape)} do not match a target of {tuple(target.shape)}: "
            "(N, G) and (G,) are needed"
        )
