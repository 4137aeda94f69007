"""Prepare captioned images: make them squares of one size and split them by patient."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medi_monai.cohort.captions.images import SquareFit
from medi_monai.cohort.captions.source import CaptionTable
from medi_monai.cohort.captions.splits import PatientSplit
from medi_monai.cohort.duplicates import PLAIN, SIDE, hash_images
from medi_monai.cohort.prepare import AuditColumns, PreparedImages, Shard, Work
from medi_monai.cohort.volumes import FILE, SERIES, SLICE, VolumeReader
from medi_monai.cohort.volumes.reading import image_fingerprint
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, json_digest
from medi_monai.utils.progress import progress
from medi_monai.wsi.readers import PixelRules, read_plain

__all__ = ["CaptionPreparation"]

#: columns of the quality table
MEASURES = ("width", "height", "hash", "suffix", "fingerprint")
#: MR values have no unit: the values of a picture between these percentiles are scaled to gray levels
PERCENTILES = (0.5, 99.5)
#: PNG text field of a square: width and height of the picture from which it was made
SOURCE_SIZE = "source_size"
#: file names of squares, without the suffix
OWN = re.compile(r".*_[0-9a-f]{8}")
#: images per task
CHUNK = 64
#: name of an image, its file or folder, its slice within a volume, and its DICOM series; the last two may be empty
ImageSource = tuple[str, str, str, str]


@dataclass(frozen=True)
class CaptionPreparation:
    """All settings that determine a prepared cohort of captioned images.

    Args:
        source: table and images.
        square: image size, and how images are made square.
        splits: how patients are split; ignored if the table has a split.
        pixels: how values, pages and transparent pixels of the files are interpreted.
        given: names of the settings that the user set explicitly, which an existing cohort must not contradict.

    Raises:
        InputError: if an attribute to stratify by is not among the kept columns.
    """

    source: CaptionTable
    square: SquareFit
    splits: PatientSplit = field(default_factory=PatientSplit)
    pixels: PixelRules = field(default_factory=lambda: PixelRules(percentiles=PERCENTILES, background="border"))
    given: Collection[str] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in self.splits.columns or ():
            if name not in self.source.metadata:
                raise unknown_value(
                    "attribute",
                    name,
                    self.source.metadata,
                    "It has to be one of the columns to keep, `attributes`"
                    + ("; ROCO has none: attribute: null" if self.source.is_roco else ""),
                )

    def settings(self) -> dict:
        """Return all settings, JSON-compatible; equal settings give equal cohorts."""
        return {"source": self.source.settings(), **self.rules()}

    def rules(self) -> dict:
        """Return all settings except those of the source, JSON-compatible."""
        return {
            "square": asdict(self.square),
            "pixels": asdict(self.pixels),
            "splits": None if self.source.comes_split else asdict(self.splits),
        }

    @property
    def reads_on_the_fly(self) -> bool:
        """Whether pixels are read from the original images: never, because squares are written to new files."""
        return False

    @property
    def columns(self) -> list[str]:
        """Metadata columns of the cohort table: the kept columns, then the caption."""
        return [*self.source.metadata, "caption"]

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that an existing cohort must also have."""
        return ("caption",)

    @property
    def is_measured(self) -> bool:
        """Whether perceptual hashes are computed: always."""
        return True

    @property
    def audit_columns(self) -> AuditColumns | None:
        """Columns to audit: the first column to stratify by is the label; None without such a column."""
        if not self.splits.columns:
            return None
        label, *others = self.splits.columns
        attributes = [name for name in dict.fromkeys([*others, *self.source.metadata]) if name != label]
        return AuditColumns(label, attributes)

    @property
    def name(self) -> str:
        """Unique folder name: data set, image size and digest of all settings."""
        digest = json_digest(self.settings())[:8]
        return f"{self.source.folder.resolve().name}_{self.square.image_size}px_{digest}"

    def with_splits(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the source with a column ``split``: that of the table if it has one, else by patient.

        Raises:
            InputError: if no row has a patient.
        """
        if self.source.comes_split:
            return rows
        # rows with problems are also split: splits must not depend on which files can be read today
        known = rows["patient"] != ""
        if not known.any():
            raise InputError(f"no row of {self.source.table_name} has a patient")
        split = self.splits.assign(rows[known], self.source.attributes)
        return rows.assign(split=split.reindex(rows.index, fill_value=""))

    def start(self, root: Path, rows: pd.DataFrame, backend: str) -> Work:
        """Return the object that makes the squares of the usable rows."""
        return _Pictures(self, root, rows)


class _Pictures:
    """Makes images square; processes an image again if its file has changed."""

    def __init__(self, preparation: CaptionPreparation, root: Path, rows: pd.DataFrame) -> None:
        self._root, self._rows, self._preparation = root, rows, preparation
        self._folder = preparation.source.folder.resolve()
        self._num_workers: int | None = None
        self._measures: dict[str, dict[str, Any]] = {}

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """Process this shard's part of the rows; yield each unusable image with the reason."""
        self._num_workers = num_workers
        yield from self._measure(self._rows.iloc[shard.rank :: shard.world_size])

    def collect(self, problems: dict[str, str]) -> PreparedImages:
        """Return the table of all squares; squares made by other processes are read to measure them."""
        images = self._rows["image"]
        problems |= self._measure(self._rows[~images.isin([*self._measures, *problems])])
        rows = self._rows[~images.isin(problems)]
        measured = pd.DataFrame([self._measures[image] for image in rows["image"]])
        if measured.empty:
            return PreparedImages(measured, [], measured)
        _remove_others(self._root, set(measured["patch"]))
        table = pd.DataFrame({"image": measured["patch"], "x": "0", "y": "0", "mpp": ""})
        quality = measured[list(MEASURES)].astype({"width": np.int64, "height": np.int64, "hash": np.uint64})
        return PreparedImages(table, rows.index, quality)

    def _measure(self, rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
        images = rows["image"].tolist()
        if not images:
            return
        sources = list(zip(images, rows[FILE], rows[SLICE], rows[SERIES]))
        # decoding and arithmetic release the GIL, and processes take seconds to start
        pool = ThreadPoolExecutor(max(1, self._num_workers or os.cpu_count() or 1))
        chunks = [sources[start : start + CHUNK] for start in range(0, len(sources), CHUNK)]
        try:
            measured = chain.from_iterable(
                pool.map(lambda chunk: _make_all(self._root, self._folder, chunk, self._preparation), chunks)
            )
            # `measured` is the first argument: zip has to exhaust it to complete the progress bar
            for measures, image in zip(progress(measured, len(images), "preparing pictures", "picture"), images):
                if measures["problem"]:
                    yield image, measures["problem"]
                else:
                    self._measures[image] = measures
        finally:
            pool.shutdown(cancel_futures=True)


def _make_all(
    root: Path, folder: Path, images: list[ImageSource], preparation: CaptionPreparation
) -> list[dict[str, Any]]:
    """For each image, the path of its square relative to the root and its measurements, or a problem."""
    rows, patches = [], []
    square = preparation.square
    # one reader for all images, because the slices of a volume are adjacent rows
    reader = VolumeReader(preparation.source.volumes, preparation.pixels)
    for source in images:
        image = source[0]
        empty: dict[str, Any] = dict.fromkeys(("patch", *MEASURES, "problem"), "")
        try:
            patch, measures = _make(root, folder, source, square, reader)
            rows.append(empty | measures)
            patches.append(patch if patch.ndim == 3 else np.repeat(patch[..., None], 3, axis=2))
        except InputError as error:
            rows.append(empty | {"problem": str(error) if image in str(error) else f"{image}: {error}"})
    if patches:
        hashes = iter(hash_images(np.stack(patches)) if square.image_size >= SIDE else [PLAIN] * len(patches))
        rows = [row if row["problem"] else row | {"hash": next(hashes)} for row in rows]
    return rows


def _make(
    root: Path, folder: Path, source: ImageSource, square: SquareFit, reader: VolumeReader
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the square of an image, written first if it does not exist, and its measurements."""
    image, file, name, series = source
    path = folder / file
    fingerprint = _fingerprint(path, series)
    target = _target(image, fingerprint)
    size = _source_size(root / target)
    if size is not None:
        patch, (width, height) = read_plain(root / target), size
    else:
        picture = reader.read(path, name, series)
        (height, width), patch = picture.pixels.shape[:2], square.apply(picture.pixels, picture.spacing)
        about = PngInfo()
        about.add_text(SOURCE_SIZE, f"{width} {height}")
        with atomic_path(root / target) as temporary:
            Image.fromarray(patch).save(temporary, format="png", pnginfo=about)
    measures = {"width": width, "height": height, "suffix": path.suffix, "fingerprint": fingerprint}
    return patch, {"patch": target, **measures}


def _source_size(square: Path) -> tuple[int, int] | None:
    """Return (width, height) of the picture from which a square was made; None if there is no finished square."""
    if not square.is_file():
        return None
    try:
        with Image.open(square) as image:
            width, _, height = str(image.info.get(SOURCE_SIZE, "")).partition(" ")
    except OSError:
        return None
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else None


def _fingerprint(path: Path, series: str) -> str:
    try:
        return image_fingerprint(path, series)
    except OSError as error:
        raise InputError(f"cannot read the image {path}: {error.strerror}") from None


def _target(image: str, fingerprint: str) -> str:
    # an image whose file has changed gets a new name; subfolders keep folders small
    digest = json_digest([image, fingerprint])
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(image).stem)[:80]
    return f"patches/{digest[:2]}/{spelled}_{digest[:8]}.png"


def _remove_others(root: Path, patches: set[str]) -> None:
    for path in sorted((root / "patches").glob("*/*.png")):
        # delete nothing else: only squares made here record the size of their source
        if path.relative_to(root).as_posix() not in patches and OWN.fullmatch(path.stem) and _source_size(path):
            path.unlink()
