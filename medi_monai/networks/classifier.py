"""Classifiers of attributes in images: the guide of an alignment, the validation classifier and the judge.

All of them take images ``(N, 3, H, W)`` in [-1, 1] of any size and return logits by attribute; gradients flow to the
images. Classifiers used in an alignment are frozen: permanently in evaluation mode, without gradients of the weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from medi_monai.schema import CategoricalColumn
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import check_state, file_digest, load_tensors, save_tensors, tensors_digest, write_json
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.records import Document, read_document, sealed

__all__ = ["AttributeClassifier", "SubgroupClassifier", "images_at", "load_classifier", "save_classifier"]

WEIGHTS, RECORD = "classifier.pt", "classifier.json"
#: number of images resized at once
BLOCK = 1024

Self = TypeVar("Self", bound="AttributeClassifier")


class AttributeClassifier(nn.Module):
    """Base class of classifiers, including custom ones: images in [-1, 1] to logits by attribute.

    Args:
        attributes: values of each attribute; the code of a value is its index.
        image_size: side in pixels to which images are resized, with antialiasing; None for no resizing.

    Attributes:
        held_out: for each attribute, performance on images of held-out patients (confusion matrix, accuracies); empty
            if not measured.

    Raises:
        InputError: without attributes, for an attribute with fewer than two values, or for a size below 8.
    """

    def __init__(self, attributes: Mapping[str, Sequence[str]], image_size: int | None) -> None:
        super().__init__()
        if not attributes:
            raise InputError("a classifier needs an attribute and its values, such as {'sex': ['female', 'male']}")
        self.columns = {str(name): CategoricalColumn(str(name), tuple(values)) for name, values in attributes.items()}
        for name, column in self.columns.items():
            if len(column.values) < 2:
                raise InputError(
                    f"the attribute {name!r} has the values {list(column.values)}: a classifier needs at least two"
                )
        if image_size is not None and (not isinstance(image_size, int) or image_size < 8):
            raise InputError(f"image_size {image_size!r} of the classifier: it has to be 8 or more")
        self.image_size = image_size
        self.held_out: dict[str, Any] = {}
        self._frozen = False

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """Values of each attribute, in the order of their logits."""
        return {name: column.values for name, column in self.columns.items()}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``(N, sum of G)`` logits of ``(N, 3, image_size, image_size)`` images, attributes concatenated."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``(N, G)`` logits of every attribute.

        Args:
            images: ``(N, 3, H, W)`` floats in [-1, 1]; square if the classifier resizes them.

        Raises:
            InputError: for images of the wrong type or shape.
        """
        sizes = [len(values) for values in self.attributes.values()]
        return dict(zip(self.columns, self.logits(self.resized(images)).split(sizes, dim=1)))

    def log_probabilities(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``(N, G)`` log-probabilities of every attribute."""
        return {name: logits.log_softmax(1) for name, logits in self(images).items()}

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor, batch_size: int = 256) -> dict[str, torch.Tensor]:
        """Return ``(N, G)`` probabilities of every attribute on the CPU, computed in evaluation mode.

        Args:
            images: ``(N, 3, H, W)`` uint8, or floats in [-1, 1].
            batch_size: number of images classified at once.
        """
        device = next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))
        was_training = self.training
        self.eval()
        predicted = []
        for batch in images.split(batch_size):
            if batch.dtype == torch.uint8:
                # resized to the classifier's size in the same way as in training
                batch = batch if self.image_size is None else images_at(batch, self.image_size)
                batch = from_uint8(batch.to(device))
            predicted.append(
                {name: logs.exp().cpu() for name, logs in self.log_probabilities(batch.to(device)).items()}
            )
        self.train(was_training)
        empty = {name: torch.zeros(0, len(values)) for name, values in self.attributes.items()}
        return {name: torch.cat([none, *(batch[name] for batch in predicted)]) for name, none in empty.items()}

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        """Check images, and resize them differentiably to the size of the classifier.

        Raises:
            InputError: for images of the wrong type or shape.
        """
        if not isinstance(images, torch.Tensor) or not images.is_floating_point():
            kind = getattr(images, "dtype", type(images).__name__)
            raise InputError(
                f"the classifier takes float images in [-1, 1], not {kind}; for uint8, divide by 127.5 and subtract 1"
            )
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise InputError(f"the classifier takes images (N, 3, H, W), not {tuple(images.shape)}")
        if self.image_size is None or tuple(images.shape[2:]) == (self.image_size,) * 2:
            return images
        if images.shape[2] != images.shape[3]:
            raise InputError(
                f"the classifier takes square images, not images of {images.shape[3]} x {images.shape[2]} pixels"
            )
        return functional.interpolate(images, (self.image_size,) * 2, mode="bilinear", antialias=True)

    def column(self, attribute: str) -> CategoricalColumn:
        """Return the vocabulary of an attribute.

        Raises:
            InputError: for an unknown attribute; the message lists the known ones.
        """
        if attribute not in self.columns:
            remedy = "Train a classifier for it, or align another attribute."
            raise unknown_value("attribute of the classifier", attribute, self.columns, remedy)
        return self.columns[attribute]

    def freeze(self: Self) -> Self:
        """Fix evaluation mode and disable gradients of the weights; gradients of the images still flow."""
        self._frozen = True
        return self.requires_grad_(False).eval()

    def train(self: Self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen classifier stays in evaluation mode."""
        return super().train(mode and not self._frozen)

    def describe(self) -> dict[str, Any]:
        """Return what determines predictions, JSON-compatible: architecture, attributes and SHA-256 of the weights."""
        return {
            "kind": type(self).__name__,
            "image_size": self.image_size,
            "attributes": {name: list(values) for name, values in self.attributes.items()},
            "weights_sha256": tensors_digest(self.state_dict()),
        }


class SubgroupClassifier(AttributeClassifier):
    """A small CNN: a stem, three stages that halve the image, global mean pooling, and one linear layer.

    With group normalization, predictions do not depend on the batch and are the same in training and evaluation.

    Args:
        attributes: values of each attribute; see :class:`AttributeClassifier`.
        image_size: side in pixels to which images are resized; from 64 on, the stem also halves the image.
        width: channels of the stem, a multiple of 8; the stages have 2, 4 and 8 times as many.
        depth: number of convolutions per stage.
        residual: whether stages are residual units; classifiers that should make different errors differ in this, in
            width and in seed.
    """

    def __init__(
        self,
        attributes: Mapping[str, Sequence[str]],
        image_size: int = 32,
        width: int = 16,
        depth: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__(attributes, image_size)
        if width < 8 or width % 8 or depth < 1:
            raise InputError(f"width {width} has to be a multiple of 8, and depth {depth} 1 or more")
        self.architecture = {"image_size": image_size, "width": width, "depth": depth, "residual": residual}
        stages = [_convolution(3, width, 1 if image_size < 64 else 2)]
        for channels in (width, 2 * width, 4 * width):
            stages += _stage(channels, 2 * channels, depth, residual)
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(8 * width, sum(map(len, self.attributes.values())))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).mean((2, 3)))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **self.architecture}


