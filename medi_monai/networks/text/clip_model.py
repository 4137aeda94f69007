"""Compute features of images and captions in a common space with CLIP, differentiable with respect to the images."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medi_monai.networks.encoders.base import Encoder
from medi_monai.networks.text.encoder import CaptionTokenizer
from medi_monai.networks.text.loading import load_clip, load_processing, load_tokenizer
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest, tensors_digest

__all__ = ["ClipImageEncoder", "ClipModel", "Processing"]

#: Pillow's filters, by their number in preprocessor_config.json
RESAMPLING = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Processing:
    """Preprocessing of a square image by a CLIP image processor.

    Args:
        resize: side in pixels after resizing; None for no resizing.
        crop: side in pixels of the center crop; None for no cropping.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: means of red, green and blue, for values in [0, 1].
        std: standard deviations of red, green and blue, for values in [0, 1].
    """

    resize: int | None
    crop: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_settings(cls, settings: dict[str, Any], source: str = "the model") -> Processing:
        """Create the preprocessing from the content of ``preprocessor_config.json``.

        Raises:
            InputError: for a size that is not square or a filter that is neither bilinear nor bicubic.
        """
        resample = settings.get("resample", 3)
        if resample not in RESAMPLING:
            raise InputError(
                f"{source} resizes with Pillow's filter {resample}; only bilinear (2) and bicubic (3) are supported"
            )
        normalize = settings.get("do_normalize", True)
        return cls(
            resize=_side(settings.get("size", 224), source) if settings.get("do_resize", True) else None,
            crop=_side(settings.get("crop_size", 224), source) if settings.get("do_center_crop", False) else None,
            interpolation=RESAMPLING[resample],
            mean=tuple(settings["image_mean"]) if normalize else (0.0, 0.0, 0.0),
            std=tuple(settings["image_std"]) if normalize else (1.0, 1.0, 1.0),
        )

    def center(self, images: torch.Tensor) -> torch.Tensor:
        """Crop resized images to their center."""
        if self.crop is None or self.crop >= images.shape[-1]:
            return images
        start = (images.shape[-1] - self.crop) // 2
        return images[..., start : start + self.crop, start : start + self.crop]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the normalized input for ``(N, 3, S, S)`` images in [-1, 1]; differentiable."""
        scaled = (images + 1) / 2
        if self.resize is not None and scaled.shape[-1] != self.resize:
            size = (self.resize, self.resize)
            # bicubic filters overshoot; Pillow, with which the models were trained, clips the result
            scaled = functional.interpolate(scaled, size, mode=self.interpolation, antialias=True).clamp(0, 1)
        mean, std = (scaled.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (self.center(scaled) - mean) / std


class ClipModel(nn.Module):
    """CLIP or dual encoder from transformers: frozen, always in evaluation mode, and in float32 even under autocast.

    Args:
        model: id on a hub (``owner/name``) or a folder in the layout of transformers.
        on_long: what to do with captions that are too long: ``error`` or ``truncate``.

    Raises:
        InputError: if transformers is missing, or model, tokenizer or ``preprocessor_config.json`` cannot be loaded.
    """

    def __init__(self, model: str | os.PathLike, on_long: str = "error") -> None:
        super().__init__()
        self.source = os.fspath(model)
        network: Any = load_clip(model).float().requires_grad_(False)
        self.model: Any = network
        positions = getattr(network.config.text_config, "max_position_embeddings", None)
        self.captions = CaptionTokenizer(load_tokenizer(model), positions, on_long=on_long)
        self.processing = Processing.from_settings(load_processing(model), self.source)
        self.eval()

    @property
    def dim(self) -> int:
        """Number of features."""
        return int(self.model.config.projection_dim)

    @property
    def digest(self) -> str:
        """SHA-256 of weights, tokenizer and preprocessing."""
        weights = tensors_digest(self.model.state_dict())
        return json_digest([weights, self.captions.describe(), vars(self.processing)])

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(N, dim)`` features of unit length, differentiable with respect to the images.

        Args:
            images: ``(N, 3, S, S)`` floating point in [-1, 1].

        Raises:
            InputError: for images of the wrong type or shape.
        """
        return functional.normalize(self.image_embeddings(self._prepared(images)), dim=1)

    def image_embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return ``(N, dim)`` projected features, not of unit length, for normalized input of the image tower."""
        with torch.autocast(pixels.device.type, enabled=False):
            return _features(self.model.get_image_features(pixel_values=pixels.float()))

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """Return ``(N, dim)`` unit-length features of captions; an :class:`InputError` for one that is too long."""
        codes = self.captions(captions)
        device = next(self.model.parameters()).device
        if len(codes) == 0:
            return torch.zeros(0, self.dim, device=device)
        rows, row_of = torch.unique(codes, dim=0, return_inverse=True)
        with torch.autocast(device.type, enabled=False):
            mask = self.captions.mask(rows).to(device)
            features = _features(self.model.get_text_features(input_ids=rows.to(device), attention_mask=mask))
        return functional.normalize(features.float(), dim=1)[row_of.to(device)]

    def score(self, images: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Return ``(N,)`` cosine similarities of each image with its caption, in [-1, 1].

        Args:
            images: ``(N, 3, S, S)`` floating point in [-1, 1].
            captions: one caption per image.
        """
        if len(images) != len(captions):
            raise InputError(f"{len(images)} images and {len(captions)} captions: give one caption per image")
        return (self.image_features(images) * self.text_features(captions)).sum(1)

    def _prepared(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"images of shape {tuple(images.shape)} and type {images.dtype}: floating point (N, 3, S, S) in "
                "[-1, 1] is needed"
            )
        if images.shape[2] != images.shape[3]:
            raise InputError(f"CLIP takes square images, not images of {images.shape[3]} x {images.shape[2]} pixels")
        with torch.autocast(images.device.type, enabled=False):
            return self.processing(images.float())

    def train(self, mode: bool = True) -> ClipModel:
        """Remain in evaluation mode, regardless of ``mode``."""
        return super().train(False)


class ClipImageEncoder(Encoder):
    """Encoder from the image tower of a CLIP model: projected features of uint8 images, not scaled to unit length.

    Args:
        model: id on a hub, a folder, or a :class:`ClipModel`, which is then shared.
        name: name of the encoder; by default derived from the id or the name of the folder.

    Raises:
        InputError: see :class:`ClipModel`.
    """

    def __init__(self, model: str | os.PathLike | ClipModel, name: str | None = None) -> None:
        clip = model if isinstance(model, ClipModel) else ClipModel(model)
        processing = clip.processing
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(clip.source).name).strip(".-_") or "clip"
        size = processing.resize or processing.crop
        super().__init__(name or stem, size, processing.interpolation, processing.mean, processing.std)
        self.clip = clip
        self.dim = clip.dim

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.clip.image_embeddings(self.clip.processing.center(images))

    def describe(self) -> dict[str, Any]:
        """Return the description of :meth:`Encoder.describe`, with the crop."""
        return {**super().describe(), "crop": self.clip.processing.crop}


def _features(output: Any) -> torch.Tensor:
    # transformers up to version 4 returns a tensor, later versions an output with the projected features in
    # `pooler_output`
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _side(size: Any, source: str) -> int:
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise InputError(f"{source} resizes or crops to {size}; a square is needed")
    return side
