"""Encoders from pretrained networks: any module, TorchScript, timm (including pathology models), and Inception."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from medi_monai.networks.encoders.base import Encoder
from medi_monai.networks.encoders.timm_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TIMM_MODELS,
    WEIGHT_FILES,
    TimmModel,
)
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest, load_tensors
from medi_monai.utils.optional import require

__all__ = [
    "POOLS",
    "InceptionEncoder",
    "ModuleEncoder",
    "TimmEncoder",
    "TorchScriptEncoder",
    "load_into",
    "load_weights",
]

POOLS = ("cls", "mean", "cls+mean")


class ModuleEncoder(Encoder):
    """Encoder from any module, whose output may be features ``(N, D)``, maps ``(N, D, h, w)`` or tokens ``(N, T, D)``.

    Maps are averaged, and tokens are pooled.

    Args:
        module: module that takes normalized ``(N, 3, image_size, image_size)`` float32 images. It is modified: set to
            evaluation mode and float32, and frozen.
        name: name of the encoder; see :class:`Encoder`.
        image_size: input side in pixels; images are resized with antialiasing.
        mean: channel means of the normalization; by default those of ImageNet.
        std: channel standard deviations of the normalization; by default those of ImageNet.
        interpolation: ``bilinear`` or ``bicubic``.
        pool: pooling of tokens: ``cls`` (the first), ``mean`` (of the patch tokens) or ``cls+mean`` (concatenated).
        num_prefix_tokens: number of class and register tokens before the patch tokens.

    Raises:
        InputError: if the module does not return features for a blank image, with which it is tested and ``dim`` is
            determined.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        image_size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        pool: str | None = None,
        num_prefix_tokens: int = 1,
    ) -> None:
        super().__init__(name, image_size, interpolation, mean, std)
        if pool is not None and pool not in POOLS:
            raise unknown_value("pool of tokens", pool, POOLS)
        self.pool, self.num_prefix_tokens = pool, num_prefix_tokens
        self.module = module.float().eval()
        for parameter in module.parameters():
            # a ScriptModule has no requires_grad_
            parameter.requires_grad = False
        self.dim = self._dry_run(image_size)

    def _dry_run(self, side: int) -> int:
        tensors = chain(self.module.parameters(), self.module.buffers())
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        try:
            return self.to(device)(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)).shape[1]
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise InputError(f"{self.name} cannot encode an image of {side} x {side} pixels: {reason}") from error

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        output = self.module(images)
        if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4) or len(output) != len(images):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise InputError(
                f"{self.name} returns {shape} for {len(images)} images; features (N, D), tokens (N, T, D) or maps "
                "(N, D, h, w) are needed. Wrap it in a module that returns one of them."
            )
        if (output.ndim == 3) != (self.pool is not None):
            raise InputError(
                f"{self.name} returns {tuple(output.shape)} for {len(images)} images, but pool is "
                f"{self.pool!r}: tokens "
                f"(N, T, D) need one of {', '.join(POOLS)}, other outputs none"
            )
        return {2: lambda: output, 3: lambda: self._pooled(output), 4: lambda: output.mean((2, 3))}[output.ndim]()

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        patches = tokens[:, self.num_prefix_tokens :]
        if patches.shape[1] == 0 or self.num_prefix_tokens < 0:
            raise InputError(
                f"{self.name} returns {tokens.shape[1]} tokens, of which {self.num_prefix_tokens} are not patches"
            )
        pooled = {"cls": tokens[:, 0], "mean": patches.mean(1)}
        return torch.cat([pooled[name] for name in str(self.pool).split("+")], 1)

    def describe(self) -> dict[str, Any]:
        """Return the description of :meth:`Encoder.describe`, with the pooling of tokens."""
        return {**super().describe(), "pool": self.pool, "num_prefix_tokens": self.num_prefix_tokens}


