"""What ``torch.jit.script``, and so ``monai.bundle ckpt_export``, compiles in place of a diffusion network."""

from __future__ import annotations

import warnings

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

__all__ = ["ScriptableNetwork"]


class ScriptableNetwork(nn.Module):
    """A diffusion network that can be scripted: its trace, and the defaults of its inputs.

    MONAI's attention cannot be scripted. A trace of the network alone would fix the timesteps and conditions that are
    not among its example inputs; here, all three are.

    Args:
        network: network whose ``forward`` takes images, timesteps and conditions.
        image: ``(N, C, H, W)`` example, with N above 1; the export takes any number and size that the network takes.
        null: ``(1, K)`` conditions to use by default.
    """

    def __init__(self, network: nn.Module, image: torch.Tensor, null: torch.Tensor) -> None:
        super().__init__()
        example = (image, torch.zeros(len(image), device=image.device), null.expand(len(image), -1))
        with torch.no_grad(), warnings.catch_warnings():
            # checks of shapes become constants, which is meant
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            self.network = torch.jit.trace(_Plain(network), example, check_trace=False)
        self.null: torch.Tensor
        self.register_buffer("null", null)

    @classmethod
    def of(cls, network: DiffusionModelUNet, null: torch.Tensor) -> ScriptableNetwork:
        """Return the export of a UNet, with the smallest image that it takes as the example."""
        side, device = 2 ** len(network.block_out_channels), next(network.parameters()).device
        return cls(network, torch.zeros(2, network.in_channels, side, side, device=device), null.to(device))

    def forward(
        self, image: torch.Tensor, timesteps: torch.Tensor | None = None, conditions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the prediction of the network, as its own ``forward`` does."""
        if timesteps is None:
            timesteps = torch.zeros(image.shape[0], device=image.device)
        if conditions is None:
            conditions = self.null.expand(image.shape[0], -1)
        return self.network(image, timesteps, conditions)


class _Plain(nn.Module):
    # hides the network's own __prepare_scriptable__ from the trace
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, image: torch.Tensor, timesteps: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        return self.inner(image, timesteps, conditions)
