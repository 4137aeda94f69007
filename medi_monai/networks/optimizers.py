"""Optimizers of diffusion networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from medi_monai.utils.errors import InputError

__all__ = ["MuonAdamW"]

#: parts of MONAI's ``DiffusionModelUNet`` whose matrices are no map from features to features
EDGES = ("conv_in", "out", "time_embed", "class_embedding")


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices and convolutions within a network, AdamW for all else; one learning rate for both.

    Muon (K. Jordan 2024, ``torch.optim.Muon``) makes the momentum of a matrix orthogonal before it is applied, so that
    what few images show is learned at the pace of what all of them show: rare subgroups appear after fewer steps. A
    convolution counts as the matrix of its output channels by all else. Updates are scaled to the size of AdamW's
    (arXiv 2502.16982), so that its learning rates serve.

    Args:
        network: whose parameters that require a gradient are optimized.
        lr: learning rate.
        weight_decay: decoupled, of both.
        edges: names of children whose matrices are left to AdamW: inputs, outputs and embeddings.

    Raises:
        InputError: for a PyTorch without Muon (before 2.9), or a network without such matrices.
    """

    def __init__(
        self, network: nn.Module, lr: float = 1e-3, weight_decay: float = 0.0, edges: Sequence[str] = EDGES
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(f"torch {torch.__version__} has no Muon; pip install 'torch>=2.9', or choose AdamW")
        named = [(name, one) for name, one in network.named_parameters() if one.requires_grad]
        inner = [one for name, one in named if one.ndim >= 2 and name.split(".")[0] not in edges]
        if not inner:
            raise InputError("the network has no matrices within for Muon; choose AdamW")
        others = [one for _, one in named if not any(one is other for other in inner)]
        super().__init__([{"params": inner}, {"params": others}], {"lr": lr, "weight_decay": weight_decay})
        # the same memory, seen as matrices
        self._matrices = [nn.Parameter(one.detach().view(len(one), -1)) for one in inner]
        self._muon = torch.optim.Muon(self._matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others, lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update from the gradients of the network's parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrix, one in zip(self._matrices, self.param_groups[0]["params"]):
            matrix.grad = None if one.grad is None else one.grad.view_as(matrix)
        for group, optimizer in zip(self.param_groups, (self._muon, self._adamw)):
            for name in ("lr", "weight_decay"):
                optimizer.param_groups[0][name] = group[name]
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of both, and the groups with their learning rates."""
        return {
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups],
            "muon": self._muon.state_dict(),
            "adamw": self._adamw.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        for group, known in zip(self.param_groups, state_dict["groups"]):
            group.update(known)
        self._muon.load_state_dict(state_dict["muon"])
        self._adamw.load_state_dict(state_dict["adamw"])
