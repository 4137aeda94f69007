"""The base of all classifiers of attributes: images in [-1, 1] in, logits by attribute out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from medi_monai.schema import CategoricalColumn
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import tensors_digest

__all__ = ["AttributeClassifier"]

Self = TypeVar("Self", bound="AttributeClassifier")


class AttributeClassifier(nn.Module):
    """Base of the classifiers: images in [-1, 1] in, logits by attribute out.

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
            raise InputError("a classifier needs an attribute with its values, as {'sex': ['female', 'male']}")
        self.columns = {str(name): CategoricalColumn(str(name), tuple(values)) for name, values in attributes.items()}
        for name, column in self.columns.items():
            if len(column.values) < 2:
                raise InputError(
                    f"the attribute {name!r} has the values {list(column.values)}: a classifier needs two or more"
                )
        if image_size is not None and (not isinstance(image_size, int) or image_size < 8):
            raise InputError(f"image_size {image_size!r} of the classifier: 8 pixels or more are needed")
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

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        """Images at the size of the classifier; differentiable."""
        if not isinstance(images, torch.Tensor) or not images.is_floating_point():
            given = getattr(images, "dtype", type(images).__name__)
            raise InputError(
                f"the classifier takes float images in [-1, 1], not {given}; divide uint8 by 127.5, less 1"
            )
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise InputError(f"the classifier takes images (N, 3, H, W), not of the shape {tuple(images.shape)}")
        if self.image_size is None or tuple(images.shape[2:]) == (self.image_size,) * 2:
            return images
        if images.shape[2] != images.shape[3]:
            raise InputError(f"the classifier takes square images, not of {images.shape[3]} x {images.shape[2]} pixels")
        return functional.interpolate(images, (self.image_size,) * 2, mode="bilinear", antialias=True)

    def column(self, attribute: str) -> CategoricalColumn:
        """The vocabulary of one attribute, or an :class:`InputError` that names those there are."""
        if attribute not in self.columns:
            remedy = "Train a classifier that reads it, or align another attribute."
            raise unknown_value("attribute of the classifier", attribute, self.columns, remedy)
        return self.columns[attribute]

    def freeze(self: Self) -> Self:
        """Evaluation mode for ever and no gradients of the weights; those of the images flow."""
        self._frozen = True
        for parameter in self.parameters():
            # a script has no requires_grad_
            parameter.requires_grad = False
        return self.eval()

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
