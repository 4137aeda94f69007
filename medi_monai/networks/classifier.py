"""Classifiers of attributes in images: the guide of an alignment, the validation classifier and the judge.

All of them take images ``(N, 3, H, W)`` in [-1, 1], of any size, and give logits by attribute; gradients flow to the
images. What is used for an alignment is frozen: in evaluation mode for ever, and without gradients of its own weights.
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
#: images that are resized at a time
BLOCK = 1024

Self = TypeVar("Self", bound="AttributeClassifier")


class AttributeClassifier(nn.Module):
    """Images in [-1, 1] in, logits by attribute out: the base of all classifiers, and of one of your own.

    Args:
        attributes: name to values; the code of a value is its place.
        image_size: side in pixels that images are resized to, with antialiasing; None takes them as they are.

    Attributes:
        held_out: by attribute, what the classifier does on images of other patients (confusion, accuracies); empty
            where nobody measured it.

    Raises:
        InputError: for no attribute, an attribute with fewer than two values, or a size below 8.
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
        """Name to values, in the order of their logits."""
        return {name: column.values for name, column in self.columns.items()}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, sum of G)`` of ``(N, 3, image_size, image_size)``, the attributes side by side in their order."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits ``(N, G)`` of every attribute.

        Args:
            images: ``(N, 3, H, W)`` floats in [-1, 1]; square where the classifier resizes.

        Raises:
            InputError: for images of another type or shape.
        """
        sizes = [len(values) for values in self.attributes.values()]
        return dict(zip(self.columns, self.logits(self.resized(images)).split(sizes, dim=1)))

    def log_probabilities(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logarithms of the probabilities, ``(N, G)`` of every attribute."""
        return {name: logits.log_softmax(1) for name, logits in self(images).items()}

    @torch.no_grad()
    def probabilities(self, images: torch.Tensor, batch_size: int = 256) -> dict[str, torch.Tensor]:
        """Probabilities ``(N, G)`` of every attribute in evaluation mode, on the CPU.

        Args:
            images: ``(N, 3, H, W)`` uint8, or floats in [-1, 1].
            batch_size: images at a time.
        """
        device = next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))
        was_training = self.training
        self.eval()
        predicted = []
        for batch in images.split(batch_size):
            if batch.dtype == torch.uint8:
                # at the size of the training, by the same way
                batch = batch if self.image_size is None else images_at(batch, self.image_size)
                batch = from_uint8(batch.to(device))
            predicted.append(
                {name: logs.exp().cpu() for name, logs in self.log_probabilities(batch.to(device)).items()}
            )
        self.train(was_training)
        empty = {name: torch.zeros(0, len(values)) for name, values in self.attributes.items()}
        return {name: torch.cat([none, *(batch[name] for batch in predicted)]) for name, none in empty.items()}

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        """Images at the size of the classifier; differentiable."""
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
        """The vocabulary of one attribute, or an :class:`InputError` that names those there are."""
        if attribute not in self.columns:
            remedy = "Train a classifier for it, or align another attribute."
            raise unknown_value("attribute of the classifier", attribute, self.columns, remedy)
        return self.columns[attribute]

    def freeze(self: Self) -> Self:
        """Evaluation mode for ever and no gradients of the weights; those of the images flow."""
        self._frozen = True
        return self.requires_grad_(False).eval()

    def train(self: Self, mode: bool = True) -> Self:
        """As of a module, but a frozen classifier stays in evaluation mode."""
        return super().train(mode and not self._frozen)

    def describe(self) -> dict[str, Any]:
        """What decides its answers, as JSON: architecture, attributes and the SHA-256 of the weights."""
        return {
            "kind": type(self).__name__,
            "image_size": self.image_size,
            "attributes": {name: list(values) for name, values in self.attributes.items()},
            "weights_sha256": tensors_digest(self.state_dict()),
        }


class SubgroupClassifier(AttributeClassifier):
    """A small CNN: a stem, three stages that halve the image, global mean pooling, one linear layer.

    Group norm: an image is read alike alone and in any batch, in training and afterwards.

    Args:
        attributes: as for :class:`AttributeClassifier`.
        image_size: images are resized to it; from 64 on, the stem halves as well.
        width: channels of the stem, a multiple of 8; the stages have 2, 4 and 8 times as many.
        depth: convolutions of a stage.
        residual: stages are residual units; classifiers that should not share their mistakes differ in it, in width
            and in seed.
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
    """``(N, 3, image_size, image_size)`` uint8, resized with antialiasing where they have another size."""
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
    """Write ``classifier.pt`` (weights) and ``classifier.json`` (all else); returns the path of the weights.

    Args:
        folder: where to.
        classifier: its ``held_out`` is written as well.
        training: settings of the training.
        digests: of what it was trained on.
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
    """A frozen classifier.

    Args:
        spec: the folder of :func:`save_classifier`, or a file in it; or a classifier, such as one of your own that
            derives from :class:`AttributeClassifier`.
        device: where it is to run.

    Raises:
        InputError: for what is not there, does not fit, or is no classifier.
    """
    if isinstance(spec, AttributeClassifier):
        return spec.freeze().to(device)
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(f"a classifier has to be the folder of its training or an AttributeClassifier, not {spec!r}")
    path = Path(spec)
    # the record or the weights are given, or their folder, which may not be there
    return _from_folder(path.parent if path.suffix else path).to(device)


def _from_folder(folder: Path) -> SubgroupClassifier:
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"there is no classifier in {folder}: {name} is missing. Train one, or give its folder")
    record = read_document(folder / RECORD, ClassifierRecord)
    classifier = SubgroupClassifier(record.attributes, **record.architecture.model_dump())
    classifier.held_out = dict(record.held_out)
    # the digest is that of the file, or of an earlier version without one
    digests = [record.digests[WEIGHTS]] if WEIGHTS in record.digests else None
    _load_state(classifier, load_tensors(folder / WEIGHTS, digests), folder / WEIGHTS)
    return classifier.freeze()


class Architecture(BaseModel):
    """Arguments of :class:`SubgroupClassifier` in its record; the bounds keep a damaged one from taking all memory."""

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
    # channels of a group: 8, so that a group sees enough values where the maps are small
    norm = ("group", {"num_groups": out_channels // 8})
    return Convolution(2, in_channels, out_channels, stride, act="gelu", norm=norm)


def _stage(in_channels: int, out_channels: int, depth: int, residual: bool) -> list[nn.Module]:
    if residual:
        norm = ("group", {"num_groups": out_channels // 8})
        return [ResidualUnit(2, in_channels, out_channels, 2, subunits=depth, act="gelu", norm=norm)]
    further = [_convolution(out_channels, out_channels, 1) for _ in range(depth - 1)]
    return [_convolution(in_channels, out_channels, 2), *further]
