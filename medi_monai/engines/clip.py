"""Train a small CLIP on images and captions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine
from torch.nn import functional
from torch.optim import AdamW

from medi_monai.engines.events import EventWriter
from medi_monai.engines.handlers import ProgressHandler, ScalarHandler
from medi_monai.engines.prepare_batch import random_symmetry
from medi_monai.engines.schedules import SinglePrecisionWarmupCosine
from medi_monai.networks.text import ClipModel, make_tokenizer, save_clip, small_clip
from medi_monai.networks.text.encoder import CaptionTokenizer
from medi_monai.networks.text.small import check_free
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import temporary_dir
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.seeding import generator_from, seed_from

__all__ = ["ClipTraining", "contrastive_loss", "train_clip"]

#: CLIP's upper bound on the logarithm of its scale, which limits the scale to 100
MAX_LOG_SCALE = 4.6052
#: folder of TensorBoard events inside the model folder
LOGS = "events"


def contrastive_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, scale: torch.Tensor, captions: torch.Tensor
) -> torch.Tensor:
    """Return CLIP's symmetric cross-entropy (arXiv 2103.00020), modified so that equal captions are not negatives.

    The target of an image is distributed evenly over all texts in the batch that equal its own; the same applies to the
    target of a text.

    Args:
        image_features: ``(N, D)`` image features of unit length.
        text_features: ``(N, D)`` text features of unit length.
        scale: factor of the cosine similarities.
        captions: ``(N,)`` or ``(N, L)`` codes; captions are equal if their codes are.
    """
    rows = captions.reshape(len(captions), -1)
    equal = (rows[:, None] == rows[None]).all(2).float()
    target = equal / equal.sum(1, keepdim=True)
    logits = scale * image_features @ text_features.T
    # `target` is symmetric: the counts of a row equal those of its column
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@dataclass(frozen=True)
class ClipTraining:
    """Settings of the training of a small CLIP.

    Args:
        max_steps: number of updates.
        batch_size: pairs per update.
        learning_rate: peak learning rate, after a short warm-up and before cosine decay.
        weight_decay: weight decay of AdamW.
        augment: whether to apply random flips and right-angle rotations; not suitable if captions mention left or
            right.
        seed: random seed of weights, order and augmentation.
    """

    max_steps: int = 600
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    augment: bool = False
    seed: int = 0


def train_clip(
    images: Any,
    captions: Sequence[str],
    folder: str | os.PathLike,
    training: ClipTraining | None = None,
    device: str | torch.device = "cpu",
    max_length: int | None = None,
    on_long: str = "error",
    records: Mapping[str, dict[str, Any]] | None = None,
    **sizes: Any,
) -> ClipModel:
    """Create a tokenizer and a small CLIP, train it on pairs, save it, and load it from its folder.

    The result depends only on the pairs, the settings and the seed. Training takes about a minute and cannot be
    resumed; the folder appears only when it is complete.

    Args:
        images: ``(N, 3, S, S)`` uint8, or a dataset of such images (tensors, or mappings with ``image``).
        captions: one caption per image.
        folder: new or empty output folder for the model, and for TensorBoard events in ``events``.
        training: settings of the training.
        device: device for training.
        max_length: maximum number of tokens in a caption; by default longer than needed, up to CLIP's 77.
        on_long: what to do with longer captions: ``error`` or ``truncate``.
        records: contents of additional JSON files to write into the folder, by file name.
        sizes: arguments of :func:`medi_monai.networks.text.small_clip` (``patch_size``, ``hidden_size``, …).

    Raises:
        InputError: for images that do not match the captions, or invalid settings.
        RunStopped: if the loss is not finite.
    """
    training = training or ClipTraining()
    _check(max_steps=training.max_steps, batch_size=training.batch_size)
    target, pixels = check_free(folder), _pixels(images, len(captions))
    tokenizer = make_tokenizer(captions, max_length)
    caption_codes, unique = pd.factorize(pd.Series(list(captions), dtype=object))
    encode = CaptionTokenizer(tokenizer, tokenizer.model_max_length, on_long=on_long)
    codes = encode(list(unique))[torch.from_numpy(caption_codes)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from("clip", training.seed))
        model: Any = small_clip(tokenizer, pixels.shape[-1], **sizes).to(device)
    target.parent.mkdir(parents=True, exist_ok=True)
    # a unique name, so that no folder of the user is mistaken for it and removed
    with temporary_dir(target, LOGS) as logs:
        _run(model, pixels, codes, training, logs)
        # written all at once, so that a killed run leaves no model without its records
        save_clip(model.cpu(), tokenizer, target, {LOGS: logs, **(records or {})})
    return ClipModel(target).to(device)


class _Step:
    """One update of the model on a batch of rows.

    Args:
        model: CLIP of transformers.
        optimizer: optimizer of its parameters.
        pixels: ``(N, 3, S, S)`` uint8 images.
        codes: ``(N, L)`` token ids of their captions.
        training: settings of the training.
    """

    def __init__(
        self, model: Any, optimizer: AdamW, pixels: torch.Tensor, codes: torch.Tensor, training: ClipTraining
    ) -> None:
        self.model, self.optimizer, self.pixels, self.training = model, optimizer, pixels, training
        end = model.config.text_config.eos_token_id
        # CLIP reads the state at the end token; the padding after it is not needed
        self.codes = codes[:, : int((codes == end).long().argmax(1).max()) + 1]
        self.device = next(model.parameters()).device

    def __call__(self, engine: Engine, rows: torch.Tensor) -> dict[str, Any]:
        start, step, model = time.perf_counter(), engine.state.iteration, self.model
        images = from_uint8(self.pixels[rows].to(self.device))
        if self.training.augment:
            images = random_symmetry(images, generator_from("clip", "augment", self.training.seed, step))
        words = self.codes[rows].to(self.device)
        output = model(input_ids=words, pixel_values=images)
        scale = model.logit_scale.clamp(max=MAX_LOG_SCALE).exp()
        loss = contrastive_loss(output.image_embeds, output.text_embeds, scale, words)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise RunStopped(f"the CLIP loss is not finite at step {step}: lower learning_rate")
        self.optimizer.step()
        return {"loss": loss.detach(), "grad_norm": norm.detach(), "seconds": time.perf_counter() - start}


def _run(model: Any, pixels: torch.Tensor, codes: torch.Tensor, training: ClipTraining, logs: Path) -> None:
    """Train the model on all pairs, with TensorBoard events in ``logs``."""
    max_steps, batch_size = training.max_steps, training.batch_size
    optimizer = AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = SinglePrecisionWarmupCosine(optimizer, max(1, min(50, max_steps // 10)), max_steps)
    model.train()
    engine = Engine(_Step(model, optimizer, pixels, codes, training))
    schedule.attach(engine)
    ProgressHandler("training CLIP", batch_size).attach(engine)
    with EventWriter(str(logs)) as writer:
        ScalarHandler(writer, optimizer, batch_size).attach(engine)
        engine.run(_batches(len(pixels), batch_size, training.seed), max_epochs=1, epoch_length=max_steps)
    model.eval()


def _batches(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the rows of each batch; each epoch has its own order and drops the last incomplete batch."""
    size, epoch = min(batch_size, count), 0
    while True:
        order = torch.randperm(count, generator=generator_from("clip", "order", seed, epoch))
        yield from order[: count // size * size].split(size)
        epoch += 1


def _pixels(images: Any, count: int) -> torch.Tensor:
    if not isinstance(images, torch.Tensor):
        items = (images[index] for index in range(len(images)))
        images = torch.stack([torch.as_tensor(item["image"] if isinstance(item, dict) else item) for item in items])
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise InputError(
            f"images of shape {tuple(images.shape)} and type {images.dtype}: give uint8 (N, 3, S, S) in [0, 255]"
        )
    if len(images) != count:
        raise InputError(f"{len(images)} images and {count} captions: give one caption per image")
    if count < 2:
        raise InputError(f"{count} pairs: contrastive training needs at least two")
    return images


def _check(**settings: int) -> None:
    for name, value in settings.items():
        least = 2 if name == "batch_size" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} = {value!r}: it has to be a whole number of {least} or more")
