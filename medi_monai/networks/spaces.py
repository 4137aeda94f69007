"""Spaces in which a diffusion network works: pixels, or the latents of an autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import tensors_digest

__all__ = ["LatentSpace", "PixelSpace", "Space", "latent_scale"]


class Space(Protocol):
    """Conversion between images ``(N, 3, H, W)`` in [-1, 1] and the values that the network denoises."""

    #: bound of the values; see :func:`medi_monai.diffusion.denoiser`; None if they are unbounded
    clip: float | None

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(N, C, h, w)`` values, which the network learns to generate."""

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``(N, 3, H, W)`` images in [-1, 1]; differentiable."""

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Return ``(C, h, w)`` of an image with a side of ``image_size`` pixels."""

    def describe(self) -> dict[str, Any]:
        """Return everything that determines the space, JSON-compatible."""


class PixelSpace(nn.Module):
    """Pixel space.

    Args:
        channels: 3, or 1 for grayscale: the mean of the three channels, which is repeated in decoding.
        patch_size: side in pixels of the squares that are rearranged into channels (losslessly, with
            ``torch.nn.PixelUnshuffle``), so that the network works at a smaller size with a larger receptive field.

    Raises:
        InputError: for a number of channels other than 1 or 3, or an invalid ``patch_size``.
    """

    clip: float | None = 1.0

    def __init__(self, channels: int = 3, patch_size: int = 1) -> None:
        super().__init__()
        self.channels = _checked_channels(channels)
        if patch_size < 1 or int(patch_size) != patch_size:
            raise InputError(f"patch_size = {patch_size!r}: it has to be a whole number of 1 or more")
        self.patch_size = int(patch_size)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return values of shape ``(N, channels * patch_size**2, H / patch_size, W / patch_size)``."""
        inside = _inside(images, self.channels)
        for side in inside.shape[2:]:
            self._check_side(side)
        return pixel_unshuffle(inside, self.patch_size)

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``(N, 3, H, W)`` images; in [-1, 1] if the sampler clips to :attr:`clip`."""
        wanted = self.channels * self.patch_size**2
        if values.ndim != 4 or values.shape[1] != wanted:
            raise InputError(f"values of shape {tuple(values.shape)}, expected (N, {wanted}, H, W)")
        return pixel_shuffle(values, self.patch_size).expand(-1, 3, -1, -1)

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Return ``(channels * patch_size**2, image_size / patch_size, image_size / patch_size)``.

        Raises:
            InputError: for a size that is not a multiple of ``patch_size``.
        """
        self._check_side(image_size)
        side = image_size // self.patch_size
        return self.channels * self.patch_size**2, side, side

    def describe(self) -> dict[str, Any]:
        """Return kind and channels, and the patch size if it is not 1."""
        patches = {"patch_size": self.patch_size} if self.patch_size > 1 else {}
        return {"space": "pixels", "channels": self.channels, **patches}

    def _check_side(self, side: int) -> None:
        if side % self.patch_size:
            raise InputError(
                f"images of {side} pixels a side cannot be cut into patches of {self.patch_size}: choose an image_size "
                "that is a multiple of patch_size, or patch_size 1"
            )


class LatentSpace(nn.Module):
    """Latent space of a frozen autoencoder, scaled (latent diffusion, arXiv 2112.10752).

    The latent of an image is the mean of its posterior, so encoding is deterministic.

    Args:
        autoencoder: MONAI's ``AutoencoderKL`` or a module like it: ``encode`` (or ``encode_stage_2_inputs``) and
            ``decode_stage_2_outputs`` (or ``decode``). It is modified: frozen and set to evaluation mode.
        scale: factor by which latents are multiplied; with that of :func:`latent_scale`, they have unit variance.
        channels: number of channels of the autoencoder's images, 3 or 1.
        low: value of black in the autoencoder's images, which are in [low, 1]; usually -1 or 0.

    Raises:
        InputError: for an autoencoder without these methods, or an invalid scale.
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
        """Return ``(N, C, h, w)`` latents; images are encoded one at a time, which limits memory use."""
        inside = _inside(images, self.channels)
        inside = self.low + (inside + 1) * (1 - self.low) / 2
        return _one_by_one(lambda image: _mean(getattr(self.autoencoder, self._encode)(image)), inside) * self.scale

    def decode(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``(N, 3, H, W)`` images, clipped to [-1, 1].

        They are decoded one at a time, which limits memory use and makes an image independent of its batch.
        """
        images = _one_by_one(self._decoded, values / self.scale)
        return ((images - self.low) * 2 / (1 - self.low) - 1).clamp(-1, 1).expand(-1, 3, -1, -1)

    def _decoded(self, value: torch.Tensor) -> torch.Tensor:
        image = getattr(self.autoencoder, self._decode)(value)
        # the autoencoders of diffusers wrap their output
        return getattr(image, "sample", image)

    @torch.no_grad()
    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Return ``(C, h, w)``, determined by encoding and decoding a gray image once.

        Raises:
            InputError: for a size that the autoencoder cannot encode, or does not restore in decoding.
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
        """Remain in evaluation mode, regardless of ``mode``."""
        return super().train(False)

    def describe(self) -> dict[str, Any]:
        """Return kind, channels, range, scale, and the SHA-256 of the weights."""
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
    """Return the scale that gives the latents of ``(N, 3, H, W)`` images in [-1, 1] a standard deviation of 1."""
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


def _one_by_one(apply: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    # one image at a time, because kernels depend on the size of a batch and round differently
    return torch.cat([apply(value) for value in values.split(1)]) if len(values) > 1 else apply(values)


def _mean(coded: Any) -> torch.Tensor:
    if hasattr(coded, "latent_dist"):
        return coded.latent_dist.mode()
    return coded[0] if isinstance(coded, (tuple, list)) else coded