class TorchScriptEncoder(ModuleEncoder):
    """Encoder from a scripted or traced module in a file; the digest of its weights is that of the file.

    Args:
        path: file written by ``torch.jit.save``.
        name: name of the encoder; by default the name of the file.
        settings: arguments of :class:`ModuleEncoder`: ``image_size``, ``mean``, ``std``, ``interpolation``, ``pool``.

    Raises:
        InputError: for a file that is missing or not TorchScript; see also :class:`ModuleEncoder`.
    """

    def __init__(self, path: str | os.PathLike, name: str | None = None, **settings: Any) -> None:
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no TorchScript file at {path}")
        try:
            module = torch.jit.load(str(path), map_location="cpu")
        except RuntimeError as error:
            raise InputError(
                f"{path} is not TorchScript; save it with torch.jit.save, or pass an nn.Module to ModuleEncoder"
            ) from error
        # the digest of the state would not do, because it does not contain the constants of a frozen script
        self._file_digest = file_digest(path)
        super().__init__(module, name or _file_name(path.stem), **settings)

    def weights_digest(self) -> str:
        """Return the SHA-256 of the file."""
        return self._file_digest


class TimmEncoder(ModuleEncoder):
    """Encoder from a timm model: one of :data:`TIMM_MODELS`, with its published settings, or any other model.

    For other models, size, interpolation and normalization are those in timm's configuration; the whole image is
    resized, without cropping.

    Args:
        model: a name in :data:`TIMM_MODELS`, ``hf-hub:<repository>`` or a timm architecture.
        weights: weights file (safetensors, or a PyTorch state dictionary), or the folder of a downloaded repository; by
            default the weights are downloaded.
        name: name of the encoder; by default derived from ``model``.
        image_size: input side in pixels, to override that of the model.
        mean: channel means of the normalization, to override those of the model.
        std: channel standard deviations of the normalization, to override those of the model.
        interpolation: interpolation, to override that of the model.
        pool: pooling of tokens; see :class:`ModuleEncoder`. Required for other models that return tokens.
        num_prefix_tokens: number of class and register tokens; see :class:`ModuleEncoder`.
        settings: additional arguments of ``timm.create_model``.

    Raises:
        InputError: if timm is missing, for an unknown model, or for weights that cannot be downloaded or do not match.
    """

    def __init__(
        self,
        model: str,
        weights: str | os.PathLike | None = None,
        name: str | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str | None = None,
        pool: str | None = None,
        num_prefix_tokens: int | None = None,
        **settings: Any,
    ) -> None:
        timm = require("timm", f"for the encoder {model}")
        key, known = _known(model)
        network = _timm_network(timm, model, known, weights, settings)
        recipe = _published(known) if known else _own_settings(timm, network)
        chosen = {
            "image_size": image_size,
            "mean": mean,
            "std": std,
            "interpolation": interpolation,
            "pool": pool,
            "num_prefix_tokens": num_prefix_tokens,
        }
        recipe.update({setting: value for setting, value in chosen.items() if value is not None})
        super().__init__(network, name or key, **recipe)


def _known(model: str) -> tuple[str, TimmModel | None]:
    repository = re.sub(r"^hf[-_]hub:", "", model)
    for key, known in TIMM_MODELS.items():
        if model == key or (repository != model and repository.lower() == known.hub.lower()):
            return key, known
    return _file_name(repository), None


def _published(known: TimmModel) -> dict[str, Any]:
    names = ("mean", "std", "interpolation", "pool", "num_prefix_tokens")
    return {"image_size": known.settings["img_size"], **{name: getattr(known, name) for name in names}}


def _own_settings(timm: ModuleType, network: nn.Module) -> dict[str, Any]:
    config = timm.data.resolve_model_data_config(network)
    names = ("mean", "std", "interpolation")
    prefix = {"num_prefix_tokens": network.num_prefix_tokens} if hasattr(network, "num_prefix_tokens") else {}
    return {"image_size": config["input_size"][-1], **{name: config[name] for name in names}, **prefix}


