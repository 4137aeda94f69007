"""Optimizers of diffusion networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from medi_monai.networks.precision import dtype_of, fast_precision
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["OPTIMIZERS", "MuonAdamW", "build_optimizer", "orthogonalized"]

#: names that :func:`build_optimizer` knows
OPTIMIZERS = ("muon", "adamw")

#: children of MONAI's ``DiffusionModelUNet`` whose matrices do not map hidden features to hidden features
EDGES = ("conv_in", "out", "time_embed", "class_embedding")
#: coefficients of the quintic iteration, and number of iterations (K. Jordan 2024, "Muon")
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
#: typical root mean square of AdamW's updates, to which those of Muon are scaled (arXiv 2502.16982)
ADAMW_RMS = 0.2


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices and convolutions of a network, AdamW for all other parameters, at one learning rate.

    Muon (K. Jordan 2024) orthogonalizes the momentum of a matrix before applying it, so that features of few images
    are learned as fast as those of all images: rare subgroups appear after fewer steps. A convolution is treated as a
    matrix of output channels by all other dimensions. Updates are scaled to the size of AdamW's, so that the same
    learning rates apply. The result is that of ``torch.optim.Muon``, but all matrices of one shape are updated at once.

    Args:
        network: network whose parameters that require a gradient are optimized.
        lr: learning rate.
        weight_decay: decoupled weight decay of both optimizers.
        momentum: momentum of Muon, in [0, 1).
        edges: names of children whose matrices are optimized by AdamW: inputs, outputs and embeddings.
        precision: precision in which matrices are orthogonalized, ``bfloat16`` or ``float32``; by default bfloat16,
            unless it is slow on the device. Resumed training keeps its precision.
        betas: decay rates of AdamW's moving averages.

    Raises:
        InputError: for a network without hidden matrices.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        edges: Sequence[str] = EDGES,
        precision: str | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        named = [(name, param) for name, param in network.named_parameters() if param.requires_grad]
        inner = {name for name, param in named if param.ndim >= 2 and name.split(".")[0] not in edges}
        if not inner:
            raise InputError("the network has no hidden weight matrices for Muon; choose AdamW")
        groups = [{"params": [param for name, param in named if (name in inner) == within]} for within in (True, False)]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        device = groups[0]["params"][0].device
        self.precision = precision or fast_precision(str(device), allow_float16=False).name
        self._adamw = torch.optim.AdamW(groups[1]["params"], lr, betas, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the network's parameters once from their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices, others = self.param_groups
        self._step_matrices(**matrices)
        for name in ("lr", "weight_decay"):
            self._adamw.param_groups[0][name] = others[name]
        self._adamw.step()
        return loss

    def _step_matrices(
        self, params: list[nn.Parameter], lr: float, weight_decay: float, momentum: float, **other: Any
    ) -> None:
        alike: dict[tuple, list[tuple[nn.Parameter, torch.Tensor]]] = defaultdict(list)
        for param in params:
            if param.grad is None:
                continue
            state: dict[str, Any] = self.state[param]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(param.grad)
            buffer = state["momentum_buffer"].lerp_(param.grad, 1 - momentum)
            # Nesterov momentum
            update = param.grad.lerp(buffer, momentum).flatten(1)
            alike[tuple(update.shape)].append((param, update))
        for shape, pairs in alike.items():
            size = lr * ADAMW_RMS * math.sqrt(max(shape))
            changes = orthogonalized(torch.stack([update for _, update in pairs]), self.precision)
            for (param, _), change in zip(pairs, changes):
                param.mul_(1 - lr * weight_decay).add_(change.view_as(param), alpha=-size)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer, with that of AdamW as ``adamw``, and the precision."""
        return {**super().state_dict(), "adamw": self._adamw.state_dict(), "precision": self.precision}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        own = ("adamw", "precision")
        super().load_state_dict({name: value for name, value in state_dict.items() if name not in own})
        self.precision = state_dict["precision"]
        self._adamw.load_state_dict(state_dict["adamw"])


def build_optimizer(
    name: str,
    network: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """Return the optimizer of a diffusion network.

    Args:
        name: ``muon`` for :class:`MuonAdamW`, or ``adamw`` for AdamW for all parameters.
        network: network to optimize.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of AdamW's moving averages.
    """
    if name not in OPTIMIZERS:
        raise unknown_value("optimizer_type", name, OPTIMIZERS)
    if name == "muon":
        return MuonAdamW(network, lr, weight_decay, betas=betas)
    return torch.optim.AdamW(network.parameters(), lr, betas=betas, weight_decay=weight_decay, fused=True)


def orthogonalized(matrices: torch.Tensor, precision: str = "bfloat16") -> torch.Tensor:
    """Orthogonalize ``(K, A, B)`` matrices approximately, to singular values between about 0.5 and 1.5.

    Newton-Schulz iteration with the coefficients of Muon; singular values of exactly 0 stay 0.

    Args:
        matrices: the matrices.
        precision: precision of the iteration, ``bfloat16`` or ``float32``.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    result = (matrices.mT if tall else matrices).to(dtype_of(precision))
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, second, third = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = result @ result.mT
        odd = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        result = torch.baddbmm(result, odd, result, beta=first)
    return result.mT if tall else result
