"""Features of images with a gradient, for losses, together with the description of their encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["ImageFeatures"]


@dataclass(frozen=True)
class ImageFeatures:
    """Differentiable features of images, which say whose they are.

    Args:
        function: function of ``(N, 3, H, W)`` floats in [-1, 1] that returns ``(N, D)`` features.
        description: description of the encoder, as of :meth:`medi_monai.networks.encoders.Encoder.describe`. An
            evaluation compares it with its own encoder, which should not have taken part in a loss.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    description: Mapping[str, Any]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the ``(N, D)`` features of images."""
        return self.function(images)