def _timm_network(
    timm: ModuleType, model: str, known: TimmModel | None, weights: str | os.PathLike | None, settings: dict[str, Any]
) -> nn.Module:
    on_hub = known is not None or re.match(r"hf[-_]hub:", model) is not None
    if not on_hub and not timm.is_model(model.partition(".")[0]):
        raise unknown_value("timm model", model, [*TIMM_MODELS, *timm.list_models()])
    source = model if known is None else f"hf-hub:{known.hub}" if weights is None else known.architecture
    settings = {"num_classes": 0, **(known.settings if known else {}), **settings}
    if known is not None and known.gated:
        settings = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU, **settings}
    state = None if weights is None else load_weights(weights)
    try:
        network = timm.create_model(source, pretrained=state is None, **settings)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"timm cannot create {source} ({type(error).__name__}: {reason}). If its weights cannot be downloaded "
            "(no network, or no access: `hf auth login` after its license is accepted), download them "
            "elsewhere and give "
            "their file or folder as `weights`"
        ) from error
    if state is not None:
        load_into(network, state, f"{weights} does not hold the weights of {model}")
    return network


def load_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Load the tensors of a weights file or of a downloaded folder, without running any code in the file.

    Args:
        path: safetensors file, PyTorch file with a state dictionary or a training checkpoint, or folder.

    Raises:
        InputError: if there is no file, it cannot be read, or it contains no weights.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not files:
            raise InputError(f"there is no {' or '.join(WEIGHT_FILES)} in {path}")
        path = files[0]
    if not path.is_file():
        raise InputError(f"no weights found at {path}")
    if path.suffix == ".safetensors":
        require("safetensors", f"to read {path}")
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path} is not a readable weights file ({error})") from error
    state: Any = load_tensors(path)
    while isinstance(state, Mapping) and not any(isinstance(value, torch.Tensor) for value in state.values()):
        inner = [state[key] for key in ("average", "state_dict", "model") if key in state]
        if not inner:
            raise InputError(f"{path} holds no weights")
        state = inner[0]
    return dict(state)


def load_into(network: nn.Module, state: dict[str, torch.Tensor], complaint: str) -> None:
    """Load a state into a network.

    Args:
        network: network to change.
        state: tensors by name.
        complaint: start of the error message.

    Raises:
        InputError: if tensors are missing, unknown, or of another shape.
    """
    expected = network.state_dict()
    lacking, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    other = [name for name in expected.keys() & state.keys() if state[name].shape != expected[name].shape]
    if lacking or unknown or other:
        example = sorted([*lacking, *other, *unknown])[0]
        raise InputError(
            f"{complaint}: of {len(expected)} tensors, {len(lacking)} are missing and {len(other)} have another "
            f"shape, and {len(unknown)} are unknown (such as {example})"
        )
    network.load_state_dict(state)


class InceptionEncoder(Encoder):
    """Encoder with the 2,048 features of the classic FID: torch-fidelity's port of the TensorFlow graph of 2015.

    The network itself resizes images to 299 x 299 by bilinear interpolation without antialiasing, as in TensorFlow 1,
    and normalizes them by ``(x - 128) / 128``.

    Args:
        weights: path of torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``; by default downloaded.

    Raises:
        InputError: if torch-fidelity is missing, or for weights that cannot be downloaded or do not match.
    """

    antialias = False

    def __init__(self, weights: str | os.PathLike | None = None) -> None:
        super().__init__("inception", None, "bilinear", (128 / 255,) * 3, (128 / 255,) * 3)
        fidelity = require("torch_fidelity", "for the Inception features of the classic FID")
        if weights is not None:
            # check that the file is a plain state dictionary before it is passed to the package's loader
            load_tensors(weights)
        path = None if weights is None else os.fspath(weights)
        try:
            network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], path)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the Inception weights {path or 'cannot be downloaded and'} cannot be loaded ({reason}); give "
                "the path of "
                "torch-fidelity's weights-inception-2015-12-05-6726825d.pth as `weights`"
            ) from error
        self.module = network.eval().requires_grad_(False)
        self.dim = 2048

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images unchanged, because the network resizes and normalizes them."""
        return images

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(images)[0]

    def describe(self) -> dict[str, Any]:
        """Return the description of :meth:`Encoder.describe`, with the size to which the network itself resizes."""
        return {**super().describe(), "image_size": 299}


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_") or "encoder"
