"""Draw the missing images of a plan, in batches that may mix combinations."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ignite.engine import Engine
from torch import nn

from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.handlers import attach_bar
from medi_monai.runs.sampling.files import ImageFiles, add_member, png_bytes, tar_name
from medi_monai.runs.sampling.images import PlannedImages
from medi_monai.runs.sampling.shares import WorkShare
from medi_monai.utils.files import atomic_path

__all__ = ["Drawing", "tar_units"]


@dataclass(frozen=True)
class Drawing:
    """Draws the missing images of a plan into files.

    Args:
        network: trained network.
        generator: generator of the images.
        images: images of the plan.
        files: finds files of images that exist.
        recipe: settings of the sampling, which are stored in each file.
    """

    network: nn.Module
    generator: ImageGenerator
    images: PlannedImages
    files: ImageFiles
    recipe: Mapping[str, Any]

    def count_missing(self, share: WorkShare) -> int:
        """Return the number of missing images of a share; all images of a missing tar file count."""
        if share.unit > 1:
            return sum(len(positions) for positions, _ in self._missing_tars(share))
        return sum(len(_missing(self.images, positions, self.files)[0]) for positions in self.images.blocks(share))

    def draw(self, share: WorkShare, missing: int, shows: bool) -> None:
        """Draw the missing images of a share, as PNG files or in tar files, to which images in PNG files are copied.

        Args:
            share: share of this process.
            missing: number of missing images of the share.
            shows: whether to show progress.
        """
        if not missing:
            return
        if share.unit > 1:
            _run(self._write_tar, self._missing_tars(share), sum(1 for _ in self._missing_tars(share)), shows)
        else:
            size = self.generator.batch_size
            batches = _missing_batches(self.images, share, self.files, size)
            _run(self._write_images, batches, -(-missing // size), shows)

    def _write_images(self, engine: Engine, batch: pd.DataFrame) -> None:
        for name, row, pixels in zip(batch.index, batch.to_dict("records"), self._draw_full(batch)):
            with atomic_path(self.files.root / name) as path:
                path.write_bytes(png_bytes(pixels, row, self.recipe))

    def _write_tar(self, engine: Engine, unit: tuple[np.ndarray, str]) -> None:
        positions, name = unit
        size = self.generator.batch_size
        with atomic_path(self.files.root / name) as path, tarfile.open(path, "w") as archive:
            for start in range(0, len(positions), size):
                chosen = positions[start : start + size]
                names, rows = self.images.names(chosen), self.images.rows(chosen)
                there = {image: self.files.find(int(at), image) for at, image in zip(chosen, names)}
                lacking = [there[image] is None for image in names]
                pixels = iter(self._draw_full(rows[lacking]) if any(lacking) else ())
                for image, row in zip(names, rows.to_dict("records")):
                    path_of_image = there[image]
                    if path_of_image is None:
                        png = png_bytes(next(pixels), row, self.recipe)
                    else:
                        png = Path(self.files.root, path_of_image).read_bytes()
                    add_member(archive, image, png, row, self.recipe)

    def _draw_full(self, rows: pd.DataFrame) -> np.ndarray:
        """Draw images in a batch that is filled up to the usual size with copies, which are not returned.

        Arithmetic rounds differently in batches of other sizes: a pixel in one of a hundred images would differ by one
        gray level, depending on how the plan is shared or where it was interrupted.
        """
        lacking = min(self.generator.batch_size, self.images.total) - len(rows)
        filled = rows.iloc[np.arange(len(rows) + max(0, lacking)) % len(rows)]
        return self.generator.draw(self.network, filled)[: len(rows)]

    def _missing_tars(self, share: WorkShare) -> Iterator[tuple[np.ndarray, str]]:
        for _, positions, name in tar_units(self.images, share):
            if self.files.find(int(positions[0]), name) is None:
                yield positions, name


def tar_units(images: PlannedImages, share: WorkShare) -> Iterator[tuple[int, np.ndarray, str]]:
    """Yield the number of each tar file of a share, the positions of its images in the plan, and its path."""
    for number in range(share.index, -(-images.total // share.unit), share.count):
        positions = np.arange(number * share.unit, min((number + 1) * share.unit, images.total))
        yield number, positions, tar_name(number, images.names(positions))


def _run(draw: Any, batches: Iterator[Any], count: int, shows: bool) -> None:
    engine = Engine(draw)
    if shows:
        attach_bar(engine, "sampling", count)
    engine.run(batches, max_epochs=1, epoch_length=count)


def _missing(images: PlannedImages, positions: np.ndarray, files: ImageFiles) -> tuple[np.ndarray, list[str]]:
    names = images.names(positions)
    lacking = [files.find(position, name) is None for position, name in zip(positions.tolist(), names)]
    return positions[lacking], [name for name, is_lacking in zip(names, lacking) if is_lacking]


def _missing_batches(
    images: PlannedImages, share: WorkShare, files: ImageFiles, batch_size: int
) -> Iterator[pd.DataFrame]:
    """Yield the missing images of a share in full batches of rows, indexed by file name; the last may be smaller."""
    pending: list[pd.DataFrame] = []
    for positions in images.blocks(share):
        lacking, names = _missing(images, positions, files)
        pending.append(images.rows(lacking).set_axis(names, axis=0))
        rows = pd.concat(pending) if len(pending) > 1 else pending[0]
        whole = len(rows) // batch_size * batch_size
        yield from (rows.iloc[start : start + batch_size] for start in range(0, whole, batch_size))
        pending = [rows.iloc[whole:]]
    if pending and len(pending[0]):
        yield pending[0]
