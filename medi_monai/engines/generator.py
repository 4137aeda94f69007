"""From conditions to images; each image's noise depends on the seed and its identity alone."""

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
from medi_monai.networks.spaces import PixelSpace, Space
from medi_monai.report import labeled_grid
from medi_monai.schema import Conditioning
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.pixels import uint8_arrays
from medi_monai.utils.seeding import generator_from

__all__ = ["ImageGenerator", "identity_noise", "subpopulation_grid", "training_grid"]


class ImageGenerator:
    """Draws images of subpopulations from a trained network.

    Args:
        schema: encodes the rows.
        schedule: the noise schedule of the training.
        objective: the objective of the training.
        image_size: side in pixels.
        solver: one of ``medi_monai.diffusion.SOLVERS``.
        num_steps: steps of the solver; each evaluates the network once, and twice with guidance.
        guidance_scale: 1 is no guidance.
        batch_size: images in one evaluation; rows of different combinations share a batch.
        seed: of all noise.
        inferer: how the network is run; by default float32, which keeps images alike at every batch size.
        space: that of the training.
    """

    def __init__(
        self,
        schema: Conditioning,
        schedule: NoiseSchedule,
        objective: str,
        image_size: int,
        solver: str = "ddim",
        num_steps: int = 50,
        guidance_scale: float = 1.0,
        batch_size: int = 64,
        seed: int = 0,
        inferer: Inferer | None = None,
        space: Space | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise unknown_value("solver", solver, SOLVERS)
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size}: it has to be 1 or more")
        if not 1 <= num_steps <= schedule.num_timesteps:
            raise InputError(f"num_steps = {num_steps}: the schedule allows 1 to {schedule.num_timesteps}")
        self.schema, self.schedule, self.objective, self.image_size = schema, schedule, objective, image_size
        self.solver, self.num_steps, self.guidance_scale = solver, num_steps, guidance_scale
        self.batch_size, self.seed = batch_size, seed
        self.inferer = AutocastInferer(amp=False) if inferer is None else inferer
        self.space = PixelSpace(3) if space is None else space

    def recipe(self) -> dict[str, Any]:
        """All settings that decide the pixels of an image, as JSON; a sampling draws again where one has changed."""
        return {
            "schema": self.schema.digest,
            "seed": self.seed,
            "guidance_scale": self.guidance_scale,
            "num_steps": self.num_steps,
            "solver": self.solver,
            "image_size": self.image_size,
            "objective": self.objective,
            "schedule": self.schedule.name,
            "num_timesteps": self.schedule.num_timesteps,
            "amp": getattr(self.inferer, "amp", None),
            # another autoencoder gives other images from the same latents
            "space": self.space.describe(),
        }

    def batches(self, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Full batches of an expanded plan, whatever their combinations."""
        return (rows.iloc[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))

    @torch.no_grad()
    def draw(self, network: nn.Module, rows: pd.DataFrame) -> np.ndarray:
        """One batch of images.

        A space that has weights, as an autoencoder's, moves to the device of the network.

        Args:
            network: in evaluation mode.
            rows: a combination and ``number`` per image, of :func:`medi_monai.cohort.expand_plan`; an attribute
                that it does not name is null, that is, left to the model.

        Returns:
            ``(N, H, W, 3)`` uint8.
        """
        device = next(network.parameters()).device
        if isinstance(self.space, nn.Module):
            self.space.to(device)
        denoise = denoiser(self.bind(network, rows), self.schedule, self.objective, self.space.clip)
        noise = self.noise(rows).to(device)
        images = self.space.decode(SOLVERS[self.solver](denoise, noise, self.schedule, self.num_steps))
        return uint8_arrays(images)

    def noise(self, rows: pd.DataFrame) -> torch.Tensor:
        """The noise that the images of ``rows`` begin with, on the CPU; see :func:`identity_noise`."""
        return identity_noise(rows, self.seed, self.space.shape(self.image_size))

    def bind(self, network: nn.Module, rows: pd.DataFrame) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """``(x_t, timesteps) -> prediction`` of a network for the conditions of ``rows``, with guidance."""
        device = next(network.parameters()).device
        conditions = self.schema.encode(rows, absent="null").to(device)
        null = self.schema.null_codes(len(rows)).to(device)

        def run(noisy: torch.Tensor, timesteps: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return self.inferer(noisy, network, timesteps=timesteps, conditions=codes)

        return guided(run, conditions, null, self.guidance_scale)


def identity_noise(rows: pd.DataFrame, seed: int, shape: Sequence[int]) -> torch.Tensor:
    """``(N, *shape)`` standard normal noise; a row's depends on the seed, its combination and its number alone.

    The names of the columns count, their order does not.
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
    """A grid of the label (down) by the attributes (across) for images and the table that describes them.

    Args:
        rows: one row per image with ``columns``.
        images: ``(H, W, 3)`` uint8 each.
        columns: label first, then attributes, whose values are joined across.
        title: a line above.
        cell: images shown of each combination, (down, across).
        cell_size: least side of a cell in pixels.
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
    """One sample of each label with each attribute combination, seen or not; the most frequent where there are many.

    Args:
        generator: how to draw.
        network: averaged weights.
        table: rows in training.
        columns: label first, then attributes.
        max_rows, max_columns: the most labels and attribute combinations shown.
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
