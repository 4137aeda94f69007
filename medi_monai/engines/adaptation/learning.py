"""Learn the embedding of a new value, with all weights of the model frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from monai.inferers import Inferer
from torch import nn

from medi_monai.cohort import Cohort, PatchDataset
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.prepare_batch import DiffusionPrepareBatch
from medi_monai.engines.schedules import WarmupTimesCosine
from medi_monai.engines.settings import AdaptationSettings
from medi_monai.schema import NULL, AddedValue, CategoricalColumn, ExtendedSchema, MetadataSchema
from medi_monai.utils.errors import RunStopped
from medi_monai.utils.progress import progress
from medi_monai.utils.seeding import generator_from

__all__ = ["LearnedEmbedding", "PartialSchema", "learn_embedding"]

#: maximum number of known values whose embeddings are tried as the start
MAX_CANDIDATES = 32
#: draws of noise and timestep per patch when embeddings are compared
NUM_DRAWS = 4
#: patches per step
BATCH_SIZE = 40
#: fraction of the steps in which the learning rate rises
WARMUP = 0.1


@dataclass(frozen=True)
class LearnedEmbedding:
    """A learned embedding.

    Args:
        embedding: ``(D + d_t,)`` embedding, as in :class:`medi_monai.networks.learned_values.LearnedValue`.
        loss: diffusion loss of the patches with this embedding, averaged over noise and timesteps.
        nearest: known value with the smallest loss.
        known_losses: loss with each known value that was tried, for the same noise and timesteps.
        mean_loss: loss with the mean of all known embeddings.
    """

    embedding: torch.Tensor
    loss: float
    nearest: str
    known_losses: Mapping[str, float]
    mean_loss: float


def learn_embedding(
    network: nn.Module,
    schema: MetadataSchema,
    column: CategoricalColumn,
    value: str,
    patches: Cohort,
    generator: ImageGenerator,
    inferer: Inferer,
    settings: AdaptationSettings,
    train_config: Mapping[str, Any],
) -> LearnedEmbedding:
    """Minimize the diffusion loss of patches over the embedding of their value, with all weights frozen.

    The start is the known embedding with the smallest loss, or the mean of all known embeddings if its loss is smaller.

    Args:
        network: trained network; its weights are frozen.
        schema: schema of the network.
        column: column of the value.
        value: name of the value.
        patches: patches with their label, the value, and other attributes where they are known; attributes without a
            column are null.
        generator: generator with the schedule, objective, space and image size of the training, and the seed.
        inferer: inferer that runs the network.
        settings: settings with the number of steps and the learning rate.
        train_config: settings of the training, of which ``augment`` is used.

    Raises:
        RunStopped: for a loss that is not finite.
    """
    conditioner: Any = network.class_embedding
    index = schema.names.index(column.name)
    known = _known_embeddings(conditioner, index, len(column.values))
    mean = known.mean(0)
    extended = ExtendedSchema.of(schema, [AddedValue(column.name, value, "")])
    data = PatchDataset(patches, PartialSchema(extended), generator.image_size)  # type: ignore[arg-type]
    learning: Any = conditioner.extended(extended, {(column.name, value): mean})
    weight = learning.embeddings[index].table.weight
    network.eval().requires_grad_(False)
    noisy = DiffusionPrepareBatch(
        generator.schedule,
        generator.objective,
        label_dropout=0,
        attribute_dropout=0,
        joint_dropout=0,
        augment=bool(train_config.get("augment", True)),
        seed=generator.seed,
        space=generator.space,
    )
    loss = _EmbeddingLoss(network, weight, data, noisy, inferer)
    network.class_embedding = learning
    try:
        mean_loss = loss.of(mean)
        codes = _candidates(len(column.values), generator.seed)
        losses = {column.values[code]: loss.of(known[code]) for code in codes}
        nearest = min(losses, key=lambda name: losses[name])
        weight.data[-1] = known[column.values.index(nearest)] if losses[nearest] < mean_loss else mean
        _descend(loss, settings, generator.seed)
        embedding = weight[-1].detach().clone()
        return LearnedEmbedding(embedding, loss.of(embedding), nearest, losses, mean_loss)
    finally:
        network.class_embedding = conditioner


def _known_embeddings(conditioner: Any, index: int, num_values: int) -> torch.Tensor:
    """Return ``(V, D + d_t)`` embeddings of the known values of a column.

    The first D numbers are the embedding within the column. The others are an offset of the whole condition, which a
    value unlike the known ones needs; that of known values is zero.
    """
    embedding = conditioner.embeddings[index]
    table = embedding.table.weight.detach()
    known = table[-NULL : num_values - NULL, : getattr(embedding, "width", None)]
    return nn.functional.pad(known, (0, conditioner.embed_dim))


class _EmbeddingLoss:
    """Diffusion loss of the patches as a function of the embedding of their value, the last row of a table.

    Args:
        network: network that uses the table, with all weights frozen.
        weight: ``(R, D + d_t)`` table.
        data: patches.
        noisy: preparation of a batch, with its noise.
        inferer: inferer that runs the network.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: nn.Parameter,
        data: PatchDataset,
        noisy: DiffusionPrepareBatch,
        inferer: Inferer,
    ) -> None:
        self.network, self.weight, self.data, self.noisy, self.inferer = network, weight, data, noisy, inferer

    def of_rows(self, rows: torch.Tensor, step: int | None, draw: int = 0) -> torch.Tensor:
        """Return the mean loss of some patches, with a gradient.

        Args:
            rows: ``(B,)`` numbers of the patches.
            step: step of the training, which determines noise and augmentation; None for noise that depends only on
                the patch and ``draw``.
            draw: number of the draw of noise and timesteps.
        """
        batch = {
            "image": self.data.images[rows],
            "conditions": self.data.conditions[rows],
            "index": rows + draw * len(self.data),
        }
        inputs, targets, args, kwargs = self.noisy(batch, self.weight.device, step=step)
        return nn.functional.mse_loss(self.inferer(inputs, self.network, *args, **kwargs), targets)

    @torch.no_grad()
    def of(self, embedding: torch.Tensor) -> float:
        """Return the mean loss of all patches with this embedding, for the same noise and timesteps every time."""
        self.weight.data[-1] = embedding
        total = 0.0
        for draw in range(NUM_DRAWS):
            for rows in torch.arange(len(self.data)).split(BATCH_SIZE):
                total += float(self.of_rows(rows, None, draw)) * len(rows)
        return total / (NUM_DRAWS * len(self.data))


