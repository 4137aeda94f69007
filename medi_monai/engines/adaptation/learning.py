"""Learn the embedding of a new value, with all weights of the model frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    extended = ExtendedSchema.of(schema, [AddedValue(column.name, value, "")])
    data = PatchDataset(patches, PartialSchema(extended), generator.image_size)  # type: ignore[arg-type]
    index = schema.names.index(column.name)
    # the embedding within the column, and an offset of the whole condition, which a value unlike the known ones needs
    table = conditioner.embeddings[index].table.weight.detach()
    known = table[-NULL : len(column.values) - NULL, : getattr(conditioner.embeddings[index], "width", None)]
    known = nn.functional.pad(known, (0, conditioner.embed_dim))
    learning: Any = conditioner.extended(extended, {(column.name, value): known.mean(0)})
    weight = learning.embeddings[index].table.weight
    network.eval().requires_grad_(False)
    augment = bool(train_config.get("augment", True))
    noisy = DiffusionPrepareBatch(
        generator.schedule, generator.objective, 0, 0, 0, augment, generator.seed, space=generator.space
    )
    network.class_embedding = learning

    def loss(batch: dict[str, torch.Tensor], step: int | None) -> torch.Tensor:
        inputs, targets, args, kwargs = noisy(batch, weight.device, step=step)
        return nn.functional.mse_loss(inferer(inputs, network, *args, **kwargs), targets)

    try:
        with torch.no_grad():
            compare = _comparison(data, loss, weight)
            mean_loss = compare(known.mean(0))
            codes = _candidates(len(column.values), generator.seed)
            losses = {column.values[code]: compare(known[code]) for code in codes}
            nearest = min(losses, key=lambda name: losses[name])
            start = known[column.values.index(nearest)] if losses[nearest] < mean_loss else known.mean(0)
            weight[-1] = start
        _descend(weight.requires_grad_(True), data, loss, settings, generator.seed)
        with torch.no_grad():
            embedding = weight[-1].detach().clone()
            return LearnedEmbedding(embedding, compare(embedding), nearest, losses, mean_loss)
    finally:
        network.class_embedding = conditioner


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


Loss = Callable[[dict[str, torch.Tensor], int | None], torch.Tensor]


def _batch(data: PatchDataset, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"image": data.images[rows], "conditions": data.conditions[rows], "index": rows}


def _comparison(data: PatchDataset, loss: Loss, weight: torch.Tensor) -> Callable[[torch.Tensor], float]:
    def compare(embedding: torch.Tensor) -> float:
        weight.data[-1] = embedding
        total = 0.0
        for draw in range(NUM_DRAWS):
            for rows in torch.arange(len(data)).split(BATCH_SIZE):
                batch = _batch(data, rows)
                # noise depends on the index: it differs between draws, and is the same for each embedding
                batch["index"] = rows + draw * len(data)
                total += float(loss(batch, None)) * len(rows)
        return total / (NUM_DRAWS * len(data))

    return compare


def _descend(weight: torch.Tensor, data: PatchDataset, loss: Loss, settings: AdaptationSettings, seed: int) -> None:
    # the rows of other values have no gradient, so that Adam does not change them
    optimizer = torch.optim.Adam([weight], settings.learning_rate, betas=(0.9, 0.99))
    schedule = WarmupTimesCosine(optimizer, max(1.0, WARMUP * settings.max_steps), settings.max_steps)
    steps = range(1, settings.max_steps + 1)
    for step in progress(steps, settings.max_steps, "adapting", "step"):
        rows = torch.randperm(len(data), generator=generator_from("adapting batch", seed, step))[:BATCH_SIZE]
        value = loss(_batch(data, rows), step)
        if not torch.isfinite(value):
            raise RunStopped(f"the loss is not finite in step {step}: try --amp false or a lower --learning_rate")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
