"""Train an autoencoder with the losses of MONAI's latent diffusion."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.losses import PatchAdversarialLoss, PerceptualLoss
from monai.networks.nets import AutoencoderKL
from torch import nn
from torch.nn import functional

from medi_monai.cohort import BalancedBatchSampler, StreamedPatchDataset
from medi_monai.engines.events import EventWriter, event_files
from medi_monai.engines.handlers import ProgressHandler, ScalarHandler, TrainingCheckpoint, WeightAverage
from medi_monai.engines.prepare_batch import random_symmetry
from medi_monai.engines.schedules import WarmupCosine
from medi_monai.engines.settings import AutoencoderSettings
from medi_monai.engines.trainer import stop_after_step
from medi_monai.networks.autoencoder import RECORD, WEIGHTS
from medi_monai.networks.precision import dtype_of
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import set_aside
from medi_monai.utils.seeding import generator_from

__all__ = ["PICTURE", "RESULTS", "AutoencoderNetworks", "AutoencoderStep", "kl_divergence", "train_autoencoder"]

PICTURE = "reconstructions.png"
#: files that a run writes
RESULTS = (WEIGHTS, RECORD, PICTURE, "summary.json")


def kl_divergence(mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of normal latents from the standard normal, averaged over images.

    Args:
        mean: ``(N, C, h, w)`` means of the latents.
        deviation: ``(N, C, h, w)`` standard deviations of the latents.
    """
    terms = mean.square() + deviation.square() - deviation.square().clamp(min=1e-12).log() - 1
    return 0.5 * terms.flatten(1).sum(1).mean()


@dataclass(frozen=True)
class AutoencoderNetworks:
    """Networks of a training.

    Args:
        autoencoder: autoencoder, in training mode.
        discriminator: discriminator of real and rebuilt images.
        average: averaged weights of the autoencoder.
    """

    autoencoder: AutoencoderKL
    discriminator: nn.Module
    average: WeightAverage


