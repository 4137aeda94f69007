"""Training data of a classifier: images with a table, balanced batches, and a loss that ignores missing values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from monai.engines import PrepareBatch
from torch import nn
from torch.nn import functional

from medi_monai.cohort import BalancedBatchSampler
from medi_monai.engines.classifiers.augment import Hardening, harden
from medi_monai.networks.classifier import AttributeClassifier, images_at
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.seeding import generator_from, seed_from

__all__ = [
    "ClassifierBatches",
    "ClassifierPrepareBatch",
    "ClassifierSettings",
    "Labeled",
    "LabeledImages",
    "MaskedCrossEntropy",
    "label_codes",
]


class Labeled(Protocol):
    """Images with a table: :class:`LabeledImages`, or a :class:`medi_monai.cohort.PatchDataset`."""

    images: torch.Tensor
    table: pd.DataFrame


@dataclass
class LabeledImages:
    """Images and their attributes.

    Args:
        images: ``(N, 3, H, H)`` uint8.
        table: one row per image with the attributes; an empty cell is unknown. Without a column ``patient``, each
            image counts as a separate patient.

    Raises:
        InputError: for the wrong type or shape of images, or a different number of rows.
    """

    images: torch.Tensor
    table: pd.DataFrame

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise InputError(f"labeled images are (N, 3, H, H) uint8, not {shape} {self.images.dtype}")
        if len(self.table) != shape[0]:
            raise InputError(f"{shape[0]} images do not match {len(self.table)} rows: give a row per image")


@dataclass(frozen=True)
class ClassifierSettings:
    """Settings of a classifier and its training.

    Args:
        image_size, width, depth, residual: as for :class:`medi_monai.networks.classifier.SubgroupClassifier`.
        max_steps: number of updates.
        batch_size: images per update, divided evenly among the attributes and balanced by value within each. The
            predicted probabilities therefore assume equal prior odds, whatever the frequencies in the training data.
        learning_rate: peak learning rate, reached after 5% of the steps; it then decays to zero along a cosine.
        weight_decay: weight decay of AdamW.
        label_smoothing: label smoothing, in [0, 1).
        generated_share: fraction of generated images in a batch, if there are any; in [0, 1).
        hardening: augmentation.
        seed: random seed of weights, batches and augmentation.
        val_interval: steps between evaluations on held-out images, for TensorBoard.

    Raises:
        InputError: for a number out of range.
    """

    image_size: int = 32
    width: int = 16
    depth: int = 1
    residual: bool = False
    max_steps: int = 600
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    generated_share: float = 0.25
    hardening: Hardening = field(default_factory=Hardening)
    seed: int = 0
    val_interval: int = 200

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "val_interval"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} of a classifier: it has to be 1 or more")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise InputError(
                f"learning_rate = {self.learning_rate} has to be above 0, weight_decay = {self.weight_decay} 0 or more"
            )
        for name in ("label_smoothing", "generated_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} of a classifier: it has to lie in [0, 1)")


def label_codes(
    classifier: AttributeClassifier, table: pd.DataFrame, attributes: Sequence[str] | None = None
) -> torch.Tensor:
    """Return ``(N, A)`` codes of a classifier's attributes for the rows of a table; -1 for missing data.

    Args:
        classifier: classifier, which defines the values.
        table: table with a column for each attribute.
        attributes: attributes of the classifier to encode; all by default.

    Raises:
        InputError: for a missing column, or a value that the classifier does not have.
    """
    columns = [classifier.column(name) for name in (classifier.columns if attributes is None else attributes)]
    codes = torch.empty(len(table), len(columns), dtype=torch.int64)
    for index, column in enumerate(columns):
        name = column.name
        if name not in table.columns:
            raise unknown_value("attribute", name, table.columns, "It has to be a column of the table.")
        groups, values = pd.factorize(table[name])
        # factorize returns -1 for missing cells, which indexes the last entry of the list
        known = np.array([*(column.encode(value) for value in values), -1])
        codes[:, index] = torch.from_numpy(known[groups].astype(np.int64))
    return codes


class ClassifierBatches:
    """Batches that depend on ``(seed, step)``, with a share for each source and attribute, balanced by value.

    Args:
        sources: real images, and generated ones if there are any.
        classifier: classifier, which defines attributes and values.
        settings: image size, batch size, share of generated images, and seed.
    """

    def __init__(
        self, sources: Sequence[Labeled], classifier: AttributeClassifier, settings: ClassifierSettings
    ) -> None:
        self.num_steps, self.sizes = settings.max_steps, [len(values) for values in classifier.attributes.values()]
        self.images = torch.cat([images_at(source.images, settings.image_size) for source in sources])
        self.codes = torch.cat([label_codes(classifier, source.table) for source in sources])
        #: expected number of occurrences of each row in a batch
        self.expected = torch.zeros(len(self.codes), dtype=torch.float64)
        self._samplers: list[tuple[torch.Tensor, BalancedBatchSampler]] = []
        share = settings.generated_share if len(sources) > 1 else 0.0
        counts = [settings.batch_size - round(share * settings.batch_size), round(share * settings.batch_size)]
        start = 0
        for number, source in enumerate(sources):
            rows = torch.arange(start, start + len(source.table))
            self._add(rows, counts[number], (settings.seed, number), list(classifier.columns))
            start += len(rows)

    def _add(self, rows: torch.Tensor, count: int, seed: tuple[int, int], names: list[str]) -> None:
        known = {index: rows[self.codes[rows, index] >= 0] for index in range(len(names))}
        used = [index for index, members in known.items() if len(members)]
        for number, index in enumerate(used):
            size = (count + number) // len(used)
            if size < 1:
                raise InputError(f"a batch with {count} images of one source is too small for {len(used)} attributes")
            groups = self.codes[known[index], index]
            values, group, members = groups.unique(return_inverse=True, return_counts=True)
            if len(values) < 2:
                # otherwise, the classifier could learn to tell real from generated images instead of the attribute
                kind = "generated" if seed[1] else "training"
                raise InputError(
                    f"all of the {len(groups)} {kind} images with a known {names[index]!r} have the same value: "
                    "give images of at least two values, or remove the attribute"
                )
            self.expected[known[index]] += size / (len(values) * members[group])
            seed_of_attribute = seed_from("classifier", *seed, names[index])
            self._samplers.append(
                (known[index], BalancedBatchSampler(groups.numpy(), size, self.num_steps, seed_of_attribute))
            )

    def class_weights(self) -> list[torch.Tensor]:
        """Return ``(G,)`` class weights of each attribute, which compensate for images drawn to balance others."""
        weights = []
        for index, size in enumerate(self.sizes):
            known = self.codes[:, index] >= 0
            drawn = torch.zeros(size, dtype=torch.float64)
            drawn.index_add_(0, self.codes[known, index], self.expected[known])
            weights.append(torch.where(drawn > 0, drawn.sum() / (size * drawn), torch.ones(())).float())
        return weights

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step in range(1, self.num_steps + 1):
            rows = torch.cat([rows[sampler.batch(step)] for rows, sampler in self._samplers])
            yield {"image": self.images[rows], "targets": self.codes[rows]}


class ClassifierPrepareBatch(PrepareBatch):
    """Augments a batch, and returns float images and codes. Draws depend only on ``(seed, step)``.

    Args:
        hardening: augmentation.
        seed: random seed of the augmentation.
    """

    def __init__(self, hardening: Hardening, seed: int = 0) -> None:
        self.hardening, self.seed = hardening, seed

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        step: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Return ``(N, 3, H, H)`` images in [-1, 1] and ``(N, A)`` codes."""
        images = from_uint8(batchdata["image"].to(device, non_blocking=non_blocking))
        images = harden(images, self.hardening, generator_from("hardening", self.seed, step))
        return images, batchdata["targets"].to(images.device), (), {}


class MaskedCrossEntropy(nn.Module):
    """Cross-entropy over the rows in which an attribute is known, averaged over attributes.

    Args:
        weights: ``(G,)`` class weights of each attribute.
        label_smoothing: label smoothing, in [0, 1).
    """

    def __init__(self, weights: Sequence[torch.Tensor], label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(weight, requires_grad=False) for weight in weights])
        self.label_smoothing = label_smoothing

    def forward(self, logits: Mapping[str, torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
        """Return the loss of ``(N, G)`` logits by attribute and ``(N, A)`` codes, -1 if unknown."""
        losses = [
            functional.cross_entropy(scores, target, weight, ignore_index=-1, label_smoothing=self.label_smoothing)
            for scores, target, weight in zip(logits.values(), codes.unbind(1), self.weights)
            if (target >= 0).any()
        ]
        return torch.stack(losses).mean()
