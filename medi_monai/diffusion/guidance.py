"""Classifier-free guidance (Ho and Salimans 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medi_monai.utils.errors import InputError

__all__ = ["guided"]

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def guided(
    network: Network, conditions: torch.Tensor, null_conditions: torch.Tensor, scale: float = 1.0
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a function that predicts with guidance: ``f(null) + scale · (f(conditions) - f(null))``.

    Args:
        network: ``(x_t, timesteps, conditions) -> prediction``.
        conditions: ``(N, …)`` conditions, one row per image.
        null_conditions: ``(N, …)`` null conditions.
        scale: guidance scale; 1 is the conditional network itself, at half the work, and 0 ignores the conditions.

    Returns:
        ``(x_t, timesteps) -> prediction``.
    """
    if scale < 0:
        raise InputError(f"guidance_scale = {scale}: it has to be 0 or more; 1 is no guidance")
    if scale == 1:
        return lambda noisy, timesteps: network(noisy, timesteps, conditions)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        predictions = network(
            torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]), torch.cat([conditions, null_conditions])
        )
        conditional, unconditional = predictions.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return predict