class PartialSchema:
    """A schema that encodes attributes without a column as null, so that the model chooses them.

    Args:
        schema: schema to use.
    """

    def __init__(self, schema: MetadataSchema) -> None:
        self._schema = schema

    def encode(self, table: pd.DataFrame, unseen: str = "error", absent: str = "null") -> torch.Tensor:
        """Encode a table as :meth:`MetadataSchema.encode` does, but always with ``absent="null"``."""
        return self._schema.encode(table, unseen, "null")


def _candidates(count: int, seed: int) -> list[int]:
    order = torch.randperm(count, generator=generator_from("candidates", seed))
    return sorted(order[:MAX_CANDIDATES].tolist())


def _descend(loss: _EmbeddingLoss, settings: AdaptationSettings, seed: int) -> None:
    """Minimize the loss by Adam, from the embedding in the table."""
    # the rows of other values have no gradient, so that Adam does not change them
    weight = loss.weight.requires_grad_(True)
    optimizer = torch.optim.Adam([weight], settings.learning_rate, betas=(0.9, 0.99))
    schedule = WarmupTimesCosine(optimizer, max(1.0, WARMUP * settings.max_steps), settings.max_steps)
    steps = range(1, settings.max_steps + 1)
    for step in progress(steps, settings.max_steps, "adapting", "step"):
        rows = torch.randperm(len(loss.data), generator=generator_from("adapting batch", seed, step))[:BATCH_SIZE]
        value = loss.of_rows(rows, step)
        if not torch.isfinite(value):
            raise RunStopped(f"the loss is not finite in step {step}: try --amp false or a lower --learning_rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
