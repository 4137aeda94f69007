"""Encoder of the evaluation of an alignment, which should not have taken part in the tuning."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from medi_monai.networks import build_encoder
from medi_monai.networks.encoders import EfficientNetEncoder, EmbeddedEncoder, Encoder, same_encoder
from medi_monai.utils.files import read_json

__all__ = ["INDEPENDENT", "REGULARIZER", "check_encoder", "evaluation_encoder"]

#: value of `encoder` for the first encoder that needs no download and is not that of the consistency loss
INDEPENDENT = "independent"
#: key of the consistency loss's encoder in ``alignment.json``; its value is None if the loss has no encoder
REGULARIZER = "consistency_encoder"


def evaluation_encoder(
    spec: Any,
    alignment: str | os.PathLike | None,
    image_size: int,
    device: str | torch.device = "cpu",
    more: Mapping[str, Callable[..., Encoder]] | None = None,
) -> Encoder:
    """Return the encoder of distances, diversity and consistency.

    Args:
        spec: ``independent``: ``embedded`` or, if that one regularized the tuning, ``efficientnet_lite0`` if it is
            installed; or an encoder, as for :func:`medi_monai.networks.encoders.build_encoder`.
        alignment: ``alignment.json`` of the tuning, or its folder; None if there is none.
        image_size: side of the images in pixels.
        device: device of the encoder.
        more: further encoders by name.
    """
    if spec != INDEPENDENT:
        return build_encoder(spec, device, more)
    recorded = _recorded(alignment)
    candidates = list(_candidates(image_size))
    chosen = next((encoder for encoder in candidates if not same_encoder(encoder.describe(), recorded)), candidates[0])
    return chosen.to(device)


def check_encoder(spec: Any, more: tuple[str, ...] = ()) -> None:
    """Build an encoder, to raise its errors early; names in ``more`` are not built."""
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    if name not in (INDEPENDENT, *more):
        build_encoder(spec)


def _candidates(image_size: int) -> Iterator[Encoder]:
    yield EmbeddedEncoder()
    if EfficientNetEncoder.is_installed():
        # without the last layer, whose 1,280 features are too many for the covariance of a few hundred images
        yield EfficientNetEncoder(EfficientNetEncoder.size_for(image_size), head=False)


def _recorded(alignment: str | os.PathLike | None) -> Mapping[str, Any] | None:
    if alignment is None:
        return None
    path = Path(alignment) / "alignment.json" if Path(alignment).is_dir() else Path(alignment)
    # a record that is missing or damaged is refused with the other inputs
    content = read_json(path) if path.is_file() else {}
    return content.get(REGULARIZER) if isinstance(content, dict) else None
