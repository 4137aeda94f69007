"""The run `autoencoding`: train an autoencoder as MONAI does, and measure the scale of its latents."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.losses import PatchAdversarialLoss, PerceptualLoss
from monai.networks.nets import AutoencoderKL, PatchDiscriminator
from PIL import Image
from torch import nn
from torch.nn import functional

from medi_monai.cohort import BalancedBatchSampler, Cohort, StreamedPatchDataset
from medi_monai.engines.events import EventWriter, event_files
from medi_monai.engines.handlers import ProgressHandler, ScalarHandler, TrainingCheckpoint, WeightAverage
from medi_monai.engines.prepare_batch import random_symmetry
from medi_monai.engines.schedules import WarmupCosine
from medi_monai.engines.settings import AutoencoderSettings
from medi_monai.engines.trainer import stop_after_step
from medi_monai.networks.autoencoder import RECORD, WEIGHTS, Architecture, build_autoencoder, save_autoencoder
from medi_monai.networks.encoders.pretrained import load_weights
from medi_monai.networks.precision import dtype_of
from medi_monai.networks.spaces import LatentSpace, latent_scale
from medi_monai.report import labeled_grid
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import atomic_path, check_state, file_digest
from medi_monai.utils.pixels import from_uint8, uint8_arrays
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import generator_from, seed_from

__all__ = ["autoencode_run", "kl_divergence"]

PICTURE = "reconstructions.png"
#: number of training images on which the scale is measured
NUM_SCALE = 256
#: channels of the discriminator, its levels for images of 64 px or more, and its minimum image side in pixels
CRITIC_CHANNELS, CRITIC_LEVELS, LEAST_SIDE = 32, 3, 16
#: number of images in the picture
NUM_SHOWN = 8
#: settings that may change when a training is resumed
FREE = {"resume", "log_every", "checkpoint_every", "num_validation"}


def kl_divergence(mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence of normal latents from the standard normal, averaged over images.

    Args:
        mean: ``(N, C, h, w)`` means of the latents.
        deviation: ``(N, C, h, w)`` standard deviations of the latents.
    """
    terms = mean.square() + deviation.square() - deviation.square().clamp(min=1e-12).log() - 1
    return 0.5 * terms.flatten(1).sum(1).mean()


