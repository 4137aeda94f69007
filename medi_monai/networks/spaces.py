"""What a diffusion network sees of an image: its pixels, or the latents of an autoencoder."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import tensors_digest

__all__ = ["LatentSpace", "PixelSpace", "Space", "latent_scale"]


class Space(Protocol):
    """Between images ``(N, 3, H, W)`` in [-1, 1] and what the network denoises."""

    #: bound of the values, as for :func:`medi_monai.diffusion.denoiser`; None where they have none
    clip: float | None

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """What the network learns to make: ``(N, C, h, w)``."""

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` images in [-1, 1]; differentiable."""

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """``(C, h, w)`` of one image of ``image_size`` pixels a side."""

    def describe(self) -> dict[str, Any]:
        """All that decides it, as JSON."""


class PixelSpace(nn.Module):
    """The pixels themselves.

    Args:
        channels: 3, or 1 for gray images: their mean, and repeated on the way back.
        patch_size: squares of so many pixels a side become the channels of one place, so that the network works at a
            smaller side and sees the whole of an image sooner; nothing is lost (``torch.nn.PixelUnshuffle``).

    Raises:
        InputError: for a number that cannot be.
    """

    clip: float | None = 1.0

    def __init__(self, channels: int = 3, patch_size: int = 1) -> None:
        super().__init__()
        self.channels = _checked_channels(channels)
        if patch_size < 1 or int(patch_size) != patch_size:
            raise InputError(f"patch_size = {patch_size!r}: it has to be a whole number of 1 or more")
        self.patch_size = int(patch_size)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, channels * patch_size**2, H / patch_size, W / patch_size)``."""
        inside = _inside(images, self.channels)
        for side in inside.shape[2:]:
            self._check_side(side)
        return pixel_unshuffle(inside, self.patch_size)

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)``; within [-1, 1] where a sampler clips to :attr:`clip`."""
        wanted = self.channels * self.patch_size**2
        if values.ndim != 4 or values.shape[1] != wanted:
            raise InputError(f"values of shape {tuple(values.shape)}, expected (N, {wanted}, H, W)")
        return pixel_shuffle(values, self.patch_size).expand(-1, 3, -1, -1)

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """``(channels * patch_size**2, image_size / patch_size, image_size / patch_size)``.

        Raises:
            InputError: for a size that is no multiple of ``patch_size``.
        """
        self._check_side(image_size)
        side = image_size // self.patch_size
        return self.channels * self.patch_size**2, side, side

    def describe(self) -> dict[str, Any]:
        """Kind and channels, and the side of patches where there are some."""
        patches = {"patch_size": self.patch_size} if self.patch_size > 1 else {}
        return {"space": "pixels", "channels": self.channels, **patches}

    def _check_side(self, side: int) -> None:
        if side % self.patch_size:
            raise InputError(
                f"images of {side} pixels a side cannot be cut into patches of {self.patch_size}: choose an image_size "
                "that is a multiple of patch_size, or patch_size 1"
            )


