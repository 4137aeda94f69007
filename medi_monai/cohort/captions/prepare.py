"""Preparation of captioned pictures: squares of one size, splits by patient."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort.captions.images import SquareFit, read_picture
from medi_monai.cohort.captions.source import CaptionTable
from medi_monai.cohort.captions.splits import PatientSplit
from medi_monai.cohort.duplicates import PLAIN, SIDE, hash_images
from medi_monai.cohort.prepare import AuditColumns, PreparedImages, Shard, Work
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, file_fingerprint, json_digest
from medi_monai.utils.progress import progress

__all__ = ["CaptionPreparation"]

#: what is known of a picture besides its pixels; all of it is written to the file of quality
MEASURES = ("width", "height", "hash", "suffix", "fingerprint")
#: pictures in one task
CHUNK = 64


@dataclass(frozen=True)
class CaptionPreparation:
    """All that decides what a prepared cohort of captioned pictures is.

    Args:
        source: table and pictures.
        square: size, and how pictures become squares.
        splits: which patients are held out, where the table does not come split.

    Raises:
        InputError: for an attribute to split by that is not carried along.
    """

    source: CaptionTable
    square: SquareFit
    splits: PatientSplit = field(default_factory=PatientSplit)

    def __post_init__(self) -> None:
        for name in self.splits.columns or ():
            if name not in self.source.metadata:
                raise unknown_value(
                    "attribute",
                    name,
                    self.source.metadata,
                    "It has to be one of the columns that are carried along, `attributes`"
                    + ("; ROCO has none: attribute: null" if self.source.is_roco else ""),
                )

    def settings(self) -> dict:
        """The settings as JSON; two preparations with equal settings give equal cohorts."""
        return {
            "source": self.source.settings(),
            "square": asdict(self.square),
            "splits": None if self.source.comes_split else asdict(self.splits),
        }

    @property
    def reads_on_the_fly(self) -> bool:
        """Whether pixels stay in the pictures that they come from: never."""
        return False

    @property
    def columns(self) -> list[str]:
        """Metadata of the cohort table: the columns that are carried along, then the caption."""
        return [*self.source.metadata, "caption"]

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that a cohort which was prepared otherwise needs as well."""
        return ("caption",)

    @property
    def is_measured(self) -> bool:
        """Whether pixels are compared: always."""
        return True

    @property
    def has_quality_page(self) -> bool:
        """Whether tissue, sharpness and background are measured: never."""
        return False

    @property
    def audit_columns(self) -> AuditColumns | None:
        """What the audit compares: the first of the columns to split by, with the others; without one, no audit."""
        if not self.splits.columns:
            return None
        label, *others = self.splits.columns
        attributes = [name for name in dict.fromkeys([*others, *self.source.metadata]) if name != label]
        return AuditColumns(label, attributes)

    @property
    def name(self) -> str:
        """A folder name that no two preparations share: data set, picture size and the digest of all settings."""
        digest = json_digest(self.settings())[:8]
        return f"{self.source.folder.resolve().name}_{self.square.image_size}px_{digest}"

    def with_splits(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows of the source with a column ``split``: its own, or by patient.

        Raises:
            InputError: where no row has a patient.
        """
        if self.source.comes_split:
            return rows
        # splits do not depend on which files can be read today
        known = rows["patient"] != ""
        if not known.any():
            raise InputError(f"no row of {self.source.table_name} has a patient")
        split = self.splits.assign(rows[known], self.source.attributes)
        return rows.assign(split=split.reindex(rows.index, fill_value=""))

    def start(self, root: Path, rows: pd.DataFrame, backend: str) -> Work:
        """The work on the rows that can be used."""
        return _Pictures(self, root, rows)


class _Pictures:
    """Rows that are pictures: each is made a square, and one whose file has changed is made again."""

    def __init__(self, preparation: CaptionPreparation, root: Path, rows: pd.DataFrame) -> None:
        self._root, self._rows = root, rows
        self._folder, self._square = preparation.source.folder.resolve(), preparation.square
        self._num_workers: int | None = None
        self._measures: dict[str, dict[str, Any]] = {}

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """Do the shard's share; yields each picture that cannot be used, and why."""
        self._num_workers = num_workers
        yield from self._measure(self._rows["image"].tolist()[shard.rank :: shard.world_size])

    def collect(self, problems: dict[str, str]) -> PreparedImages:
        """All squares, with those of other processes, which are read once more."""
        images = self._rows["image"]
        problems |= self._measure([image for image in images if image not in self._measures and image not in problems])
        rows = self._rows[~images.isin(problems)]
        measured = pd.DataFrame([self._measures[image] for image in rows["image"]])
        if measured.empty:
            return PreparedImages(measured, [], measured)
        _remove_others(self._root, set(measured["patch"]))
        table = pd.DataFrame({"image": measured["patch"], "x": "0", "y": "0", "mpp": ""})
        quality = measured[list(MEASURES)].astype({"width": np.int64, "height": np.int64, "hash": np.uint64})
        return PreparedImages(table, rows.index, quality)

    def _measure(self, images: list[str]) -> Iterator[tuple[str, str]]:
        if not images:
            return
        # decoding and arithmetic leave the interpreter free, and processes take seconds to start
        pool = ThreadPoolExecutor(max(1, self._num_workers or os.cpu_count() or 1))
        chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        try:
            measured = chain.from_iterable(
                pool.map(lambda chunk: _make_all(self._root, self._folder, chunk, self._square), chunks)
            )
            # results come first: zip would leave the last step of the progress bar undone
            for measures, image in zip(progress(measured, len(images), "preparing pictures", "picture"), images):
                if measures["problem"]:
                    yield image, measures["problem"]
                else:
                    self._measures[image] = measures
        finally:
            pool.shutdown(cancel_futures=True)


def _make_all(root: Path, folder: Path, images: list[str], square: SquareFit) -> list[dict[str, Any]]:
    """Of some pictures, the path of each square from the root, its measures, or its problem."""
    rows, patches = [], []
    for image in images:
        empty: dict[str, Any] = dict.fromkeys(("patch", *MEASURES, "problem"), "")
        try:
            patch, measures = _make(root, folder, image, square)
            rows.append(empty | measures)
            patches.append(patch if patch.ndim == 3 else np.repeat(patch[..., None], 3, axis=2))
        except InputError as error:
            rows.append(empty | {"problem": str(error) if image in str(error) else f"{image}: {error}"})
    if patches:
        hashes = iter(hash_images(np.stack(patches)) if square.image_size >= SIDE else [PLAIN] * len(patches))
        rows = [row if row["problem"] else row | {"hash": next(hashes)} for row in rows]
    return rows


def _make(root: Path, folder: Path, image: str, square: SquareFit) -> tuple[np.ndarray, dict[str, Any]]:
    """The square of a picture, written where it lacks, and what is known of it."""
    path = folder / image
    fingerprint = _fingerprint(path)
    target = _target(image, fingerprint)
    if (root / target).is_file():
        patch, (width, height) = read_picture(root / target), _size(path)
    else:
        pixels = read_picture(path, square.window)
        (height, width), patch = pixels.shape[:2], square.apply(pixels)
        with atomic_path(root / target) as temporary:
            Image.fromarray(patch).save(temporary, format="png")
    measures = {"width": width, "height": height, "suffix": path.suffix, "fingerprint": fingerprint}
    return patch, {"patch": target, **measures}


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _fingerprint(path: Path) -> str:
    try:
        return file_fingerprint(path)
    except OSError as error:
        raise InputError(f"cannot read the image {path}: {error.strerror}") from None


def _target(image: str, fingerprint: str) -> str:
    # a picture whose file has changed has another name, and folders stay small
    digest = json_digest([image, fingerprint])
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(image).stem)[:80]
    return f"patches/{digest[:2]}/{spelled}_{digest[:8]}.png"


def _remove_others(root: Path, patches: set[str]) -> None:
    for path in sorted((root / "patches").glob("*/*.png")):
        if path.relative_to(root).as_posix() not in patches:
            path.unlink()
