"""Learning rate schedules of all trainings in Python: linear warm-up and cosine decay, one step per update."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer

__all__ = ["SinglePrecisionWarmupCosine", "WarmupCosine", "WarmupTimesCosine"]


class WarmupCosine(WarmupCosineSchedule):
    """MONAI's schedule, with a positive rate in the first update and optionally in the last one.

    Update ``n``, counted from 0, uses ``min((n + 1) / warmup_steps, end + (1 - end) (1 + cos(pi p)) / 2)`` times the
    peak rate, where ``p`` goes from 0 at ``cosine_start`` to 1 at ``t_total``. In MONAI's schedule, the rate of the
    first update is zero, which wastes an update in a short training.

    Args:
        optimizer: optimizer with the peak rate.
        warmup_steps: number of warm-up updates, 1 or more; a fraction only if ``cosine_start`` is given.
        t_total: update at which the cosine ends.
        cosine_start: update at which the cosine begins; by default after the warm-up. If it begins earlier, the smaller
            of the two factors is used.
        end_factor: fraction of the peak rate at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: float,
        t_total: int,
        cosine_start: int | None = None,
        end_factor: float = 0.0,
    ) -> None:
        self.rise, self.end_factor = warmup_steps, end_factor
        super().__init__(optimizer, int(warmup_steps) if cosine_start is None else cosine_start, t_total)

    def lr_lambda(self, step: int) -> float:
        """Return the factor of the peak rate in update ``step``."""
        cosine = self.cosine(min(max(step, self.warmup_steps), self.t_total))
        return min((step + 1) / self.rise, self.end_factor + (1 - self.end_factor) * cosine)

    def cosine(self, step: int) -> float:
        """Return ``(1 + cos(pi p)) / 2`` for an update from ``cosine_start`` to ``t_total``."""
        return super().lr_lambda(step)

    def attach(self, engine: Engine) -> None:
        """Take a step after every update of an engine, as ``LrScheduleHandler`` does in configs."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self.step())


class SinglePrecisionWarmupCosine(WarmupCosine):
    """Schedule with its cosine computed in single precision, so that earlier results are reproduced exactly.

    In double precision, 250 of 600 updates have a slightly different rate, and the weights differ.
    """

    def cosine(self, step: int) -> float:
        progress = (step - self.warmup_steps) / max(1, self.t_total - self.warmup_steps)
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))


class WarmupTimesCosine(WarmupCosine):
    """Schedule with the product of warm-up and cosine in place of the smaller of the two.

    Update ``n`` uses ``min(1, (n + 1) / warmup_steps) (1 + cos(pi p)) / 2`` times the peak rate.

    Args:
        optimizer: optimizer with the peak rate.
        warmup_steps: number of warm-up updates, 1 or more; may be a fraction.
        t_total: update at which the cosine, which begins at update 0, ends.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: float, t_total: int) -> None:
        super().__init__(optimizer, warmup_steps, t_total, cosine_start=0)

    def lr_lambda(self, step: int) -> float:
        return min(1.0, (step + 1) / self.rise) * self.cosine(min(step, self.t_total))
