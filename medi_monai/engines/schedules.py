"""Learning rates that rise and then fall along a cosine."""

from __future__ import annotations

from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer

__all__ = ["WarmupCosine"]


class WarmupCosine(WarmupCosineSchedule):
    """MONAI's schedule, whose first update has a rate above zero and whose last may keep a part.

    Update ``n``, counted from 0, has ``min((n + 1) / warmup_steps, end + (1 - end) (1 + cos(pi p)) / 2)`` of the rate,
    where ``p`` goes from 0 at ``cosine_start`` to 1 at ``t_total``. In MONAI's the first update has none, and a
    training of few updates loses one of them.

    Args:
        optimizer: has the highest rate.
        warmup_steps: updates in which the rate rises, 1 or more.
        t_total: the update at which the cosine ends.
        cosine_start: the update at which it begins; by default after the warmup. Before it, the lesser of the two
            counts.
        end_factor: part of the rate that is left at the end.
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
        """The part of the rate that an update has."""
        cosine = self.cosine(min(max(step, self.warmup_steps), self.t_total))
        return min((step + 1) / self.rise, self.end_factor + (1 - self.end_factor) * cosine)

    def cosine(self, step: int) -> float:
        """``(1 + cos(pi p)) / 2`` of an update from ``cosine_start`` to ``t_total``."""
        return super().lr_lambda(step)
