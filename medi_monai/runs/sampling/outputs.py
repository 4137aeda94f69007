"""Write and compare the manifest of a sampling run, and draw its grid of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort.plans import EVIDENCE
from medi_monai.cohort.samples import TAR
from medi_monai.engines.extension import path_grid
from medi_monai.engines.generator import subpopulation_grid
from medi_monai.runs.sampling.drawing import tar_units
from medi_monai.runs.sampling.files import ImageFiles, members
from medi_monai.runs.sampling.images import PlannedImages
from medi_monai.runs.sampling.names import text_of, word_of
from medi_monai.schema import ValuePath
from medi_monai.utils.errors import RunStopped
from medi_monai.utils.files import atomic_path
from medi_monai.wsi.readers import read_image

__all__ = ["is_manifest_of", "write_grid", "write_manifest"]

#: maximum number of images per combination in grid.png, and of its rows and columns
MAX_GRID_IMAGES, MAX_GRID_CELLS = 4, 24


def write_manifest(path: Path, images: PlannedImages, files: ImageFiles) -> None:
    """Write the manifest with one line per image, one block at a time.

    Args:
        path: file to write.
        images: images of the plan.
        files: finds the files of the images.

    Raises:
        RunStopped: if an image is missing.
    """
    # quote cells if one contains a carriage return, which would end the line when the CSV file is read
    quoting = csv.QUOTE_NONNUMERIC if images.has_line_breaks() else csv.QUOTE_MINIMAL
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(_tables(images, files)):
            table.to_csv(file, index=False, header=number == 0, quoting=quoting, lineterminator="\n")


def _tables(images: PlannedImages, files: ImageFiles) -> Iterator[pd.DataFrame]:
    if images.share.unit > 1:
        for _, positions, name in tar_units(images, images.share):
            tar = _present(files.find(int(positions[0]), name), name)
            yield images.manifest(positions, images.names(positions)).assign(**{TAR: tar})
        return
    for positions in images.blocks():
        names = images.names(positions)
        found = [_present(files.find(at, name), name) for at, name in zip(positions.tolist(), names)]
        yield images.manifest(positions, found)


def _present(path: str | None, name: str) -> str:
    if path is None:
        raise RunStopped(f"{name} was removed while the run was working: repeat the command, which draws it again")
    return path


def is_manifest_of(path: Path, images: PlannedImages) -> bool:
    """Return whether a manifest lists the images of a plan in this order; the columns of the evidence are ignored."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if [name for name in header if name not in (*EVIDENCE, TAR)] != images.columns or header[0] != "image":
            return False
        names = chain.from_iterable(images.names(positions) for positions in images.blocks())
        for name in names:
            row = next(rows, None)
            if row is None or not row or not row[0].endswith(name):
                return False
        return next(rows, None) is None


def write_grid(
    path: Path, images: PlannedImages, files: ImageFiles, columns: Sequence[str], title: str, way: ValuePath | None
) -> None:
    """Write a grid with some images of each combination, or of the first combinations if there are many.

    Args:
        path: file to write.
        images: images of the plan.
        files: finds the files of the images.
        columns: column of the plan for the rows of the grid, then those for its columns.
        title: line above the grid.
        way: path from one value to another if the plan was made for one; None for other plans.
    """
    codes, count = images.grid_codes(list(columns), MAX_GRID_CELLS)
    if len(codes) < count:
        title = f"{title}; {len(codes):,} of {count:,} combinations"
    positions = images.first_of_each(codes, 1 if way else MAX_GRID_IMAGES)
    shown = images.requested(positions)
    shown = shown.assign(**{name: [word_of(text_of(cell)) for cell in shown[name]] for name in columns})
    pixels = _pixels(images, files, positions)
    rows = shown[list(columns)]
    grid = path_grid(way, rows, pixels, title) if way else subpopulation_grid(rows, pixels, columns, title)
    with atomic_path(path) as temporary:
        Image.fromarray(grid).save(temporary, format="png")


def _pixels(images: PlannedImages, files: ImageFiles, positions: np.ndarray) -> list[np.ndarray]:
    names = images.names(positions)
    unit = images.share.unit
    if unit == 1:
        found = [_present(files.find(at, name), name) for at, name in zip(positions.tolist(), names)]
        return [read_image(files.root / path) for path in found]
    wanted: set[str] = set(names)
    pixels: dict[str, np.ndarray] = {}
    numbers = set((positions // unit).tolist())
    for number, block, name in tar_units(images, images.share):
        if number in numbers:
            for member, content in members(files.root / _present(files.find(int(block[0]), name), name)):
                if member in wanted:
                    pixels[member] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return [pixels[name] for name in names]
