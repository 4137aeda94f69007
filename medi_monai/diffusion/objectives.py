"""Prediction targets of the network, and conversion of its prediction to a denoised image."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medi_monai.diffusion.schedules import NoiseSchedule
from medi_monai.utils.errors import unknown_value

__all__ = ["OBJECTIVES", "add_noise", "training_target", "denoiser"]

#: ``epsilon``: the noise (Ho et al. 2020). ``v``: ``alpha eps - sigma x0`` (Salimans and Ho 2022, appendix D)
OBJECTIVES = ("epsilon", "v")

#: ``(x_t, timesteps) -> estimate of x_0``, all of shape ``(N, …)``, ``timesteps`` of shape ``(N,)``
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def add_noise(
    images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, schedule: NoiseSchedule
) -> torch.Tensor:
    """Return ``x_t = alpha_t x_0 + sigma_t eps`` for ``(N, …)`` images and noise and ``(N,)`` timesteps."""
    alpha, sigma = schedule.coefficients(timesteps, images)
    return alpha * images + sigma * noise


def training_target(
    images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, schedule: NoiseSchedule, objective: str
) -> torch.Tensor:
    """Return the desired output of the network for ``add_noise(images, noise, timesteps)``."""
    _check(objective)
    if objective == "epsilon":
        return noise
    alpha, sigma = schedule.coefficients(timesteps, images)
    return alpha * noise - sigma * images


def denoiser(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    schedule: NoiseSchedule,
    objective: str,
    clip: float | None = 1.0,
) -> Denoiser:
    """Adapt a network ``(x_t, timesteps) -> prediction`` to a function ``(x_t, timesteps) -> x_0``.

    Args:
        network: network with conditions, guidance and autocast already applied.
        schedule: noise schedule of the training.
        objective: prediction target of the network, one of :data:`OBJECTIVES`.
        clip: bound of the denoised image, [-clip, clip]; ``None`` for unbounded data.
    """
    _check(objective)

    def denoise(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        prediction = network(noisy, timesteps).float()
        alpha, sigma = schedule.coefficients(timesteps, noisy)
        image = (noisy - sigma * prediction) / alpha if objective == "epsilon" else alpha * noisy - sigma * prediction
        return image if clip is None else image.clamp(-clip, clip)

    return denoise


def _check(objective: str) -> None:
    if objective not in OBJECTIVES:
        raise unknown_value("objective", objective, OBJECTIVES)
