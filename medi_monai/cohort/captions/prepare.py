"""From pictures and captions to a cohort: squares of one size, splits by patient, the table; safe to repeat."""

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
from medi_monai.cohort.folder import REJECTED_FILE, claimed_folder, holds_cohort, write_rejected
from medi_monai.cohort.prepare import QUALITY_FILE
from medi_monai.cohort.table import Cohort
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, file_fingerprint, json_digest, write_table
from medi_monai.utils.progress import progress

__all__ = ["CaptionPreparation", "load_or_prepare_captions", "prepare_captions"]

#: what is known of a picture besides its pixels; all of it is written to the file of quality
MEASURES = ("width", "height", "hash", "suffix", "fingerprint")
#: pictures in one task
CHUNK = 64
CONTINUE = "To go on without such {}: --on_error skip"


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
    def name(self) -> str:
        """A folder name that no two preparations share: data set, picture size and the digest of all settings."""
        digest = json_digest(self.settings())[:8]
        return f"{self.source.folder.resolve().name}_{self.square.image_size}px_{digest}"


def load_or_prepare_captions(
    preparation: CaptionPreparation,
    cohort_dir: str | os.PathLike,
    on_error: str = "stop",
    num_workers: int | None = None,
) -> Cohort:
    """The cohort in ``cohort_dir``, prepared on first use; as :func:`medi_monai.cohort.load_or_prepare`.

    Raises:
        InputError: as :func:`prepare_captions`, and where the cohort that is there has no captions.
    """
    if not holds_cohort(cohort_dir):
        return prepare_captions(preparation, cohort_dir, on_error, num_workers, once=True)
    cohort = Cohort.read(cohort_dir)
    if "caption" not in cohort.table.columns:
        raise InputError(f"the cohort in {cohort_dir} has no column `caption`; choose another cohort_dir")
    return cohort


def prepare_captions(
    preparation: CaptionPreparation,
    output_dir: str | os.PathLike,
    on_error: str = "stop",
    num_workers: int | None = None,
    once: bool = False,
) -> Cohort:
    """Make all pictures squares; write ``patches/``, the cohort table, ``preparation.json`` and ``rejected.csv``.

    Pictures that are done are not read again when the same call is made again, but for those whose file is another by
    now. The table is written last.

    Args:
        preparation: source, size and splits.
        output_dir: the cohort's folder.
        on_error: ``stop`` at the first row or picture that cannot be used, or ``skip`` it; either way ``rejected.csv``
            is a list of what was left out.
        num_workers: threads; by default one per core.
        once: take the cohort that another process has prepared meanwhile, and look at no picture again.

    Returns:
        The cohort: as of slides, with a column ``caption``; ``x`` and ``y`` are 0 and ``mpp`` is empty.

    Raises:
        InputError: for anything wrong with settings or (with ``stop``) a row or a picture; also where no picture is
            left, or ``output_dir`` holds a cohort prepared otherwise.
    """
    if on_error not in ("stop", "skip"):
        raise unknown_value("choice of `on_error`", on_error, ("stop", "skip"))
    rows = _rows(preparation, on_error)
    with claimed_folder(output_dir, preparation.settings()) as root:
        if once and holds_cohort(root):
            return Cohort.read(root)
        good = rows[rows["problem"] == ""]
        measured = pd.DataFrame(_measured(preparation, root, good["image"].tolist(), on_error, num_workers))
        measured = measured.set_axis(good.index)
        _finish(preparation, root, rows, measured)
    return Cohort.read(root)


