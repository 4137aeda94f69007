"""Build encoders from a name, a path, or a mapping in a config."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medi_monai.networks.encoders.base import Encoder
from medi_monai.networks.encoders.efficientnet import EfficientNetEncoder
from medi_monai.networks.encoders.embedded import EmbeddedEncoder
from medi_monai.networks.encoders.pretrained import InceptionEncoder, TimmEncoder, TorchScriptEncoder
from medi_monai.networks.encoders.timm_models import TIMM_MODELS
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["ENCODERS", "PACKAGES", "build_encoder"]

#: functions that build encoders, by name; the other entries of a mapping in a config are their arguments
ENCODERS: dict[str, Callable[..., Encoder]] = {
    "embedded": EmbeddedEncoder,
    "efficientnet_lite0": EfficientNetEncoder,
    **{name: partial(TimmEncoder, name) for name in TIMM_MODELS},
    "inception": InceptionEncoder,
}
#: optional package that an encoder needs, if any
PACKAGES = {
    "efficientnet_lite0": "efficientnet_lite_pytorch",
    **dict.fromkeys(TIMM_MODELS, "timm"),
    "inception": "torch_fidelity",
}
#: suffixes of TorchScript files
SCRIPTS = (".pt", ".ts")
TIMM = "timm:"


def build_encoder(
    spec: str | os.PathLike | Mapping[str, Any] | Encoder,
    device: str | torch.device = "cpu",
    more: Mapping[str, Callable[..., Encoder]] | None = None,
) -> Encoder:
    """Build an encoder on a device.

    Args:
        spec: a name in :data:`ENCODERS`; the path of a TorchScript file with the suffix ``.pt`` or ``.ts``; ``timm:``
            followed by a timm model or ``hf-hub:<repository>``; a mapping with one of these as ``name`` and arguments
            of the encoder, such as ``{"name": "uni", "weights": "uni.bin"}``; or an encoder.
        device: device of the encoder.
        more: additional encoders by name, such as the ``clip`` of a text-to-image model.

    Raises:
        InputError: for an unknown name, argument or device, or if the encoder cannot be built.
    """
    target, known = _device(device), {**(more or {}), **ENCODERS}
    if isinstance(spec, Encoder):
        return spec.to(target)
    settings = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    if "name" not in settings:
        raise InputError(f"an encoder needs a name; {settings} has none. Known: {', '.join(known)}")
    name = os.fspath(settings.pop("name"))
    builder = _builder(name, known)
    try:
        inspect.signature(builder).bind(**settings)
    except TypeError as error:
        allowed = [key for key in inspect.signature(builder).parameters if key not in ("model", "path", "settings")]
        wrong = next((key for key in settings if key not in allowed), None)
        if wrong is None:
            raise InputError(f"the encoder {name!r} cannot be built with the settings {settings}: {error}") from error
        raise unknown_value(f"setting of the encoder {name!r}", wrong, allowed) from error
    return builder(**settings).to(target)


def _builder(name: str, known: Mapping[str, Callable[..., Encoder]]) -> Callable[..., Encoder]:
    if name in known:
        return known[name]
    if name.startswith(TIMM):
        return partial(TimmEncoder, name.removeprefix(TIMM))
    if Path(name).suffix in SCRIPTS:
        return partial(TorchScriptEncoder, Path(name))
    remedy = "Or give the path of a TorchScript file (.pt, .ts), or timm:<model>."
    raise unknown_value("encoder", name, known, remedy)


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the device {str(device)!r} cannot be used: {reason}. Use cpu, cuda or cuda:<number>"
        ) from error
    return target