class LatentSpace(nn.Module):
    """The scaled latents of a frozen autoencoder (latent diffusion, arXiv 2112.10752).

    An image has one latent, the mean of its posterior: nothing is drawn.

    Args:
        autoencoder: MONAI's ``AutoencoderKL`` or a module like it: ``encode`` (or ``encode_stage_2_inputs``) and
            ``decode_stage_2_outputs`` (or ``decode``). It is taken over: frozen and set to evaluation mode.
        scale: latents are multiplied by it; :func:`latent_scale` gives unit variance.
        channels: of the autoencoder's images, 3 or 1.
        low: what black is for the autoencoder, whose images lie in [low, 1]: -1 or 0.

    Raises:
        InputError: for an autoencoder that has not these methods, or a scale that cannot be.
    """

    clip: float | None = None

    def __init__(self, autoencoder: nn.Module, scale: float = 1.0, channels: int = 3, low: float = -1.0) -> None:
        super().__init__()
        self.channels = _checked_channels(channels)
        if not (math.isfinite(scale) and scale > 0):
            raise InputError(f"scale = {scale}: it has to be above 0")
        if low >= 1:
            raise InputError(f"low = {low}: it has to be below 1; for most autoencoders, it is -1 or 0")
        self._encode = _method(autoencoder, "encode", "encode_stage_2_inputs")
        self._decode = _method(autoencoder, "decode_stage_2_outputs", "decode")
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.scale, self.low = float(scale), float(low)
        self._shapes: dict[int, tuple[int, int, int]] = {}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents ``(N, C, h, w)``."""
        inside = _inside(images, self.channels)
        inside = self.low + (inside + 1) * (1 - self.low) / 2
        return _mean(getattr(self.autoencoder, self._encode)(inside)) * self.scale

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)``, clipped to [-1, 1]."""
        images = getattr(self.autoencoder, self._decode)(values / self.scale)
        # the autoencoders of diffusers wrap what they return
        images = getattr(images, "sample", images)
        return ((images - self.low) * 2 / (1 - self.low) - 1).clamp(-1, 1).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def shape(self, image_size: int) -> tuple[int, int, int]:
        """``(C, h, w)``, found by encoding an empty image once.

        Raises:
            InputError: for a size that the autoencoder cannot encode, or does not give back.
        """
        if image_size not in self._shapes:
            device = next((value.device for value in self.autoencoder.parameters()), torch.device("cpu"))
            try:
                values = self.encode(torch.zeros(1, 3, image_size, image_size, device=device))
                size = tuple(self.decode(values).shape[2:])
            except (RuntimeError, ValueError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise InputError(f"the autoencoder cannot take images of {image_size} pixels: {reason}") from error
            if size != (image_size, image_size):
                raise InputError(
                    f"the autoencoder turns images of {image_size} pixels into images of {size}: choose an image_size "
                    "that can be halved at each of its levels"
                )
            channels, height, width = values.shape[1:]
            self._shapes[image_size] = (channels, height, width)
        return self._shapes[image_size]

    def train(self, mode: bool = True) -> LatentSpace:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def describe(self) -> dict[str, Any]:
        """Kind, channels, range, scale, and the SHA-256 of the weights."""
        weights = tensors_digest(self.autoencoder.state_dict())
        return {
            "space": "latents",
            "channels": self.channels,
            "low": self.low,
            "scale": self.scale,
            "weights_sha256": weights,
        }


@torch.no_grad()
def latent_scale(space: LatentSpace, images: torch.Tensor) -> float:
    """The scale that gives the latents of ``images`` ``(N, 3, H, W)`` in [-1, 1] a standard deviation of 1."""
    deviation = float((space.encode(images) / space.scale).double().std())
    if not (math.isfinite(deviation) and deviation > 0):
        raise InputError(
            f"the latents of {len(images)} images have a standard deviation of {deviation}: use other images"
        )
    return 1 / deviation


def _checked_channels(channels: int) -> int:
    if channels not in (1, 3):
        raise InputError(f"channels = {channels!r}: an image has 1 (gray) or 3 (RGB)")
    return channels


def _inside(images: torch.Tensor, channels: int) -> torch.Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(
            f"images of shape {tuple(images.shape)} and type {images.dtype}: floating point (N, 3, H, W) in [-1, 1] is "
            "needed"
        )
    return images if channels == 3 else images.mean(1, keepdim=True)


def _method(autoencoder: nn.Module, *names: str) -> str:
    for name in names:
        if callable(getattr(autoencoder, name, None)):
            return name
    raise InputError(f"{type(autoencoder).__name__} is not an autoencoder: it has no method {' or '.join(names)}")


def _mean(coded: Any) -> torch.Tensor:
    if hasattr(coded, "latent_dist"):
        return coded.latent_dist.mode()
    return coded[0] if isinstance(coded, (tuple, list)) else coded