def images_at(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """Return ``(N, 3, image_size, image_size)`` uint8 images, resized with antialiasing if necessary."""
    if tuple(images.shape[2:]) == (image_size,) * 2:
        return images
    blocks = [
        functional.interpolate(block.float(), (image_size,) * 2, mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        for block in images.split(BLOCK)
    ]
    return torch.cat(blocks).to(torch.uint8)


def save_classifier(
    folder: str | os.PathLike,
    classifier: SubgroupClassifier,
    training: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
) -> Path:
    """Write ``classifier.pt`` (weights) and ``classifier.json`` (everything else); return the path of the weights.

    Args:
        folder: output folder.
        classifier: classifier to save, including its ``held_out`` performance.
        training: settings of the training.
        digests: digests of the training data.
    """
    weights = Path(folder) / WEIGHTS
    save_tensors(weights, {name: value.cpu() for name, value in classifier.state_dict().items()})
    content = {
        "format": 1,
        "architecture": classifier.architecture,
        "attributes": classifier.attributes,
        "held_out": classifier.held_out,
        "training": dict(training or {}),
        "digests": {**(digests or {}), WEIGHTS: file_digest(weights)},
    }
    write_json(Path(folder) / RECORD, sealed(content))
    return weights


def load_classifier(
    spec: str | os.PathLike | AttributeClassifier, device: str | torch.device = "cpu"
) -> AttributeClassifier:
    """Load a classifier and freeze it.

    Args:
        spec: folder written by :func:`save_classifier`, or a file in it; or a classifier, such as an instance of a
            custom subclass of :class:`AttributeClassifier`.
        device: device of the classifier.

    Raises:
        InputError: for missing files, weights that do not match, or anything that is not a classifier.
    """
    if isinstance(spec, AttributeClassifier):
        return spec.freeze().to(device)
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(f"a classifier must be the folder of a trained one or an AttributeClassifier, not {spec!r}")
    path = Path(spec)
    # a path with a suffix is that of the record or of the weights, otherwise that of their folder
    return _from_folder(path.parent if path.suffix else path).to(device)


def _from_folder(folder: Path) -> SubgroupClassifier:
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"there is no classifier in {folder}: {name} is missing. Train one, or give its folder")
    record = read_document(folder / RECORD, ClassifierRecord)
    classifier = SubgroupClassifier(record.attributes, **record.architecture.model_dump())
    classifier.held_out = dict(record.held_out)
    # earlier versions recorded no digest
    digests = [record.digests[WEIGHTS]] if WEIGHTS in record.digests else None
    _load_state(classifier, load_tensors(folder / WEIGHTS, digests), folder / WEIGHTS)
    return classifier.freeze()


class Architecture(BaseModel):
    """Arguments of :class:`SubgroupClassifier`; the bounds prevent a damaged record from using all memory."""

    model_config = Document.model_config
    image_size: int = Field(ge=8, le=8192)
    width: int = Field(ge=8, le=1024)
    depth: int = Field(ge=1, le=64)
    residual: bool


class ClassifierRecord(Document):
    """``classifier.json``."""

    TITLE = "the record of a classifier"
    architecture: Architecture
    attributes: dict[str, list[str]]
    held_out: dict[str, Any]
    training: dict[str, Any]
    digests: dict[str, str]
    digest: str | None = None


def _load_state(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    try:
        module.load_state_dict(check_state(path, state, module.state_dict()))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path} do not fit the classifier: {reason}") from error


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    # groups of 8 channels, so that each has enough values even for small feature maps
    norm = ("group", {"num_groups": out_channels // 8})
    return Convolution(2, in_channels, out_channels, stride, act="gelu", norm=norm)


def _stage(in_channels: int, out_channels: int, depth: int, residual: bool) -> list[nn.Module]:
    if residual:
        norm = ("group", {"num_groups": out_channels // 8})
        return [ResidualUnit(2, in_channels, out_channels, 2, subunits=depth, act="gelu", norm=norm)]
    further = [_convolution(out_channels, out_channels, 1) for _ in range(depth - 1)]
    return [_convolution(in_channels, out_channels, 2), *further]