class AutoencoderStep:
    """One update of the autoencoder and, after ``adversarial_start`` steps, of the discriminator.

    The learning rate of the discriminator is half that of the autoencoder; each has a schedule over its own updates.

    Args:
        networks: networks, on the device of the training.
        settings: settings of the training.
        seed: random seed of the augmentation and of the latents' noise.
        device: device of the training.
        precision: precision, as for :class:`medi_monai.engines.prepare_batch.AutocastInferer`.

    Raises:
        InputError: if MONAI cannot load the network of the perceptual loss.
    """

    def __init__(
        self,
        networks: AutoencoderNetworks,
        settings: AutoencoderSettings,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.networks, self.settings = networks, settings
        self.autoencoder, self.discriminator = networks.autoencoder, networks.discriminator
        self.seed, self.device, self.precision = seed, device, precision
        rate = settings.learning_rate
        self.optimizer = torch.optim.AdamW(self.autoencoder.parameters(), rate, weight_decay=0.0)
        self.critic_optimizer = torch.optim.AdamW(self.discriminator.parameters(), rate / 2, weight_decay=0.0)
        self.schedule = _schedule(self.optimizer, settings.max_steps)
        # the discriminator is updated only after `adversarial_start` steps
        num_updates = max(1, settings.max_steps - settings.adversarial_start)
        self.critic_schedule = _schedule(self.critic_optimizer, num_updates)
        self.perceptual = _perceptual(settings.perceptual, device)
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def components(self) -> dict[str, Any]:
        """Return all that has a state, by its name in checkpoints."""
        return {
            **vars(self.networks),
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
            "schedule_0": self.schedule,
            "schedule_1": self.critic_schedule,
        }

    def __call__(self, engine: Engine, batch: torch.Tensor) -> dict[str, Any]:
        """Run one update on ``(N, 3, H, W)`` uint8 images, and return ``loss``, ``grad_norm`` and ``seconds``.

        Raises:
            RunStopped: for a loss or gradient that is not finite, before the weights change.
        """
        start, step, settings = time.perf_counter(), engine.state.iteration, self.settings
        generator = generator_from("autoencoder", self.seed, step)
        images = _channels(from_uint8(batch.to(self.device)), settings.image_channels)
        if settings.augment:
            images = random_symmetry(images, generator)
        is_adversarial = settings.adversarial_weight > 0 and step > settings.adversarial_start
        loss, rebuilt = self._loss(images, generator, is_adversarial)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = loss.detach()
        norm = nn.utils.clip_grad_norm_(self.autoencoder.parameters(), 1.0)
        if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
            raise RunStopped(
                f"the loss of the autoencoder is {float(loss)} at step {step}, and the weights were not changed by it: "
                "resume with --amp false, or train again with a lower learning_rate"
            )
        self.optimizer.step()
        self.schedule.step()
        if is_adversarial:
            self._judge(images, rebuilt)
        return {"loss": loss, "grad_norm": norm.detach(), "seconds": time.perf_counter() - start}

    def _loss(
        self, images: torch.Tensor, generator: torch.Generator, is_adversarial: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sum of the losses, and the rebuilt images without a gradient."""
        settings, reduced = self.settings, self.precision != "float32"
        with torch.autocast(self.device.type, dtype_of(self.precision) if reduced else None, enabled=reduced):
            mean, deviation = self.autoencoder.encode(images)
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            rebuilt = self.autoencoder.decode(mean + deviation * noise)
            judged = self.discriminator(rebuilt.float())[-1] if is_adversarial else None
        loss = functional.l1_loss(rebuilt.float(), images)
        loss = loss + settings.kl_weight * kl_divergence(mean.float(), deviation.float())
        if self.perceptual is not None:
            loss = loss + settings.perceptual_weight * self.perceptual(rebuilt.float(), images)
        if judged is not None:
            fooled = self.adversarial(judged.float(), target_is_real=True, for_discriminator=False)
            loss = loss + settings.adversarial_weight * fooled
        return loss, rebuilt.detach().float()

    def _judge(self, images: torch.Tensor, rebuilt: torch.Tensor) -> None:
        """Update the discriminator."""
        self.critic_optimizer.zero_grad(set_to_none=True)
        generated, real = self.discriminator(rebuilt)[-1], self.discriminator(images)[-1]
        loss = self.adversarial(generated, target_is_real=False, for_discriminator=True)
        loss = loss + self.adversarial(real, target_is_real=True, for_discriminator=True)
        (self.settings.adversarial_weight * 0.5 * loss).backward()
        self.critic_optimizer.step()
        self.critic_schedule.step()


def _schedule(optimizer: torch.optim.Optimizer, num_updates: int) -> WarmupCosine:
    return WarmupCosine(optimizer, max(1, num_updates // 50), num_updates, cosine_start=0)


def _perceptual(network: str | None, device: torch.device) -> nn.Module | None:
    if network is None:
        return None
    try:
        return PerceptualLoss(spatial_dims=2, network_type=network, is_fake_3d=False).to(device).eval()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"perceptual = {network!r}: MONAI's PerceptualLoss cannot load this network: {reason}. Leave it out"
        ) from error


def _channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    return images if channels == 3 else images.mean(1, keepdim=True)


def train_autoencoder(
    step: AutoencoderStep,
    dataset: StreamedPatchDataset,
    record: dict[str, Any],
    output: Path,
    writer: EventWriter | None = None,
) -> None:
    """Train up to the last step, from the first one or from the newest checkpoint, and save the state.

    Args:
        step: update, with its networks and settings.
        dataset: training images.
        record: settings that have to be the same to resume.
        output: folder of the run, for checkpoints; results of an earlier training in it are set aside.
        writer: TensorBoard writer.

    Raises:
        InputError: if there is no checkpoint to resume from, or it does not match.
        RunStopped: after Ctrl-C (the state is saved), or if the loss is not finite.
    """
    settings = step.settings
    engine = Engine(step)
    engine.state.max_epochs, engine.state.epoch_length = 1, settings.max_steps
    checkpoint = TrainingCheckpoint(output, step.components(), record, settings.checkpoint_every, keep=1)
    first = _begin(engine, checkpoint, settings)
    claim_results(output, "autoencoding")
    step.networks.average.attach(engine)
    if writer is not None:
        ScalarHandler(writer, step.optimizer, settings.batch_size, settings.log_every).attach(engine)
    ProgressHandler("training the autoencoder", settings.batch_size).attach(engine)
    checkpoint.attach(engine)
    if first < settings.max_steps:
        batches = _Batches(dataset, settings.batch_size, settings.max_steps, step.seed, first)
        with stop_after_step(engine):
            engine.run(batches, max_epochs=1, epoch_length=settings.max_steps)
        checkpoint.save(engine)
    if engine.state.iteration < settings.max_steps:
        raise RunStopped(
            f"interrupted after step {engine.state.iteration} of {settings.max_steps}; the state is saved in "
            f"{checkpoint.newest}. Resume with the same command and --resume true."
        )


def _begin(engine: Engine, checkpoint: TrainingCheckpoint, settings: AutoencoderSettings) -> int:
    """Load the checkpoint to resume from, set earlier results aside, and return the number of completed steps."""
    output, first = checkpoint.ckpt_dir, 0
    if settings.resume:
        if checkpoint.newest is None:
            raise InputError(f"there is no checkpoint to resume from in {output}; train without --resume true first")
        first = checkpoint.resume(engine)
        print(f"resuming from {checkpoint.newest} at step {first}", flush=True)
    checkpoint.check_free(first + 1, settings.max_steps)
    results = tuple(output / name for name in RESULTS)
    if settings.resume:
        set_aside(output, results)
    else:
        checkpoint.set_aside((*results, *event_files(output)))
    return first


class _Batches:
    """Batches of images, each of which depends only on seed and step."""

    def __init__(self, dataset: StreamedPatchDataset, batch_size: int, max_steps: int, seed: int, first: int) -> None:
        self.dataset = dataset
        self.sampler = BalancedBatchSampler(np.zeros(len(dataset), int), batch_size, max_steps, seed)
        self.sampler.start_step = first

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for rows in self.sampler:
            yield torch.stack([item["image"] for item in self.dataset.__getitems__(rows)])
