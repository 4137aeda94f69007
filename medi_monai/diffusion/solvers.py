"""Samplers as plain functions of one signature: a denoiser, the noise, the schedule and a number of steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medi_monai.diffusion.objectives import Denoiser
from medi_monai.diffusion.schedules import NoiseSchedule
from medi_monai.utils.errors import InputError

__all__ = ["SOLVERS", "sampling_timesteps", "ddim"]


def sampling_timesteps(num_steps: int, num_timesteps: int) -> torch.Tensor:
    """``(num_steps + 1,)`` descending timesteps, from T-1 to 0 and then -1, the clean image.

    They are evenly spaced and rounded, so that any number of steps from 1 to T is right: the next timestep is read
    from the list, never computed as ``t - T // num_steps``.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise InputError(f"num_steps = {num_steps}: the schedule allows 1 to {num_timesteps} sampling steps")
    steps = torch.linspace(num_timesteps - 1, 0, num_steps, dtype=torch.float64).round().long()
    return torch.cat([steps, torch.tensor([-1])])


@torch.no_grad()
def ddim(denoise: Denoiser, noise: torch.Tensor, schedule: NoiseSchedule, num_steps: int) -> torch.Tensor:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma = 0).

    Args:
        denoise: ``(x_t, timesteps) -> x_0``.
        noise: ``(N, …)`` standard normal noise.
        schedule: the one of the training.
        num_steps: network evaluations, 1 to T.

    Returns:
        ``(N, …)`` images.
    """
    steps = sampling_timesteps(num_steps, schedule.num_timesteps)
    sample = noise
    for now, later in zip(steps[:-1].tolist(), steps[1:].tolist()):
        timesteps = torch.full((len(sample),), now, device=sample.device)
        image = denoise(sample, timesteps)
        alpha, sigma = schedule.coefficients(torch.tensor([now]), sample)
        alpha_later, sigma_later = schedule.coefficients(torch.tensor([later]), sample)
        direction = (sample - alpha * image) / sigma
        sample = alpha_later * image + sigma_later * direction
    return sample


SOLVERS: dict[str, Callable[[Denoiser, torch.Tensor, NoiseSchedule, int], torch.Tensor]] = {"ddim": ddim}
