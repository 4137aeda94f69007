"""UNets for the second stage of a cascade, which get a small image in addition to the noisy one (arXiv 2106.15282)."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn
from torch.nn import functional

from medi_monai.networks.text.unet import TextDiffusionUNet
from medi_monai.networks.unet import MetadataDiffusionUNet
from medi_monai.utils.errors import InputError

__all__ = ["TextUpsamplingUNet", "UpsamplingUNet", "WithSmallImages", "enlarged", "shrunk"]


class _TimeAndLevel(nn.Module):
    """A timestep embedding to which an embedding of the noise level of the small image is added."""

    def __init__(self, embed: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.width = embed, width
        last = nn.Linear(4 * width, 4 * width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.project = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), last)
        self.level: torch.Tensor | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        embedded = self.embed(features)
        if self.level is None:
            return embedded
        # add 1, so that -1 (no noise) becomes 0, a level different from all timesteps
        level = get_timestep_embedding(self.level.to(features.device) + 1, self.width)
        return embedded + self.project(level.to(features.dtype))


class _Upsampling:
    """Common part of both networks: the enlarged small image is added as channels, its noise level as a condition."""

    time_embed: nn.Module

    def __init__(self, *args: Any, in_channels: int, out_channels: int, **kwargs: Any) -> None:
        if in_channels != out_channels:
            raise InputError(f"in_channels {in_channels} and out_channels {out_channels} of the image have to be equal")
        super().__init__(*args, in_channels=2 * in_channels, out_channels=out_channels, **kwargs)  # type: ignore[call-arg]
        self.time_embed = _TimeAndLevel(self.time_embed, self.block_out_channels[0])  # type: ignore[attr-defined]

    def forward(
        self,
        image: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        conditions: torch.Tensor | None = None,
        small: torch.Tensor | None = None,
        level: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the network's prediction for noisy images.

        Args:
            image: ``(N, C, H, W)`` noisy images.
            timesteps: ``(N,)`` timesteps; by default 0.
            conditions: codes; see the network of the first stage.
            small: ``(N, C, H, W)`` enlarged small images with noise added; by default 0.
            level: ``(N,)`` timesteps of that noise, -1 for no noise; by default no noise.
        """
        small = torch.zeros_like(image) if small is None else small.to(image.dtype)
        self.time_embed.level = torch.full((len(image),), -1) if level is None else level
        try:
            return super().forward(torch.cat([image, small], 1), timesteps, conditions)  # type: ignore[misc]
        finally:
            self.time_embed.level = None  # type: ignore[assignment]


class UpsamplingUNet(_Upsampling, MetadataDiffusionUNet):  # type: ignore[misc]
    """:class:`MetadataDiffusionUNet` for the second stage; it has the same arguments."""


class TextUpsamplingUNet(_Upsampling, TextDiffusionUNet):  # type: ignore[misc]
    """:class:`TextDiffusionUNet` for the second stage; it has the same arguments."""


class WithSmallImages(nn.Module):
    """A network of the second stage, bound to the small images of a batch, which are repeated if guidance repeats it.

    Args:
        network: an upsampling network.
        small: ``(N, C, H, W)`` enlarged small images with noise added.
        level: timestep of that noise, -1 for none.
    """

    def __init__(self, network: nn.Module, small: torch.Tensor, level: int) -> None:
        super().__init__()
        self.network, self.small, self.level = network, small, level

    def forward(self, image: torch.Tensor, **arguments: torch.Tensor) -> torch.Tensor:
        small = self.small.repeat(len(image) // len(self.small), 1, 1, 1)
        return self.network(image, **arguments, small=small, level=torch.full((len(image),), self.level))


def shrunk(images: torch.Tensor, size: int) -> torch.Tensor:
    """Reduce ``(N, 3, H, W)`` images in [-1, 1] to a side of ``size`` pixels, rounded to whole gray levels as in files.

    Raises:
        InputError: for a size that does not divide the side of the images.
    """
    if images.shape[-1] % size or images.shape[-1] == size:
        raise InputError(f"small_size = {size}: it has to divide the {images.shape[-1]} pixels of the images")
    small = functional.avg_pool2d(images, images.shape[-1] // size)
    return ((small + 1) * 127.5).round() / 127.5 - 1


def enlarged(images: torch.Tensor, size: int) -> torch.Tensor:
    """Enlarge ``(N, 3, h, w)`` images to a side of ``size`` pixels by bilinear interpolation."""
    return functional.interpolate(images, (size, size), mode="bilinear", align_corners=False)