class _Step:
    """One update of the autoencoder and, after ``adversarial_start`` steps, of the discriminator.

    Args:
        settings: settings of the training.
        autoencoder, discriminator: the two networks.
        optimizers: optimizers of the two networks.
        schedules: learning rate schedules of the two networks.
        perceptual: perceptual loss between two batches of images, or None.
        seed: random seed of the augmentation and of the latents' noise.
        device: device of the training.
        precision: precision, as for :class:`medi_monai.engines.prepare_batch.AutocastInferer`.
    """

    def __init__(
        self,
        settings: AutoencoderSettings,
        autoencoder: AutoencoderKL,
        discriminator: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[WarmupCosine],
        perceptual: nn.Module | None,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.settings, self.autoencoder, self.discriminator = settings, autoencoder, discriminator
        self.optimizer, self.critic_optimizer = optimizers
        self.schedule, self.critic_schedule = schedules
        self.perceptual, self.seed, self.device, self.precision = perceptual, seed, device, precision
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def __call__(self, engine: Engine, batch: torch.Tensor) -> dict[str, Any]:
        start, step, settings = time.perf_counter(), engine.state.iteration, self.settings
        generator = generator_from("autoencoder", self.seed, step)
        images = _channels(from_uint8(batch.to(self.device)), settings.image_channels)
        if settings.augment:
            images = random_symmetry(images, generator)
        is_adversarial = settings.adversarial_weight > 0 and step > settings.adversarial_start
        reduced = self.precision != "float32"
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
            self._judge(images, rebuilt.detach().float())
        return {"loss": loss, "grad_norm": norm.detach(), "seconds": time.perf_counter() - start}

    def _judge(self, images: torch.Tensor, rebuilt: torch.Tensor) -> None:
        self.critic_optimizer.zero_grad(set_to_none=True)
        generated, real = self.discriminator(rebuilt)[-1], self.discriminator(images)[-1]
        loss = self.adversarial(generated, target_is_real=False, for_discriminator=True)
        loss = loss + self.adversarial(real, target_is_real=True, for_discriminator=True)
        (self.settings.adversarial_weight * 0.5 * loss).backward()
        self.critic_optimizer.step()
        self.critic_schedule.step()


def autoencode_run(
    cohort: Cohort,
    image_size: int,
    output_dir: str | os.PathLike,
    settings: AutoencoderSettings,
    seed: int = 0,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    writer: EventWriter | None = None,
) -> Path:
    """Train an autoencoder; write ``autoencoder.pt`` and ``.json``, ``reconstructions.png`` and ``summary.json``.

    The losses are those of MONAI's latent diffusion: L1, Kullback-Leibler, PatchGAN and, if the settings name its
    network, a perceptual loss (arXiv 2112.10752). The weights are averaged over the training before they are saved. The
    scale is the reciprocal of the standard deviation of the latents of training images. With ``max_steps = 0``, the
    initial weights are only measured.

    Args:
        cohort: images with their split; ``train`` is used for training, the other splits for measurement.
        image_size: side of the images in pixels.
        output_dir: folder of the run; earlier results are moved to ``earlier-<n>``.
        settings: settings of the training.
        seed: random seed.
        device: device of the training.
        precision: precision, as for :class:`medi_monai.engines.prepare_batch.AutocastInferer`.
        writer: TensorBoard writer for ``output_dir``.

    Returns:
        The path of the weights.

    Raises:
        InputError: for settings that are inconsistent, or differ from those of the checkpoint to resume from.
        RunStopped: after Ctrl-C (the state is saved), or if the loss is not finite.
    """
    output, device, start = Path(output_dir), torch.device(device), time.perf_counter()
    if settings.max_steps == 0 and settings.init_from is None:
        raise InputError("max_steps = 0 and no init_from: there are no weights to measure; give one of them")
    if image_size < LEAST_SIDE and settings.adversarial_weight > 0:
        raise InputError(
            f"image_size = {image_size}: the PatchGAN loss needs images of at least {LEAST_SIDE} pixels; give "
            "--adversarial_weight 0"
        )
    architecture = _architecture(settings)
    training = StreamedPatchDataset(cohort.split("train"), None, image_size)
    held_out = _held_out(cohort, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from("autoencoder", seed))
        autoencoder = _begun(build_autoencoder(architecture), settings.init_from).to(device)
        discriminator = _discriminator(settings.image_channels, image_size).to(device)
    LatentSpace(autoencoder, channels=settings.image_channels).shape(image_size)
    autoencoder.requires_grad_(True).train()
    average = WeightAverage(autoencoder)
    if settings.max_steps:
        record = {"cohort": cohort.digest, "seed": seed, "precision": precision, "image_size": image_size}
        record |= {name: value for name, value in settings.model_dump().items() if name not in FREE}
        parts = {"autoencoder": autoencoder, "discriminator": discriminator, "average": average}
        _train(parts, training, settings, record, output, seed, device, precision, writer)
    else:
        set_aside(output, [output / name for name in (WEIGHTS, RECORD, PICTURE, "summary.json")])
    claim_results(output, "autoencoding")
    weights = average.network if settings.max_steps else autoencoder
    space = LatentSpace(weights, channels=settings.image_channels)
    scale = latent_scale(space, _images(training, NUM_SCALE, seed, device))
    figures = {
        "latent_shape": list(space.shape(image_size)),
        "scale": scale,
        **_measured(space, held_out, settings.num_validation, device, output),
    }
    described = {
        **settings.model_dump(exclude={"resume"}),
        "image_size": image_size,
        "seed": seed,
        "precision": precision,
    }
    path = save_autoencoder(output, weights, architecture, scale, described, figures, {"cohort": cohort.digest})
    finish_run(
        "autoencoding",
        output,
        made={"autoencoder": str(path), "images": len(training), "steps": settings.max_steps},
        figures={"seconds": round(time.perf_counter() - start, 2), **figures},
        settings=described,
        digests={"cohort": cohort.digest, WEIGHTS: file_digest(path)},
        where=output / PICTURE,
    )
    return path


def _train(
    parts: dict[str, Any],
    training: StreamedPatchDataset,
    settings: AutoencoderSettings,
    record: dict[str, Any],
    output: Path,
    seed: int,
    device: torch.device,
    precision: str,
    writer: EventWriter | None,
) -> None:
    autoencoder, discriminator = parts["autoencoder"], parts["discriminator"]
    optimizers = (
        torch.optim.AdamW(autoencoder.parameters(), settings.learning_rate, weight_decay=0.0),
        torch.optim.AdamW(discriminator.parameters(), settings.learning_rate / 2, weight_decay=0.0),
    )
    # the discriminator is updated only after `adversarial_start` steps
    lengths = (settings.max_steps, max(1, settings.max_steps - settings.adversarial_start))
    schedules = [
        WarmupCosine(optimizer, max(1, steps // 50), steps, cosine_start=0)
        for optimizer, steps in zip(optimizers, lengths)
    ]
    perceptual = _perceptual(settings.perceptual, device)
    engine = Engine(
        _Step(settings, autoencoder, discriminator, optimizers, schedules, perceptual, seed, device, precision)
    )
    engine.state.max_epochs, engine.state.epoch_length = 1, settings.max_steps
    states: dict[str, Any] = {"optimizer": optimizers[0], "critic_optimizer": optimizers[1]}
    states |= {f"schedule_{number}": schedule for number, schedule in enumerate(schedules)}
    checkpoint = TrainingCheckpoint(output, {**parts, **states}, record, settings.checkpoint_every, keep=1)
    first = 0
    if settings.resume:
        if checkpoint.newest is None:
            raise InputError(f"there is no checkpoint to resume from in {output}; train without --resume true first")
        first = checkpoint.resume(engine)
        print(f"resuming from {checkpoint.newest} at step {first}", flush=True)
    checkpoint.check_free(first + 1, settings.max_steps)
    names = (WEIGHTS, RECORD, PICTURE, "summary.json")
    if settings.resume:
        set_aside(output, [output / name for name in names])
    else:
        checkpoint.set_aside((*(output / name for name in names), *event_files(output)))
    claim_results(output, "autoencoding")
    parts["average"].attach(engine)
    if writer is not None:
        ScalarHandler(writer, optimizers[0], settings.batch_size, settings.log_every).attach(engine)
    ProgressHandler("training the autoencoder", settings.batch_size).attach(engine)
    checkpoint.attach(engine)
    if first < settings.max_steps:
        batches = _Batches(training, settings.batch_size, settings.max_steps, seed, first)
        with stop_after_step(engine):
            engine.run(batches, max_epochs=1, epoch_length=settings.max_steps)
        checkpoint.save(engine)
    if engine.state.iteration < settings.max_steps:
        raise RunStopped(
            f"interrupted after step {engine.state.iteration} of {settings.max_steps}; the state is saved in "
            f"{checkpoint.newest}. Resume with the same command and --resume true."
        )


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


def _architecture(settings: AutoencoderSettings) -> Architecture:
    if settings.image_channels not in (1, 3):
        raise InputError(f"image_channels = {settings.image_channels}: an image has 1 (gray) or 3 (RGB)")
    if len(settings.autoencoder_channels) > 8 or settings.latent_channels > 1024 or settings.autoencoder_blocks > 64:
        raise InputError(
            f"autoencoder_channels = {settings.autoencoder_channels}, autoencoder_blocks = "
            f"{settings.autoencoder_blocks}, latent_channels = {settings.latent_channels}: at most 8 levels, 64 blocks "
            "and 1,024 channels of latents"
        )
    return Architecture(
        image_channels=settings.image_channels,
        channels=settings.autoencoder_channels,
        latent_channels=settings.latent_channels,
        num_res_blocks=settings.autoencoder_blocks,
        attention=settings.autoencoder_attention,
    )


def _discriminator(channels: int, image_size: int) -> PatchDiscriminator:
    levels = min(CRITIC_LEVELS, max(1, int(math.log2(image_size / LEAST_SIDE)) + 1))
    return PatchDiscriminator(2, channels=CRITIC_CHANNELS, in_channels=channels, out_channels=1, num_layers_d=levels)


def _begun(autoencoder: AutoencoderKL, init_from: str | None) -> AutoencoderKL:
    if init_from is None:
        return autoencoder
    state = check_state(Path(init_from), load_weights(init_from), autoencoder.state_dict())
    try:
        autoencoder.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the weights in {init_from} do not fit the autoencoder: {reason}. Give its autoencoder_channels, "
            "autoencoder_blocks, autoencoder_attention and latent_channels"
        ) from error
    return autoencoder


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


def _images(dataset: StreamedPatchDataset, count: int, seed: int, device: torch.device) -> torch.Tensor:
    order = torch.randperm(len(dataset), generator=generator_from("autoencoder", "images", seed)).tolist()[:count]
    items = dataset.__getitems__(sorted(order))
    return from_uint8(torch.stack([item["image"] for item in items]).to(device))


def _held_out(cohort: Cohort, image_size: int) -> StreamedPatchDataset | None:
    others = [name for name in ("val", "holdout", "test") if (cohort.table["split"] == name).any()]
    return StreamedPatchDataset(cohort.split(*others), None, image_size) if others else None


@torch.no_grad()
def _measured(
    space: LatentSpace, held_out: StreamedPatchDataset | None, count: int, device: torch.device, output: Path
) -> dict[str, Any]:
    """Write the picture of held-out images and their reconstructions, and return errors (gray levels, PSNR in dB)."""
    if held_out is None:
        return {"held_out_images": 0, "mean_absolute_error": None, "psnr": None}
    images = _images(held_out, count, 0, device)
    rebuilt = torch.cat([space.decode(space.encode(image)) for image in images.split(1)])
    if space.channels == 1:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    error = (rebuilt - images) * 127.5
    shown = {("image", ""): images, ("reconstruction", ""): rebuilt}
    cells = {key: list(uint8_arrays(value[:NUM_SHOWN])) for key, value in shown.items()}
    grid = labeled_grid(cells, ["image", "reconstruction"], [""], "held-out images", (1, min(NUM_SHOWN, len(images))))
    with atomic_path(output / PICTURE) as path:
        Image.fromarray(grid).save(path, format="png")
    return {
        "held_out_images": len(images),
        "mean_absolute_error": float(error.abs().mean()),
        "psnr": float(20 * math.log10(255) - 10 * error.square().flatten(1).mean(1).log10().mean()),
    }
