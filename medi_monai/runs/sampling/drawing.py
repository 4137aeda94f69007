"""Drawing the images of a plan that are missing, in batches of any combinations."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
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

__all__ = ["count_missing", "draw_images", "draw_tars", "tar_units"]


def count_missing(images: PlannedImages, share: WorkShare, files: ImageFiles) -> int:
    """Number of images of a share that are not there, as single files or in tar files."""
    if share.unit > 1:
        units = tar_units(images, share)
        return sum(len(positions) for _, positions, name in units if not _there(files, positions, name))
    return sum(len(_missing(images, positions, files)[0]) for positions in images.blocks(share))


def draw_images(
    network: nn.Module,
    generator: ImageGenerator,
    images: PlannedImages,
    share: WorkShare,
    files: ImageFiles,
    recipe: Mapping[str, Any],
    missing: int,
    shows: bool,
) -> None:
    """Draw the missing images of a share as single PNG files.

    Args:
        network: trained network.
        generator: generator of the images.
        images: the plan.
        share: share of the process.
        files: where images are.
        recipe: settings, which each file contains.
        missing: number of images that are missing.
        shows: whether to show progress.
    """

    def draw(engine: Engine, batch: pd.DataFrame) -> None:
        drawn = _draw_full(network, generator, batch, images.total)
        for name, row, pixels in zip(batch.index, batch.to_dict("records"), drawn):
            with atomic_path(files.root / name) as path:
                path.write_bytes(png_bytes(pixels, row, recipe))

    if missing:
        batches = -(-missing // generator.batch_size)
        _run(draw, _missing_batches(images, share, files, generator.batch_size), batches, shows)


def draw_tars(
    network: nn.Module,
    generator: ImageGenerator,
    images: PlannedImages,
    share: WorkShare,
    files: ImageFiles,
    recipe: Mapping[str, Any],
    missing: int,
    shows: bool,
) -> None:
    """Draw the missing tar files of a share; arguments as for :func:`draw_images`. Images that are there are packed."""

    def draw(engine: Engine, unit: tuple[np.ndarray, str]) -> None:
        positions, name = unit
        with atomic_path(files.root / name) as path, tarfile.open(path, "w") as archive:
            for start in range(0, len(positions), generator.batch_size):
                chosen = positions[start : start + generator.batch_size]
                names, rows = images.names(chosen), images.rows(chosen)
                there = {image: files.find(int(at), image) for at, image in zip(chosen, names)}
                lacking = [there[image] is None for image in names]
                pixels = iter(_draw_full(network, generator, rows[lacking], images.total) if any(lacking) else ())
                for image, row in zip(names, rows.to_dict("records")):
                    path_of_image = there[image]
                    if path_of_image is None:
                        png = png_bytes(next(pixels), row, recipe)
                    else:
                        png = Path(files.root, path_of_image).read_bytes()
                    add_member(archive, image, png, row, recipe)

    units = ((positions, name) for _, positions, name in tar_units(images, share) if not _there(files, positions, name))
    if missing:
        count = sum(not _there(files, positions, name) for _, positions, name in tar_units(images, share))
        _run(draw, units, count, shows)


def _draw_full(network: nn.Module, generator: ImageGenerator, rows: pd.DataFrame, total: int) -> np.ndarray:
    """Draw a batch of the same size wherever the plan has one, filled up with copies.

    Float32 rounds differently in batches of other sizes: a pixel of one image in a hundred then differs by a gray
    level, depending on how the plan is shared or where it was interrupted.
    """
    lacking = min(generator.batch_size, total) - len(rows)
    filled = rows.iloc[np.arange(len(rows) + max(0, lacking)) % len(rows)]
    return generator.draw(network, filled)[: len(rows)]


def tar_units(images: PlannedImages, share: WorkShare) -> Iterator[tuple[int, np.ndarray, str]]:
    """Number, positions and path of each tar file of a share."""
    for number in range(share.index, -(-images.total // share.unit), share.count):
        positions = np.arange(number * share.unit, min((number + 1) * share.unit, images.total))
        yield number, positions, tar_name(number, images.names(positions))


def _there(files: ImageFiles, positions: np.ndarray, name: str) -> bool:
    return files.find(int(positions[0]), name) is not None


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
    """Full batches of rows, indexed by the names of their files; the last one may be smaller."""
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
