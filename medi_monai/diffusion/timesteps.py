"""Distributions of timesteps in training, which determine the relative weights of noise levels."""

from __future__ import annotations

import torch

from medi_monai.diffusion.objectives import image_coefficients
from medi_monai.diffusion.schedules import NoiseSchedule
from medi_monai.utils.errors import unknown_value

__all__ = ["TIMESTEP_WEIGHTS", "draw_timesteps", "timestep_distribution"]

#: ``uniform``: equal weights. ``min_snr``: those of Hang et al. 2023 (arXiv 2303.09556) with gamma = 5. ``p2``: those
#: of Choi et al. 2022 (arXiv 2204.00227) with k = gamma = 1. ``logit_normal``: half the log signal-to-noise ratio is
#: standard normal, as in Esser et al. 2024 (arXiv 2403.03206) for rectified flow
TIMESTEP_WEIGHTS = ("uniform", "min_snr", "p2", "logit_normal")
#: gamma of Hang et al. 2023
MAX_SNR = 5.0


def timestep_distribution(schedule: NoiseSchedule, objective: str, weights: str = "uniform") -> torch.Tensor:
    """Return the ``(T,)`` float64 probabilities of timesteps in training.

    Instead of weighting the loss, timesteps are drawn in proportion to their weights: the expected gradient is the
    same, up to a factor, and has a smaller variance.

    Args:
        schedule: noise schedule.
        objective: prediction target of the network, to which the weights in the literature, defined for another target,
            are converted.
        weights: one of :data:`TIMESTEP_WEIGHTS`.

    Raises:
        InputError: for unknown weights.
    """
    if weights not in TIMESTEP_WEIGHTS:
        raise unknown_value("timestep_weights", weights, TIMESTEP_WEIGHTS)
    if weights == "uniform":
        return torch.full((schedule.num_timesteps,), 1 / schedule.num_timesteps, dtype=torch.float64)
    half_log_snr = schedule.half_log_snr
    if weights == "logit_normal":
        density = torch.exp(-half_log_snr.square() / 2)
        density = density * torch.gradient(half_log_snr)[0].abs()
    else:
        snr = (2 * half_log_snr).exp()
        # weights of the squared error of the image; an error e of the prediction causes an error b e of the image
        of_image = snr.clamp(max=MAX_SNR) if weights == "min_snr" else snr / (1 + snr)
        _, factor = image_coefficients(schedule.alphas, schedule.sigmas, objective)
        density = of_image * factor.square()
    return density / density.sum()


def draw_timesteps(probabilities: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``(count,)`` random timesteps, one from each of ``count`` equally probable parts of the distribution.

    In each position of the batch, every timestep has its probability; within the batch, noise levels are represented
    more evenly than by independent draws (Kingma et al. 2021, arXiv 2107.00630, appendix I.1).

    Args:
        probabilities: ``(T,)`` probabilities from :func:`timestep_distribution`.
        count: number of timesteps.
        generator: random generator on the CPU.
    """
    shift = torch.rand((), generator=generator, dtype=torch.float64)
    positions = (torch.randperm(count, generator=generator) + shift) / count
    return torch.searchsorted(probabilities.cumsum(0), positions).clamp(max=len(probabilities) - 1)
