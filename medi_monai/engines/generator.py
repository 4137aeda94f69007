"""Sample images for given conditions; the noise of an image depends only on the seed and its identity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.inferers import Inferer
from torch import nn

from medi_monai.diffusion import SOLVERS, NoiseSchedule, denoiser, guided
from medi_monai.engines.prepare_batch import AutocastInferer
from medi_monai.engines.sampling_settings import GuidanceSettings
from medi_monai.networks.spaces import PixelSpace, Space
from medi_monai.report import labeled_grid
from medi_monai.schema import Conditioning
from medi_monai.utils.errors import InputError, RunStopped, unknown_value
from medi_monai.utils.pixels import uint8_arrays
from medi_monai.utils.seeding import generator_from

__all__ = ["NO_GUIDANCE", "ImageGenerator", "identity_noise", "subpopulation_grid", "training_grid"]


#: no guidance by single columns
NO_GUIDANCE = GuidanceSettings(label_guidance=1.0, attribute_guidance=1.0, guidance_interval=None)


class ImageGenerator:
    """Samples images with a trained network.

    Args:
        schema: schema that encodes the conditions.
        schedule: noise schedule of the training.
        objective: prediction target of the network, as in training.
        image_size: side of the images in pixels.
        solver: one of ``medi_monai.diffusion.SOLVERS``.
        num_steps: number of sampling steps; each evaluates the network once, and once more for each guidance scale
            other than 1.
        guidance_scale: guidance scale of the label and all attributes together; 1 is no guidance.
        guidance: guidance by single columns, its interval and rescaling; by default none.
        batch_size: images per batch, which can contain different combinations.
        seed: random seed of all noise.
        inferer: inferer that runs the network; by default in float32.
        space: image space of the training; by default pixels with 3 channels.
        noise_from: values by column that replace those of every image when its noise is drawn, so that images with
            different values in these columns have the same noise.
    """

    def __init__(
        self,
        schema: Conditioning,
        schedule: NoiseSchedule,
        objective: str,
        image_size: int,
        solver: str = "dpm",
        num_steps: int = 20,
        guidance_scale: float = 1.0,
        batch_size: int = 64,
        seed: int = 0,
        inferer: Inferer | None = None,
        space: Space | None = None,
        noise_from: Mapping[str, str] | None = None,
        guidance: GuidanceSettings | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise unknown_value("solver", solver, SOLVERS)
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size}: it has to be 1 or more")
        if not 1 <= num_steps <= schedule.num_timesteps:
            raise InputError(f"num_steps = {num_steps}: the schedule allows 1 to {schedule.num_timesteps}")
        self.schema, self.schedule, self.objective, self.image_size = schema, schedule, objective, image_size
        self.solver, self.num_steps, self.guidance_scale = solver, num_steps, guidance_scale
        self.guidance_settings = NO_GUIDANCE if guidance is None else guidance
        self.guidance = self.guidance_settings.of(schema.names, guidance_scale)
        self.batch_size, self.seed = batch_size, seed
        self.inferer = AutocastInferer() if inferer is None else inferer
        self.space = PixelSpace(3) if space is None else space
        self.noise_from = dict(noise_from or {})

    def recipe(self) -> dict[str, Any]:
        """Return all settings that determine the pixels of an image, as JSON; images are redrawn if one changes."""
        return {
            "schema": self.schema.digest,
            "seed": self.seed,
            "guidance_scale": self.guidance_scale,
            **self.guidance_settings.model_dump(),
            "num_steps": self.num_steps,
            "solver": self.solver,
            "image_size": self.image_size,
            "objective": self.objective,
            "schedule": self.schedule.name,
            "num_timesteps": self.schedule.num_timesteps,
            "precision": getattr(self.inferer, "precision", None),
            # the same latents give other images with another autoencoder
            "space": self.space.describe(),
            **({"noise_from": self.noise_from} if self.noise_from else {}),
        }

    def batches(self, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Split an expanded plan into batches, which can contain different combinations; the last may be smaller."""
        return (rows.iloc[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))

    @torch.no_grad()
    def sample(self, network: nn.Module, rows: pd.DataFrame) -> torch.Tensor:
        """Sample a batch of images, without rounding their pixels.

        A space with weights, such as an autoencoder's, is moved to the device of the network.

        Args:
            network: network in evaluation mode.
            rows: one row per image with its combination and ``number``, from :func:`medi_monai.cohort.expand_plan`;
                attributes without a column are null, that is, the model chooses.

        Returns:
            ``(N, 3, H, W)`` images, with values in about [-1, 1].
        """
        device = next(network.parameters()).device
        if isinstance(self.space, nn.Module):
            self.space.to(device)
        denoise = denoiser(self.bind(network, rows), self.schedule, self.objective, self.space.clip)
        noise = self.noise(rows).to(device)
        return self.space.decode(SOLVERS[self.solver](denoise, noise, self.schedule, self.num_steps))

    def draw(self, network: nn.Module, rows: pd.DataFrame) -> np.ndarray:
        """Sample a batch of images as they are saved; the arguments are those of :meth:`sample`.

        Returns:
            ``(N, H, W, 3)`` uint8 images.

        Raises:
            RunStopped: for pixels that are NaN or infinite, which would appear as black.
        """
        images = self.sample(network, rows)
        finite = torch.isfinite(images).flatten(1).all(1)
        if not finite.all():
            raise RunStopped(
                f"{int((~finite).sum())} of {len(finite)} images have pixels that are not finite (NaN or infinity) "
                "and are not written: the numbers overflowed, or the weights are damaged. Try --amp false or a lower "
                "--guidance_scale"
            )
        return uint8_arrays(images)

    def noise(self, rows: pd.DataFrame) -> torch.Tensor:
        """Return the initial noise for the images of ``rows``, on the CPU; see :func:`identity_noise`."""
        return identity_noise(rows.assign(**self.noise_from), self.seed, self.space.shape(self.image_size))

    def bind(self, network: nn.Module, rows: pd.DataFrame) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return a function ``(x_t, timesteps) -> prediction`` for the conditions of ``rows``, with guidance."""
        device = next(network.parameters()).device
        conditions = self.schema.encode(rows, absent="null").to(device)
        null = self.schema.null_codes(len(rows)).to(device)

        def run(noisy: torch.Tensor, timesteps: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return self.inferer(noisy, network, timesteps=timesteps, conditions=codes)

        return guided(run, conditions, null, self.guidance, self.schedule)


def identity_noise(rows: pd.DataFrame, seed: int, shape: Sequence[int]) -> torch.Tensor:
    """Return ``(N, *shape)`` standard normal noise that depends only on the seed, and combination and number of a row.

    The names of the columns matter, their order does not.
    """
    noise = torch.empty(len(rows), *shape)
    for index, row in enumerate(rows.to_dict("records")):
        number = int(row.pop("number"))
        combination = {str(name): None if value is None else str(value) for name, value in row.items()}
        torch.randn(*shape, generator=generator_from("image", seed, combination, number), out=noise[index])
    return noise


def subpopulation_grid(
    rows: pd.DataFrame,
    images: Sequence[np.ndarray],
    columns: Sequence[str],
    title: str = "",
    cell: tuple[int, int] = (2, 2),
    cell_size: int = 96,
) -> np.ndarray:
    """Draw a grid of images, with one row per label and one column per combination of attributes.

    Args:
        rows: one row per image, with ``columns``.
        images: ``(H, W, 3)`` uint8 images.
        columns: the label, then the attributes.
        title: title of the grid.
        cell: number of images per combination, as (down, across).
        cell_size: minimum side of a cell in pixels.
    """
    keys = _cell_keys(rows, columns)
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    for key, image in zip(keys, images):
        cells.setdefault(key, []).append(image)
    names = sorted({row for row, _ in keys}), sorted({column for _, column in keys})
    return labeled_grid(cells, *names, title, cell, cell_size)


def training_grid(
    generator: ImageGenerator,
    network: nn.Module,
    table: pd.DataFrame,
    columns: Sequence[str],
    max_rows: int = 8,
    max_columns: int = 12,
) -> np.ndarray:
    """Sample one image of each label with each combination of attributes, and draw them as a grid.

    If there are more labels or combinations than fit, the most frequent ones are used.

    Args:
        generator: generator of the images.
        network: network with averaged weights.
        table: training rows.
        columns: the label, then the attributes.
        max_rows, max_columns: maximum numbers of labels and of attribute combinations.

    Returns:
        The grid as ``(H, W, 3)`` uint8.
    """
    labels = sorted(table[columns[0]].value_counts().index[:max_rows])
    others = list(columns[1:])
    attributes = sorted(table.value_counts(others).index[:max_columns]) if others else [()]
    rows = pd.DataFrame(
        [(label, *values, 0) for label in labels for values in attributes], columns=[*columns, "number"]
    )
    images = [image for batch in generator.batches(rows) for image in generator.draw(network, batch)]
    return subpopulation_grid(rows, images, columns, cell=(1, 1), cell_size=64)


def _cell_keys(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, str]]:
    records: Iterable[Mapping[Any, Any]] = rows[list(columns)].astype(str).to_dict("records")
    return [(record[columns[0]], " · ".join(record[name] for name in columns[1:])) for record in records]
