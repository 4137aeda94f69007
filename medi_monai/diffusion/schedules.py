"""Variance-preserving noise schedules: ``x_t = alpha_t x_0 + sigma_t eps`` with ``alpha_t² + sigma_t² = 1``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["SCHEDULES", "NoiseSchedule"]

SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete noise schedule.

    Args:
        name: ``linear``: betas from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled to ``num_timesteps``;
            ``cosine``: ``alpha_bar(t) = cos²((t/T + s)/(1 + s) · π/2)`` with s = 0.008 and betas of at most 0.999
            (Nichol and Dhariwal 2021, eq. 17).
        num_timesteps: number of timesteps ``T``.
    """

    name: str = "cosine"
    num_timesteps: int = 1000

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown_value("noise schedule", self.name, SCHEDULES)
        if self.num_timesteps < 2:
            raise InputError(f"num_timesteps = {self.num_timesteps}: a schedule needs at least 2")
        object.__setattr__(self, "_alphas_cumprod", _alphas_cumprod(self.name, self.num_timesteps))

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """``alpha_bar_t = alpha_t²`` for t = 0 … T-1, float64, on the CPU."""
        return self._alphas_cumprod  # type: ignore[attr-defined]

    def coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(alpha_t, sigma_t)`` as float32 of shape ``(N, 1, …)`` on the device of ``like``, which has N rows.

        A timestep of -1 stands for the end of sampling, without noise: ``(1, 0)``.
        """
        timesteps = timesteps.long().cpu()
        alpha_bar = torch.where(timesteps < 0, 1.0, self.alphas_cumprod[timesteps.clamp(min=0)])
        shape = (-1,) + (1,) * (like.ndim - 1)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return (
            alpha.to(like.device, torch.float32).view(shape),
            sigma.to(like.device, torch.float32).view(shape),
        )


def _alphas_cumprod(name: str, num_timesteps: int) -> torch.Tensor:
    if name == "linear":
        scale = 1000 / num_timesteps
        betas = torch.linspace(scale * 1e-4, min(scale * 0.02, 0.999), num_timesteps, dtype=torch.float64)
        return torch.cumprod(1 - betas, dim=0)
    time = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2).square()
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)
