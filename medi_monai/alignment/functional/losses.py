"""Subgroup losses: distance of a batch from its target, from the log-probabilities of a frozen classifier."""

from __future__ import annotations

import math

import torch

from medi_monai.utils.errors import InputError

__all__ = ["batch_matching_loss", "transport_loss"]

#: substitute for log(0)
LOWEST = -1e4


def batch_matching_loss(log_probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss of batch probability matching: KL(target || mean prediction of the batch).

    Han et al. (arXiv 2406.14847) match the classifier's probabilities over generated images to those expected in the
    target data. The choice of this divergence, which is steepest where a required subgroup is absent, and the use of
    log-probabilities are our own. The loss depends only on the mean: it does not determine which images change, and
    cannot distinguish ambiguous images from confident ones with the same mean; :func:`transport_loss` can.

    Args:
        log_probabilities: ``(N, G)`` log-softmax of the guide; rows of full confidence (0 and very negative) are
            allowed.
        target: ``(G,)`` shares that sum to 1.

    Returns:
        A scalar, zero if the mean equals the target.
    """
    _check(log_probabilities, target)
    share = target.to(log_probabilities)
    log_mean = torch.nan_to_num(log_probabilities, neginf=LOWEST).logsumexp(0) - math.log(len(log_probabilities))
    return (torch.xlogy(share, share) - share * log_mean).sum()


def transport_loss(log_probabilities: torch.Tensor, labels: torch.Tensor, confident: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy to confident pseudo-targets (Shen et al., arXiv 2311.07604).

    Args:
        log_probabilities: ``(N, G)`` log-softmax of the guide.
        labels: ``(N,)`` pseudo-targets from :func:`medi_monai.alignment.functional.transport_labels`.
        confident: ``(N,)`` boolean, whether each pseudo-target is confident.

    Returns:
        The sum over confident images divided by N, so that a batch with few of them contributes less; zero without
        any.
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
