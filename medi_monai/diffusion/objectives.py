"""Prediction targets of the network, and conversion of its prediction to a denoised image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from medi_monai.diffusion.schedules import NoiseSchedule
from medi_monai.utils.errors import InputError, unknown_value

__all__ = [
    "OBJECTIVES",
    "Denoiser",
    "add_noise",
    "check_objective",
    "denoiser",
    "image_coefficients",
    "training_target",
]

#: ``epsilon``: the noise (Ho et al. 2020). ``v``: ``alpha eps - sigma x0`` (Salimans and Ho 2022, appendix D).
#: ``sample``: the image, which suits a network that is narrow for the number of channels: it need not reproduce the
#: noise (Li and He 2025, arXiv 2511.13720). ``flow``: ``eps - x0``, the velocity of rectified flow (Liu et al. 2022,
#: arXiv 2209.03003)
OBJECTIVES = ("epsilon", "v", "sample", "flow")

#: ``(x_t, timesteps) -> estimate of x_0``, all of shape ``(N, …)``, ``timesteps`` of shape ``(N,)``
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: alpha of the last timestep below which an unbounded image cannot be computed from predicted noise
MIN_ALPHA = 5e-4

Coefficient = TypeVar("Coefficient", float, torch.Tensor)


def check_objective(objective: str, schedule: NoiseSchedule, clip: float | None = 1.0) -> None:
    """Check that a prediction target can be used with a noise schedule.

    Args:
        objective: one of :data:`OBJECTIVES`.
        schedule: noise schedule.
        clip: bound of the denoised image; ``None`` for unbounded data.

    Raises:
        InputError: for an unknown objective; for ``flow`` with a schedule other than ``flow``, and the reverse; and for
            ``epsilon`` without a bound if alpha is almost 0 at the last timestep: the denoised image is divided by
            alpha, so rounding and the error of the network would dominate it.
    """
    if objective not in OBJECTIVES:
        raise unknown_value("objective", objective, OBJECTIVES)
    if (objective == "flow") != (schedule.name == "flow"):
        raise InputError(
            f"objective {objective!r} with schedule {schedule.name!r}: the objective 'flow' and the schedule 'flow' "
            "belong together; the other objectives need the schedule 'linear' or 'cosine'"
        )
    last = float(schedule.alphas[-1])
    if objective == "epsilon" and clip is None and last < MIN_ALPHA:
        raise InputError(
            f"objective 'epsilon' with schedule {schedule.name!r} of {schedule.num_timesteps} timesteps and unbounded "
            f"images: at the last timestep, the image would be divided by {last:.2g}. Use --objective v, or "
            "--schedule linear"
        )


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
    check_objective(objective, schedule)
    if objective == "epsilon":
        return noise
    if objective == "sample":
        return images
    if objective == "flow":
        return noise - images
    alpha, sigma = schedule.coefficients(timesteps, images)
    return alpha * noise - sigma * images


def image_coefficients(alpha: Coefficient, sigma: Coefficient, objective: str) -> tuple[Coefficient, Coefficient]:
    """Return ``(a, b)`` with ``x_0 = a x_t + b prediction``, for the ``alpha`` and ``sigma`` of a timestep."""
    if objective == "epsilon":
        return 1 / alpha, -sigma / alpha
    if objective == "sample":
        # of the type and shape of alpha
        return 0 * alpha, 0 * alpha + 1
    if objective == "flow":
        # x_t = x_0 + sigma (eps - x_0), because alpha + sigma = 1
        return alpha + sigma, -sigma
    return alpha, -sigma


def denoiser(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    schedule: NoiseSchedule,
    objective: str,
    clip: float | None = 1.0,
) -> Denoiser:
    """Adapt a network ``(x_t, timesteps) -> prediction`` to a function ``(x_t, timesteps) -> x_0``.

    Args:
        network: function ``(x_t, timesteps) -> prediction``, with conditions, guidance and autocast already applied.
        schedule: noise schedule of the training.
        objective: prediction target of the network, one of :data:`OBJECTIVES`.
        clip: bound of the denoised image, [-clip, clip]; ``None`` for unbounded data.

    Raises:
        InputError: as for :func:`check_objective`.
    """
    check_objective(objective, schedule, clip)

    def denoise(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        prediction = network(noisy, timesteps).float()
        alpha, sigma = schedule.coefficients(timesteps, noisy)
        if objective == "epsilon":
            # subtract before dividing: the two quotients alone would overflow if alpha is small
            image = (noisy - sigma * prediction) / alpha
        else:
            of_noisy, of_prediction = image_coefficients(alpha, sigma, objective)
            image = of_noisy * noisy + of_prediction * prediction
        return image if clip is None else image.clamp(-clip, clip)

    return denoise
