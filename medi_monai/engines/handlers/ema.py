"""Average of the weights during training, which is used for sampling and saved as the model."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medi_monai.utils.errors import InputError

__all__ = ["WeightAverage", "power_average_exponent"]


class WeightAverage:
    """Power-function average of EDM2 (Karras et al. 2024, arXiv 2312.02696, section 3.1).

    After step t, the average moves toward the weights by ``1 - (1 - 1/t)^(gamma + 1)``. Unlike an exponential average
    with a fixed decay, it forgets the random initialization for any length of training, so one setting suits all.

    Args:
        network: network in training.
        relative_width: standard deviation of the averaging profile as a fraction of the training so far, between 0 and
            0.28.
    """

    def __init__(self, network: nn.Module, relative_width: float = 0.1) -> None:
        self._exponent = power_average_exponent(relative_width)
        self.average = AveragedModel(network, multi_avg_fn=self._update)
        self.average.requires_grad_(False)
        self.average.eval()
        self._source = network

    @property
    def network(self) -> nn.Module:
        """The network with averaged weights, in evaluation mode."""
        return self.average.module

    def attach(self, engine: Engine) -> None:
        """Update after every step of a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self.average.update_parameters(self._source))

    def state_dict(self) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.average.load_state_dict(state)

    @torch.no_grad()
    def _update(self, averaged, current, num_averaged) -> None:  # type: ignore[no-untyped-def]
        # AveragedModel copies the first weights, so this sees t = 2, 3, …
        step = int(num_averaged) + 1
        torch._foreach_lerp_(averaged, current, 1 - (1 - 1 / step) ** (self._exponent + 1))


def power_average_exponent(relative_width: float) -> float:
    """Return the ``gamma`` whose profile ``t^gamma`` has the given relative width (arXiv 2312.02696, section 3.1).

    ``sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))``, solved for gamma by bisection.
    """
    if not 0 < relative_width < 0.28:
        raise InputError(f"ema_width = {relative_width}: it has to lie between 0 and 0.28 (of the training)")
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        width = (middle + 1) ** 0.5 / ((middle + 2) * (middle + 3) ** 0.5)
        low, high = (middle, high) if width > relative_width else (low, middle)
    return low
