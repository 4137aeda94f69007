"""Learning rate schedules with linear warm-up and cosine decay."""

from __future__ import annotations

from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer

__all__ = ["WarmupCosine"]


class WarmupCosine(WarmupCosineSchedule):
    """MONAI's schedule, with a positive rate in the first update and optionally in the last one.

    Update ``n``, counted from 0, uses ``min((n + 1) / warmup_steps, end + (1 - end) (1 + cos(pi p)) / 2)`` times the
    peak rate, where ``p`` goes from 0 at ``cosine_start`` to 1 at ``t_total``. In MONAI's schedule, the rate of the
    first update is zero, which wastes an update in a short training.

    Args:
        optimizer: optimizer with the peak rate.
        warmup_steps: number of warm-up updates, 1 or more.
        t_total: update at which the cosine ends.
        cosine_start: update at which the cosine begins; by default after the warm-up. If it begins earlier, the smaller
            of the two factors is used.
        end_factor: fraction of the peak rate at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        t_total: int,
        cosine_start: int | None = None,
        end_factor: float = 0.0,
    ) -> None:
        self.rise, self.end_factor = warmup_steps, end_factor
        super().__init__(optimizer, warmup_steps if cosine_start is None else cosine_start, t_total)

    def lr_lambda(self, step: int) -> float:
        """Return the factor of the peak rate in update ``step``."""
        cosine = self.cosine(min(max(step, self.warmup_steps), self.t_total))
        return min((step + 1) / self.rise, self.end_factor + (1 - self.end_factor) * cosine)

    def cosine(self, step: int) -> float:
        """Return ``(1 + cos(pi p)) / 2`` for an update from ``cosine_start`` to ``t_total``."""
        return super().lr_lambda(step)