def _rows(preparation: CaptionPreparation, on_error: str) -> pd.DataFrame:
    source = preparation.source
    rows = source.rows()
    wrong = rows["problem"] != ""
    if wrong.any() and on_error == "stop":
        first = rows.loc[wrong].iloc[0]
        alike = int((rows["problem"] == first["problem"]).sum())
        others = f"; {alike} rows have this problem" if alike > 1 else ""
        more = f", {int(wrong.sum())} have any" if alike < wrong.sum() else ""
        raise InputError(
            f"{source.table_name}, row {first['row'] + 1} ({first['image']}): {first['problem'].rstrip('.')}"
            f"{others}{more}. {CONTINUE.format('rows')}"
        )
    if source.comes_split:
        return rows
    # splits do not depend on which files can be read today
    known = rows["patient"] != ""
    if not known.any():
        raise InputError(f"no row of {source.table_name} has a patient")
    split = preparation.splits.assign(rows[known], source.attributes)
    return rows.assign(split=split.reindex(rows.index, fill_value=""))


def _measured(
    preparation: CaptionPreparation, root: Path, images: list[str], on_error: str, num_workers: int | None
) -> Iterator[dict[str, Any]]:
    folder, square = preparation.source.folder.resolve(), preparation.square
    # decoding and arithmetic leave the interpreter free, and processes take seconds to start
    pool = ThreadPoolExecutor(max(1, num_workers or os.cpu_count() or 1))
    parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    try:
        found = chain.from_iterable(pool.map(lambda part: _make_all(root, folder, part, square), parts))
        for measures in progress(found, len(images), "preparing pictures", "picture"):
            if measures["problem"] and on_error == "stop":
                raise InputError(f"{measures['problem'].rstrip('.')}. {CONTINUE.format('images')}")
            yield measures
    finally:
        pool.shutdown(cancel_futures=True)


def _make_all(root: Path, folder: Path, images: list[str], square: SquareFit) -> list[dict[str, Any]]:
    """Of some pictures, the path of each square from the root, its measures, or its problem."""
    found, patches = [], []
    for image in images:
        result: dict[str, Any] = dict.fromkeys(("patch", *MEASURES, "problem"), "")
        try:
            patch, measures = _make(root, folder, image, square)
            found.append(result | measures)
            patches.append(patch if patch.ndim == 3 else np.repeat(patch[..., None], 3, axis=2))
        except InputError as error:
            found.append(result | {"problem": str(error) if image in str(error) else f"{image}: {error}"})
    if patches:
        hashes = iter(hash_images(np.stack(patches)) if square.image_size >= SIDE else [PLAIN] * len(patches))
        found = [row if row["problem"] else row | {"hash": next(hashes)} for row in found]
    return found


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
    # a picture whose file is another by now has another name, and folders stay small
    digest = json_digest([image, fingerprint])
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(image).stem)[:80]
    return f"patches/{digest[:2]}/{spelled}_{digest[:8]}.png"


def _finish(preparation: CaptionPreparation, root: Path, rows: pd.DataFrame, measured: pd.DataFrame) -> None:
    problem = rows["problem"]
    if len(measured):
        problem = problem.mask(problem == "", measured["problem"].reindex(rows.index, fill_value=""))
    write_rejected(root, rows, problem, preparation.source.files_without_row(rows))
    good = problem == ""
    if not good.any():
        raise InputError(f"no row of {preparation.source.table_name} gave a picture; {root / REJECTED_FILE} says why")
    measured, about = measured[good.loc[measured.index]], rows[good]
    cohort = pd.DataFrame({"image": measured["patch"], "slide": about["slide"], "patient": about["patient"]})
    cohort = cohort.assign(x="0", y="0", mpp="")
    metadata = [*preparation.source.metadata, "caption", "split"]
    cohort[metadata] = about[metadata]
    quality = measured[list(MEASURES)].astype({"width": np.int64, "height": np.int64, "hash": np.uint64})
    write_table(root / QUALITY_FILE, quality)
    _remove_others(root, set(measured["patch"]))
    Cohort(cohort.astype(str).reset_index(drop=True), root).write()


def _remove_others(root: Path, patches: set[str]) -> None:
    for path in sorted((root / "patches").glob("*/*.png")):
        if path.relative_to(root).as_posix() not in patches:
            path.unlink()
