"""What a diffusion network sees of an image: its pixels in one or three channels, or the latents of an autoencoder."""

from __future__ import annotations

from typing import Protocol

import torch

from medi_monai.utils.errors import InputError

__all__ = ["PixelSpace", "Space"]


class Space(Protocol):
    """Between images ``(N, 3, H, W)`` in [-1, 1] and what the network denoises."""

    #: bound of the values, as for :func:`medi_monai.diffusion.denoiser`
    clip: float | None

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """What the network learns to make."""

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` images in [-1, 1]; differentiable."""

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """``(C, h, w)`` of one image of ``image_size`` pixels a side."""


class PixelSpace:
    """The pixels themselves.

    Args:
        channels: 3, or 1 for gray images: their mean, and repeated on the way back.
    """

    clip: float | None = 1.0

    def __init__(self, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise InputError(f"channels = {channels}: an image has 1 (gray) or 3 (RGB)")
        self.channels = channels

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images if self.channels == 3 else images.mean(1, keepdim=True)

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.channels == 3 else values.expand(-1, 3, -1, -1)

    def shape(self, image_size: int) -> tuple[int, int, int]:
        return self.channels, image_size, image_size
