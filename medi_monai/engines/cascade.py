"""Second stage of a cascade: training batches and sampling, both conditioned on small images with added noise."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from medi_monai.cohort.samples import SETTINGS_FILE
from medi_monai.diffusion import add_noise
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.prepare_batch import DiffusionPrepareBatch
from medi_monai.networks.upsampling import WithSmallImages, enlarged, shrunk
from medi_monai.schema import Conditioning
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, json_digest, read_json
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.seeding import generator_from
from medi_monai.utils.tables import read_table
from medi_monai.wsi.readers import read_image

__all__ = ["SmallImages", "UpsamplingGenerator", "UpsamplingPrepareBatch"]


class UpsamplingPrepareBatch(DiffusionPrepareBatch):
    """Batch preparation that adds the enlarged small images, with noise of a random level (arXiv 2106.15282).

    Args:
        small_size: side of the small images in pixels.
        max_level: largest timestep of the noise added to them; all levels from 0 to ``max_level`` are equally likely.
        kwargs: arguments of :class:`DiffusionPrepareBatch`.
    """

    def __init__(self, *, small_size: int, max_level: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= max_level < self.schedule.num_timesteps:
            raise InputError(f"max_level = {max_level}: it has to be from 0 to {self.schedule.num_timesteps - 1}")
        self.small_size, self.max_level = small_size, max_level

    def extra_arguments(self, images: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the network's arguments ``small`` and ``level`` for ``(N, 3, H, W)`` images in [-1, 1]."""
        small = self.space.encode(enlarged(shrunk(images, self.small_size), images.shape[-1]))
        level = torch.randint(self.max_level + 1, (len(images),), generator=generator)
        noise = torch.randn(small.shape, generator=generator).to(small.device)
        return {"small": add_noise(small, noise, level, self.schedule), "level": level.to(small.device)}


class SmallImages:
    """Images of a sampling run, found by combination and number.

    Args:
        folder: output folder of a run `sampling`, with ``manifest.csv``.
        schema: schema of the model that enlarges the images.
        columns: label and attributes that form a combination.

    Raises:
        InputError: for a folder without images, or without a column of the combinations.
    """

    def __init__(self, folder: str | os.PathLike, schema: Conditioning, columns: list[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.csv"
        if not path.is_file():
            raise InputError(f"there is no {path}: give --sampled_dir of the run `sampling` of the first stage")
        manifest = read_table(path)
        known = list(dict.fromkeys([*schema.names, *columns]))
        # a column without any value was left to the model
        self.keys = [name for name in manifest.columns if name in known and manifest[name].astype(bool).any()]
        if not self.keys or not {"image", "number"} <= set(manifest.columns) or manifest.empty:
            raise InputError(f"{path} has no images with `number` and one of {', '.join(known)}")
        self._images = {self._key(row): str(row["image"]) for row in manifest.astype(object).to_dict("records")}
        self.table = manifest
        settings = self.folder / SETTINGS_FILE
        self.digest = json_digest(
            {"manifest": file_digest(path), "recipe": read_json(settings) if settings.is_file() else None}
        )

    def _key(self, row: dict[str, Any]) -> tuple[str, ...]:
        values = ["" if row.get(name) is None else str(row[name]) for name in self.keys]
        return (*values, str(int(row["number"])))

    def plan(self, given: Collection[str] = ()) -> pd.DataFrame:
        """Return the plan that enlarges every image: the combinations with ``count``.

        Args:
            given: names of the plan settings that the user gave, none of which apply.

        Raises:
            InputError: if the user gave any, or if the images of a combination are not numbered from 0 without gaps.
        """
        if given:
            raise InputError(
                f"{', '.join(sorted(given))}: every image in {self.folder} is enlarged, and nothing else; leave the "
                "options of a plan out"
            )
        numbers = self.table.assign(number=self.table["number"].astype(int))
        grouped = numbers.groupby(self.keys, sort=False, dropna=False)["number"]
        if (grouped.max() + 1 != grouped.nunique()).any():
            raise InputError(
                f"the images of a combination in {self.folder / 'manifest.csv'} are not numbered from 0 on: its "
                "plan had a range of numbers, or rows are missing"
            )
        return grouped.nunique().rename("count").reset_index()

    def read(self, rows: pd.DataFrame) -> torch.Tensor:
        """Return ``(N, 3, h, w)`` images in [-1, 1] for the rows of an expanded plan.

        Raises:
            InputError: for a row without an image, or images of several sizes.
        """
        images = []
        for row in rows.to_dict("records"):
            name = self._images.get(self._key(row))
            if name is None:
                raise InputError(f"{self.folder / 'manifest.csv'} has no image for {' · '.join(self._key(row))}")
            images.append(read_image(self.folder / name))
        if len({image.shape for image in images}) > 1:
            raise InputError(f"the images in {self.folder} have several sizes: {sorted({i.shape for i in images})}")
        return from_uint8(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


class UpsamplingGenerator(ImageGenerator):
    """Generator that enlarges sampled images; each result depends only on the seed, its identity and its small image.

    Args:
        small: images to enlarge.
        small_size: side in pixels of the small images in training.
        level: timestep of the noise that is added to the small images.
        max_level: largest level in training.
        kwargs: arguments of :class:`ImageGenerator`.

    Raises:
        InputError: for a level that did not occur in training.
    """

    def __init__(self, *, small: SmallImages, small_size: int, level: int, max_level: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= level <= max_level:
            raise InputError(f"level = {level}: the model was trained with levels from 0 to {max_level}")
        self.small, self.small_size, self.level = small, small_size, level

    def recipe(self) -> dict[str, Any]:
        """Return the recipe of :class:`ImageGenerator`, with the small images and their noise level."""
        return {**super().recipe(), "small": self.small.digest, "level": self.level}

    @torch.no_grad()
    def sample(self, network: nn.Module, rows: pd.DataFrame) -> torch.Tensor:
        """Enlarge the small images of ``rows``; see :meth:`ImageGenerator.sample`."""
        device = next(network.parameters()).device
        images = self.small.read(rows)
        if tuple(images.shape[2:]) != (self.small_size,) * 2:
            raise InputError(
                f"the images in {self.small.folder} have {images.shape[3]} x {images.shape[2]} pixels, and the model "
                f"was trained to enlarge images of {self.small_size}"
            )
        if isinstance(self.space, nn.Module):
            self.space.to(device)
        small = self.space.encode(enlarged(images, self.image_size).to(device))
        noise = self._noise(rows, small.shape[1:]).to(device)
        noisy = add_noise(small, noise, torch.full((len(small),), self.level), self.schedule)
        return super().sample(WithSmallImages(network, noisy, self.level).eval(), rows)

    def _noise(self, rows: pd.DataFrame, shape: torch.Size) -> torch.Tensor:
        noise = torch.empty(len(rows), *shape)
        for index, row in enumerate(rows.astype(str).to_dict("records")):
            torch.randn(*shape, generator=generator_from("small", self.seed, row), out=noise[index])
        return noise
