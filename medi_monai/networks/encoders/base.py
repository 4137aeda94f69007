"""Base class of encoders, which are frozen and deterministic, and resize and normalize images themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import tensors_digest

__all__ = ["INTERPOLATIONS", "Encoder", "same_encoder"]

INTERPOLATIONS = ("bilinear", "bicubic")
#: pattern of allowed names, which become parts of folder names
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Encoder(nn.Module):
    """Frozen feature extractor: uint8 images to ``(N, dim)`` float32 features.

    Images of any size are scaled to [0, 1], resized with antialiasing to ``image_size`` (as in Pillow, but in floating
    point, and clipped to [0, 1] again), then normalized by ``(x - mean) / std``. A subclass implements :meth:`encode`
    and sets ``dim``. Encoders stay in evaluation mode, without gradients, and in float32 even under autocast.

    Args:
        name: name of the encoder, of letters, digits, ``.``, ``_`` and ``-``; folders of features are named after it.
        image_size: side of the input of :meth:`encode` in pixels; None for no resizing.
        interpolation: ``bilinear`` or ``bicubic``, as in the training of the model.
        mean: means of red, green and blue, for values in [0, 1].
        std: standard deviations of red, green and blue, for values in [0, 1].

    Raises:
        InputError: for an invalid name, size, interpolation or normalization.
    """

    dim: int
    antialias = True

    def __init__(
        self,
        name: str,
        image_size: int | None,
        interpolation: str = "bilinear",
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        _check(name, image_size, interpolation, mean, std)
        self.name, self.image_size, self.interpolation = name, image_size, interpolation
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        for key, values in (("_mean", self.mean), ("_std", self.std)):
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)
        self._digest: tuple[list, str] | None = None
        self.eval()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(N, dim)`` features of images from :meth:`preprocess`."""
        raise NotImplementedError

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and normalize uint8 images to ``(N, 3, image_size, image_size)`` float32."""
        scaled = images.float() / 255
        if self.image_size is not None and tuple(scaled.shape[2:]) != (self.image_size,) * 2:
            size = (self.image_size,) * 2
            # bicubic filters overshoot; Pillow, with which the models were trained, clips the result
            scaled = functional.interpolate(scaled, size, mode=self.interpolation, antialias=True).clamp_(0, 1)
        return (scaled - self.get_buffer("_mean")) / self.get_buffer("_std")

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of images.

        Args:
            images: ``(N, 3, H, W)`` uint8 on any device; square if the encoder resizes them.

        Returns:
            ``(N, dim)`` float32, on the device of the encoder.

        Raises:
            InputError: for images of the wrong type or shape.
        """
        self._check_images(images)
        images = images.to(self.get_buffer("_mean").device)
        with torch.autocast(images.device.type, enabled=False):
            if len(images) == 0:
                return torch.zeros(0, self.dim, device=images.device)
            return self.encode(self.preprocess(images)).float()

    def _check_images(self, images: torch.Tensor) -> None:
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise InputError(
                f"{self.name} takes uint8 images in [0, 255], not {kind}: encoders scale and normalize images "
                "themselves"
            )
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise InputError(f"{self.name} takes RGB images (N, 3, H, W), not {tuple(images.shape)}")
        if self.image_size is not None and images.shape[2] != images.shape[3]:
            # resizing to a square would change the morphology, and cropping would change the field of view
            raise InputError(
                f"{self.name} takes square images, not images of {images.shape[3]} x {images.shape[2]} pixels"
            )

    def train(self, mode: bool = True) -> Encoder:
        """Remain in evaluation mode, regardless of ``mode``."""
        return super().train(False)

    def describe(self) -> dict[str, Any]:
        """Return what determines the features, JSON-compatible: preprocessing, and SHA-256 of the weights."""
        return {
            "name": self.name,
            "dim": self.dim,
            "image_size": self.image_size,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "mean": list(self.mean),
            "std": list(self.std),
            "weights_sha256": self.weights_digest(),
        }

    def weights_digest(self) -> str:
        """Return the SHA-256 of names, types, shapes and bytes of the state; it does not depend on the device."""
        state = self.state_dict()
        # hashing a billion weights takes seconds, so it is repeated only if a tensor was moved or changed
        key = [(name, value.data_ptr(), value._version) for name, value in state.items()]
        if self._digest is None or self._digest[0] != key:
            self._digest = (key, tensors_digest(state))
        return self._digest[1]


def same_encoder(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> bool:
    """Return whether two descriptions of encoders are of the same weights; False if one is None."""
    return first is not None and second is not None and first["weights_sha256"] == second["weights_sha256"]


def _check(name: str, image_size: int | None, interpolation: str, mean: Sequence[float], std: Sequence[float]) -> None:
    if not NAME.fullmatch(name):
        raise InputError(
            f"encoder name {name!r}: only letters, digits, '.', '_' and '-' are allowed, because folders are "
            "named after it"
        )
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise InputError(f"image_size {image_size!r} of {name}: it has to be a whole number of 1 or more")
    if interpolation not in INTERPOLATIONS:
        raise unknown_value("interpolation", interpolation, INTERPOLATIONS)
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise InputError(
            f"mean {list(mean)} and std {list(std)} of {name}: each needs three numbers, and std has to be above 0"
        )
