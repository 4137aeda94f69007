"""Noise schedules: ``x_t = alpha_t x_0 + sigma_t eps``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["SCHEDULES", "NoiseSchedule"]

SCHEDULES = ("linear", "cosine", "flow")


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete noise schedule.

    Args:
        name: ``linear``: betas from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled to ``num_timesteps``;
            ``cosine``: ``alpha_bar(t) = cos²((t/T + s)/(1 + s) · π/2)`` with s = 0.008 and betas of at most 0.999
            (Nichol and Dhariwal 2021, eq. 17); both preserve variance, ``alpha² + sigma² = 1``.
            ``flow``: ``alpha_t = 1 - sigma_t`` and ``sigma_t = (t + 1) / (T + 1)``, the straight path from noise to
            image of rectified flow (Liu et al. 2022, arXiv 2209.03003).
        num_timesteps: number of timesteps ``T``.
    """

    name: str = "cosine"
    num_timesteps: int = 1000

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise unknown_value("noise schedule", self.name, SCHEDULES)
        if self.num_timesteps < 2:
            raise InputError(f"num_timesteps = {self.num_timesteps}: a schedule needs at least 2")
        alphas, sigmas = _coefficients(self.name, self.num_timesteps)
        object.__setattr__(self, "_alphas", alphas)
        object.__setattr__(self, "_sigmas", sigmas)

    @property
    def alphas(self) -> torch.Tensor:
        """``alpha_t`` for t = 0 … T-1, float64, on the CPU."""
        return self._alphas  # type: ignore[attr-defined]

    @property
    def sigmas(self) -> torch.Tensor:
        """``sigma_t`` for t = 0 … T-1, float64, on the CPU."""
        return self._sigmas  # type: ignore[attr-defined]

    @property
    def half_log_snr(self) -> torch.Tensor:
        """``lambda_t = log(alpha_t / sigma_t)`` for t = 0 … T-1, float64: half the log signal-to-noise ratio."""
        return (self.alphas / self.sigmas).log()

    def coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(alpha_t, sigma_t)`` as float32, in a shape that broadcasts with ``like``.

        Args:
            timesteps: ``(N,)`` timesteps; -1 stands for the end of sampling, without noise: ``(1, 0)``.
            like: ``(N, …)`` tensor, which determines the device and the number of axes of the result, ``(N, 1, …)``.
        """
        timesteps = timesteps.long().cpu()
        index, shape = timesteps.clamp(min=0), (-1,) + (1,) * (like.ndim - 1)
        alpha = torch.where(timesteps < 0, 1.0, self.alphas[index])
        sigma = torch.where(timesteps < 0, 0.0, self.sigmas[index])
        return (
            alpha.to(like.device, torch.float32).view(shape),
            sigma.to(like.device, torch.float32).view(shape),
        )


def _coefficients(name: str, num_timesteps: int) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "flow":
        sigmas = torch.arange(1, num_timesteps + 1, dtype=torch.float64) / (num_timesteps + 1)
        return 1 - sigmas, sigmas
    if name == "linear":
        scale = 1000 / num_timesteps
        betas = torch.linspace(scale * 1e-4, min(scale * 0.02, 0.999), num_timesteps, dtype=torch.float64)
    else:
        time = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2).square()
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
