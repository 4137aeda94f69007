"""Build, save and load autoencoders of images: MONAI's ``AutoencoderKL``, with the scale of its latents."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.networks.nets import AutoencoderKL
from pydantic import BaseModel, Field
from torch import nn

from medi_monai.networks.spaces import LatentSpace, PixelSpace, Space
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import check_state, file_digest, load_tensors, save_tensors, write_json
from medi_monai.utils.records import Document, read_document, sealed

__all__ = ["RECORD", "WEIGHTS", "Architecture", "build_autoencoder", "build_space", "load_space", "save_autoencoder"]

WEIGHTS, RECORD = "autoencoder.pt", "autoencoder.json"
#: maximum number of groups in group normalization
MAX_GROUPS = 32


class Architecture(BaseModel):
    """Shape of an autoencoder; the bounds prevent a damaged record from using all memory.

    Args:
        image_channels: 3, or 1 for grayscale images.
        channels: channels of each level; the resolution is halved from one level to the next.
        latent_channels: channels of the latents.
        num_res_blocks: residual blocks per level.
        attention: whether the middle of encoder and decoder has attention.
    """

    model_config = Document.model_config
    image_channels: int = Field(ge=1, le=3)
    channels: list[int] = Field(min_length=1, max_length=8)
    latent_channels: int = Field(ge=1, le=1024)
    num_res_blocks: int = Field(ge=1, le=64)
    attention: bool = False


class AutoencoderRecord(Document):
    """``autoencoder.json``."""

    TITLE = "the record of an autoencoder"
    architecture: Architecture
    scale: float = Field(gt=0, allow_inf_nan=False)
    training: dict[str, Any]
    figures: dict[str, Any]
    digests: dict[str, str]
    digest: str | None = None


def build_autoencoder(architecture: Architecture) -> AutoencoderKL:
    """Return MONAI's ``AutoencoderKL`` with the given shape and random weights."""
    levels = len(architecture.channels)
    return AutoencoderKL(
        spatial_dims=2,
        in_channels=architecture.image_channels,
        out_channels=architecture.image_channels,
        channels=tuple(architecture.channels),
        latent_channels=architecture.latent_channels,
        num_res_blocks=(architecture.num_res_blocks,) * levels,
        attention_levels=(False,) * levels,
        norm_num_groups=math.gcd(MAX_GROUPS, *architecture.channels),
        with_encoder_nonlocal_attn=architecture.attention,
        with_decoder_nonlocal_attn=architecture.attention,
    )


def save_autoencoder(
    folder: str | os.PathLike,
    autoencoder: nn.Module,
    architecture: Architecture,
    scale: float,
    training: Mapping[str, Any],
    figures: Mapping[str, Any],
    digests: Mapping[str, str],
) -> Path:
    """Write ``autoencoder.pt`` and ``autoencoder.json``, and return the path of the weights.

    Args:
        folder: output folder.
        autoencoder: autoencoder from :func:`build_autoencoder`.
        architecture: shape of the autoencoder.
        scale: factor of the latents; see :class:`medi_monai.networks.spaces.LatentSpace`.
        training: settings of the training.
        figures: measured quality, such as reconstruction errors.
        digests: digests of the training data.
    """
    weights = Path(folder) / WEIGHTS
    save_tensors(weights, {name: value.cpu() for name, value in autoencoder.state_dict().items()})
    content = {
        "format": 1,
        "architecture": architecture.model_dump(),
        "scale": scale,
        "training": dict(training),
        "figures": dict(figures),
        "digests": {**digests, WEIGHTS: file_digest(weights)},
    }
    write_json(Path(folder) / RECORD, sealed(content))
    return weights


def load_space(folder: str | os.PathLike) -> LatentSpace:
    """Load the latent space of an autoencoder that :func:`save_autoencoder` wrote.

    Args:
        folder: folder of the autoencoder, or a file in it.

    Raises:
        InputError: for missing or damaged files.
    """
    path = Path(folder)
    path = path.parent if path.suffix in (".pt", ".json") else path
    for name in (RECORD, WEIGHTS):
        if not (path / name).is_file():
            raise InputError(
                f"there is no autoencoder in {path}: {name} is missing. Make one with the run `autoencoding`, or give "
                "its folder with --autoencoder"
            )
    record = read_document(path / RECORD, AutoencoderRecord)
    autoencoder = build_autoencoder(record.architecture)
    digests = [record.digests[WEIGHTS]] if WEIGHTS in record.digests else None
    state = check_state(path / WEIGHTS, load_tensors(path / WEIGHTS, digests), autoencoder.state_dict())
    try:
        autoencoder.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path / WEIGHTS} do not fit the autoencoder: {reason}") from error
    return LatentSpace(autoencoder, record.scale, record.architecture.image_channels)


def build_space(image_channels: int = 3, patch_size: int = 1, autoencoder: str | os.PathLike | None = None) -> Space:
    """Return the space that a diffusion network works in.

    Args:
        image_channels: 3, or 1 for grayscale images.
        patch_size: side of the pixel squares that are stacked as channels, without an autoencoder.
        autoencoder: folder of an autoencoder; None for pixel space.

    Raises:
        InputError: for an autoencoder with a different number of image channels; see also :func:`load_space`.
    """
    if autoencoder is None:
        return PixelSpace(image_channels, patch_size)
    space = load_space(autoencoder)
    if space.channels != image_channels:
        raise InputError(
            f"image_channels = {image_channels}: the autoencoder in {autoencoder} is one of images with "
            f"{space.channels}; train one with --image_channels {image_channels}"
        )
    return space
