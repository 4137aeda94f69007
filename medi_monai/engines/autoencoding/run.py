"""The run `autoencoding`: train an autoencoder as MONAI does, and measure the scale of its latents."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL, PatchDiscriminator
from PIL import Image

from medi_monai.cohort import Cohort, StreamedPatchDataset
from medi_monai.engines.autoencoding.training import (
    PICTURE,
    RESULTS,
    AutoencoderNetworks,
    AutoencoderStep,
    train_autoencoder,
)
from medi_monai.engines.events import EventWriter
from medi_monai.engines.handlers import WeightAverage
from medi_monai.engines.settings import AutoencoderSettings
from medi_monai.networks.autoencoder import WEIGHTS, Architecture, build_autoencoder, save_autoencoder
from medi_monai.networks.encoders.pretrained import load_weights
from medi_monai.networks.spaces import LatentSpace, latent_scale
from medi_monai.report import labeled_grid
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, check_state, file_digest
from medi_monai.utils.pixels import from_uint8, uint8_arrays
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import generator_from, seed_from

__all__ = ["autoencode_run"]

#: number of training images on which the scale is measured
NUM_SCALE = 256
#: channels of the discriminator, its levels for images of 64 px or more, and its minimum image side in pixels
CRITIC_CHANNELS, CRITIC_LEVELS, LEAST_SIDE = 32, 3, 16
#: number of images in the picture
NUM_SHOWN = 8
#: settings that may change when a training is resumed
FREE = {"resume", "log_every", "checkpoint_every", "num_validation"}


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
    _check(settings, image_size)
    architecture = _architecture(settings)
    training = StreamedPatchDataset(cohort.split("train"), None, image_size)
    held_out = _held_out(cohort, image_size)
    networks = _networks(architecture, settings, image_size, seed, device)
    origin = {"image_size": image_size, "seed": seed, "precision": precision}
    if settings.max_steps:
        fixed = {name: value for name, value in settings.model_dump().items() if name not in FREE}
        step = AutoencoderStep(networks, settings, seed, device, precision)
        train_autoencoder(step, training, {"cohort": cohort.digest, **origin, **fixed}, output, writer)
    else:
        set_aside(output, [output / name for name in RESULTS])
    claim_results(output, "autoencoding")
    weights = networks.average.network if settings.max_steps else networks.autoencoder
    space = LatentSpace(weights, channels=settings.image_channels)
    scale = latent_scale(space, _images(training, NUM_SCALE, seed, device))
    figures = {
        "latent_shape": list(space.shape(image_size)),
        "scale": scale,
        **_measured(space, held_out, settings.num_validation, device, output),
    }
    described = {**settings.model_dump(exclude={"resume"}), **origin}
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


def _check(settings: AutoencoderSettings, image_size: int) -> None:
    if settings.max_steps == 0 and settings.init_from is None:
        raise InputError("max_steps = 0 and no init_from: there are no weights to measure; give one of them")
    if image_size < LEAST_SIDE and settings.adversarial_weight > 0:
        raise InputError(
            f"image_size = {image_size}: the PatchGAN loss needs images of at least {LEAST_SIDE} pixels; give "
            "--adversarial_weight 0"
        )


def _networks(
    architecture: Architecture, settings: AutoencoderSettings, image_size: int, seed: int, device: torch.device
) -> AutoencoderNetworks:
    """Return new networks, whose weights depend only on the seed and ``init_from``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from("autoencoder", seed))
        autoencoder = _initialized(build_autoencoder(architecture), settings.init_from).to(device)
        discriminator = _discriminator(settings.image_channels, image_size).to(device)
    # refuses a size that the levels do not divide
    LatentSpace(autoencoder, channels=settings.image_channels).shape(image_size)
    autoencoder.requires_grad_(True).train()
    return AutoencoderNetworks(autoencoder, discriminator, WeightAverage(autoencoder))


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


def _initialized(autoencoder: AutoencoderKL, init_from: str | None) -> AutoencoderKL:
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
