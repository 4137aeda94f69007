"""Classifier-free guidance (Ho and Salimans 2022), of all conditions together and of single columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from medi_monai.diffusion.schedules import NoiseSchedule
from medi_monai.utils.errors import InputError

__all__ = ["Guidance", "guided"]

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Guidance:
    """Scales by which predictions are pushed toward the conditions.

    With the prediction ``e`` for all conditions, ``e_0`` for none and ``e_a`` for all except column ``a``, the guided
    prediction is ``e_0 + scale (e - e_0) + sum_a (scale_a - 1) (e - e_a)``. A scale of 1 is no guidance.

    Args:
        scale: scale of all conditions together, at least 0; 0 ignores them.
        columns: scales of single columns, at least 0, by index of the column.
        interval: lowest and highest noise level ``sigma / alpha`` at which guidance acts (Kynkäänniemi et al. 2024,
            arXiv 2404.07724); ``None`` for all levels. Outside the interval, the prediction is not guided.
        rescale: weight in [0, 1] of the guided prediction rescaled to the standard deviation of the unguided one
            (Lin et al. 2023, arXiv 2305.08891, eq. 15 and 16); 0 for no rescaling.

    Raises:
        InputError: for a negative scale, or another value out of range.
    """

    scale: float = 1.0
    columns: Mapping[int, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        for scale in (self.scale, *self.columns.values()):
            if scale < 0:
                raise InputError(f"guidance_scale = {scale}: it has to be 0 or more; 1 is no guidance")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise InputError(
                f"guidance_interval = {list(self.interval)}: give the lowest and the highest noise level, both 0 or "
                "more, such as [0.2, 5]"
            )
        if not 0 <= self.rescale <= 1:
            raise InputError(f"guidance_rescale = {self.rescale}: it has to lie in [0, 1]")

    @property
    def active(self) -> bool:
        """Whether any scale differs from 1."""
        return self.scale != 1 or any(scale != 1 for scale in self.columns.values())


def guided(
    network: Network,
    conditions: torch.Tensor,
    null_conditions: torch.Tensor,
    guidance: Guidance | float = 1.0,
    schedule: NoiseSchedule | None = None,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a function that predicts with guidance, with one batched evaluation of the network.

    Args:
        network: function ``(x_t, timesteps, conditions) -> prediction``.
        conditions: ``(N, L)`` conditions, one row per image.
        null_conditions: ``(N, L)`` null conditions.
        guidance: settings of the guidance, or the scale of all conditions together.
        schedule: noise schedule of the training; needed only for a guidance interval.

    Returns:
        A function ``(x_t, timesteps) -> prediction``.

    Raises:
        InputError: for an interval without a schedule.
    """
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(float(guidance))
    if not guidance.active:
        return lambda noisy, timesteps: network(noisy, timesteps, conditions)
    if guidance.interval is not None and schedule is None:
        raise InputError("an interval of guidance needs the noise schedule")
    weakened, weights = _weakened(conditions, null_conditions, guidance)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        acting = _acting(timesteps, guidance.interval, schedule)
        if not acting.any():
            return network(noisy, timesteps, conditions)
        count = 1 + len(weights)
        predictions = network(
            noisy.repeat(count, *[1] * (noisy.ndim - 1)), timesteps.repeat(count), torch.cat([conditions, *weakened])
        )
        plain, *others = predictions.chunk(count)
        result = plain
        for other, weight in zip(others, weights):
            # the first term is written so that a scale of 0 leaves nothing of `plain`, not even a rounding error
            change = plain - other
            result = other + (1 + weight) * change if result is plain else result + weight * change
        if guidance.rescale:
            result = _rescaled(result, plain, guidance.rescale)
        return result if acting.all() else torch.where(acting.view(-1, *[1] * (noisy.ndim - 1)), result, plain)

    return predict


def _weakened(
    conditions: torch.Tensor, null_conditions: torch.Tensor, guidance: Guidance
) -> tuple[list[torch.Tensor], list[float]]:
    """Return conditions with one or all columns nulled, and the weights of their differences from the prediction."""
    weakened, weights = [], []
    if guidance.scale != 1:
        weakened.append(null_conditions)
        weights.append(guidance.scale - 1)
    for column, scale in guidance.columns.items():
        if scale != 1:
            without = conditions.clone()
            without[:, column] = null_conditions[:, column]
            weakened.append(without)
            weights.append(scale - 1)
    return weakened, weights


def _acting(
    timesteps: torch.Tensor, interval: tuple[float, float] | None, schedule: NoiseSchedule | None
) -> torch.Tensor:
    if interval is None or schedule is None:
        return torch.ones_like(timesteps, dtype=torch.bool)
    level = (-schedule.half_log_snr[timesteps.long().cpu()]).exp().to(timesteps.device)
    return (level >= interval[0]) & (level <= interval[1])


def _rescaled(result: torch.Tensor, plain: torch.Tensor, share: float) -> torch.Tensor:
    axes = tuple(range(1, result.ndim))
    factor = plain.std(axes, keepdim=True) / result.std(axes, keepdim=True).clamp(min=1e-6)
    return result * (share * factor + 1 - share)
