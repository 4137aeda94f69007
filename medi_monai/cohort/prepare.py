"""Prepare a cohort from the rows of a source; safe to interrupt, to repeat and to run in parallel."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from medi_monai.cohort.folder import (
    REJECTED_FILE,
    SETTINGS_FILE,
    check_given,
    check_new,
    claimed_folder,
    holds_cohort,
    write_rejected,
)
from medi_monai.cohort.table import PATCH_COLUMNS, TABLE_FILES, Cohort, require_columns
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import read_json, write_json, write_table
from medi_monai.utils.records import was_changed
from medi_monai.utils.records.fingerprints import fingerprints
from medi_monai.utils.tables import read_parquet
from medi_monai.utils.text import plural
from medi_monai.wsi.readers import BACKENDS

__all__ = [
    "QUALITY_FILE",
    "SLIDES_FILE",
    "AnyPreparation",
    "AuditColumns",
    "PreparedImages",
    "Shard",
    "Work",
    "default_cohort_dir",
    "load_or_prepare",
    "prepare",
    "read_quality",
    "table_cohort",
]

#: quality measurements, one row per image in the order of the cohort table
QUALITY_FILE = "quality.parquet"
#: column of the quality table: fingerprints of the cohort's image files; the column ``fingerprint`` is that of the
#: source files
PIXELS = "pixels"
#: properties of slides, one row per slide
SLIDES_FILE = "slides.csv"
#: folder, within a bundle, of the cohorts that runs prepare on first use
DEFAULT_PLACE = ("output", "preparing")
CONTINUE = "To continue without such {}, use --on_error skip"


@dataclass(frozen=True)
class Shard:
    """Which part of the work this process does, if several were started together.

    Args:
        rank: index of this process.
        world_size: number of processes.
        wait: barrier, which returns when all processes have called it.
    """

    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = field(default=lambda: None)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files that all processes share."""
        return self.rank == 0


@dataclass(frozen=True)
class PreparedImages:
    """The images of a cohort.

    Args:
        table: one row per image: ``image`` (path relative to the cohort's folder, or absolute), ``x``, ``y``, ``mpp``,
            and ``source_mpp`` if regions are read from larger images.
        source_rows: for each image, the index of its row in the source.
        quality: one row per image: quality measurements.
        slides: one row per slide, or None.
    """

    table: pd.DataFrame
    source_rows: Sequence[Any]
    quality: pd.DataFrame
    slides: pd.DataFrame | None = None


@dataclass(frozen=True)
class AuditColumns:
    """Columns that the audit of a prepared cohort uses.

    Args:
        label: column of the class.
        attributes: metadata columns.
        combinations: columns whose combinations are compared between splits; None for label and attributes.
    """

    label: str
    attributes: Sequence[str]
    combinations: Sequence[str] | None = None


class Work(Protocol):
    """Turns usable rows of a source into images of a cohort; does not process finished images again."""

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """Process this shard's part of the rows; yield each unusable image with the reason."""

    def collect(self, problems: dict[str, str]) -> PreparedImages:
        """Return the images of all shards.

        Args:
            problems: reason for each unusable image of all shards; problems that are found only now are added to it.
        """


class AnyPreparation(Protocol):
    """All settings that determine a prepared cohort, of patches or of captioned images."""

    @property
    def source(self) -> Any:
        """Table and images: ``rows``, ``files_without_row``, ``table_name``, ``root`` and ``folder``."""

    @property
    def given(self) -> Collection[str]:
        """Names of the settings that the user set explicitly."""

    @property
    def splits(self) -> Any:
        """How patients are split; its ``columns`` are the columns that define the split, or None."""

    @property
    def name(self) -> str:
        """Unique folder name of this preparation."""

    @property
    def columns(self) -> list[str]:
        """Metadata columns of the cohort table."""

    @property
    def required(self) -> Sequence[str]:
        """Columns that an existing cohort must also have."""

    @property
    def is_measured(self) -> bool:
        """Whether perceptual hashes are computed, which near-duplicates need."""

    @property
    def audit_columns(self) -> AuditColumns | None:
        """Columns to audit; None for no audit."""

    def settings(self) -> dict:
        """Return all settings, JSON-compatible; equal settings give equal cohorts."""

    def rules(self) -> dict:
        """Return all settings except those of the source, JSON-compatible."""

    def with_splits(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the source with a column ``split``, which is empty where it cannot be determined."""

    def start(self, root: Path, rows: pd.DataFrame, backend: str) -> Work:
        """Return the object that makes the images of the usable rows."""


def default_cohort_dir(preparation: AnyPreparation, bundle_root: str | os.PathLike) -> str:
    """Return ``dataset_dir`` if it contains a cohort, otherwise a folder in the bundle named after the settings."""
    root = preparation.source.root
    if root is not None and holds_cohort(root):
        return str(root)
    return str(Path(bundle_root, *DEFAULT_PLACE, preparation.name))


def load_or_prepare(
    preparation: AnyPreparation, cohort_dir: str | os.PathLike, on_error: str = "stop", num_workers: int | None = None
) -> Cohort:
    """Read the cohort in ``cohort_dir``; prepare it first if it does not exist.

    An existing cohort is used unchanged; settings that the user set explicitly must agree with those of the cohort. If
    several processes start without a cohort (``torchrun``), one prepares it and the others wait.

    Raises:
        InputError: see :func:`prepare`; also if an existing cohort lacks a required column, such as ``caption``, was
            prepared with other settings, or has images that have changed; and if there is neither a cohort nor a data
            set from which to prepare one. The demo cohort is prepared only in its :func:`default_cohort_dir`.
    """
    if not holds_cohort(cohort_dir):
        check_new(cohort_dir)
        source = preparation.source.root
        if source is None and Path(cohort_dir).parts[-3:-1] != DEFAULT_PLACE:
            raise InputError(
                f"{cohort_dir} holds no cohort, and dataset_dir is null: correct cohort_dir, set dataset_dir, or "
                "leave both out for the demo cohort"
            )
        print(f"{cohort_dir} holds no cohort: preparing it from {source or 'the demo data'}", flush=True)
        return prepare(preparation, cohort_dir, on_error, num_workers, once=True)
    cohort = Cohort.read(cohort_dir)
    require_columns(cohort.table, preparation.required, cohort.root)
    check_given(cohort, preparation.rules(), preparation.given)
    if not (cohort.root / SETTINGS_FILE).is_file():
        _note_words(cohort)
    _check_unchanged(cohort)
    for name in TABLE_FILES:
        if was_changed(cohort.root / name):
            print(
                f"note: {cohort.root / name} changed after `preparing` wrote it; it is used as it is now",
                flush=True,
            )
    return cohort


def _check_unchanged(cohort: Cohort) -> None:
    quality = read_quality(cohort)
    if PIXELS not in quality:
        return
    now = fingerprints([cohort.root / name for name in cohort.table["image"]])
    changed = cohort.table["image"][(quality[PIXELS] != now).to_numpy()]
    if len(changed):
        raise InputError(
            f"{plural(changed.nunique(), 'image')} of the cohort in {cohort.root} changed since it was prepared, for "
            f"example {changed.iloc[0]}: run `preparing` again, or restore them"
        )


def read_quality(cohort: Cohort) -> pd.DataFrame:
    """Read the quality measurements, one row per image; empty if there are none, as for a cohort made elsewhere."""
    path = cohort.root / QUALITY_FILE
    quality = read_parquet(path) if path.is_file() else pd.DataFrame()
    # if rows were added or removed since, measurements can no longer be matched to images
    return quality if len(quality) == len(cohort) else pd.DataFrame()


def _note_words(cohort: Cohort) -> None:
    # for cohorts prepared here, a setting defines which words mean missing data; for other cohorts, none does
    for name in cohort.table.columns.difference([*PATCH_COLUMNS, "split"], sort=False):
        for value, count in cohort.table[name].value_counts().items():
            if str(value).strip().lower() in MISSING_WORDS:
                print(
                    f"{cohort.root}: {name} has the value {value!r} in {plural(count, 'row')}, a value "
                    "like any other; for "
                    "missing data, leave the cells empty",
                    flush=True,
                )


def table_cohort(preparation: AnyPreparation) -> Cohort:
    """Return the rows of the source with their split but without images, to audit a split; not for training.

    If no split can be made, the reason is printed and the table has no column ``split``.

    Args:
        preparation: only its source and splits are used.
    """
    rows = preparation.source.rows(check_files=False)
    try:
        rows = preparation.with_splits(rows)
        rows = rows[rows["split"] != ""]
    except InputError as error:
        print(f"warning: this table cannot be split, and is audited without a split. {error}", flush=True)
        rows = rows[rows["patient"] != ""]
    return Cohort(rows.drop(columns=["problem"]).reset_index(drop=True), preparation.source.folder)


def prepare(
    preparation: AnyPreparation,
    output_dir: str | os.PathLike,
    on_error: str = "stop",
    num_workers: int | None = None,
    backend: str = "auto",
    shard: Shard | None = None,
    once: bool = False,
) -> Cohort:
    """Prepare a cohort: write ``patches/``, the cohort table, ``slides.csv`` (for slides) and ``rejected.csv``.

    Calling it again skips finished images. Partly finished images, and images whose file has changed, are processed
    again. The table is written last.

    Args:
        preparation: source, images and splits.
        output_dir: folder of the cohort.
        on_error: ``stop`` raises an error for the first row or image that cannot be used; ``skip`` continues without it
            and lists it in ``rejected.csv``.
        num_workers: number of processes, or of threads for captioned images; one per core by default.
        backend: slide reader; see :func:`medi_monai.wsi.open_slide`.
        shard: part of the work of this process, if several were started together; all return the whole cohort.
        once: if another process has prepared the cohort in the meantime, return it without checking its images.

    Raises:
        InputError: for invalid settings or (with ``stop``) an unusable row or image; also if no image is left, or
            ``output_dir`` has a cohort with different settings.
    """
    if on_error not in ("stop", "skip"):
        raise unknown_value("choice of `on_error`", on_error, ("stop", "skip"))
    if backend not in BACKENDS:
        raise unknown_value("back end", backend, BACKENDS)
    shard = shard or Shard()
    if shard.is_main:
        check_new(output_dir)
    with nullcontext() if shard.is_main else redirect_stdout(StringIO()):
        rows = _rows_with_splits(preparation, on_error)
    if not shard.is_main:
        return _prepare(preparation, Path(output_dir), rows, on_error, num_workers, backend, shard)
    with claimed_folder(output_dir, preparation.settings()) as root:
        if once and holds_cohort(root):
            return Cohort.read(root)
        return _prepare(preparation, root, rows, on_error, num_workers, backend, shard)


def _prepare(
    preparation: AnyPreparation,
    root: Path,
    rows: pd.DataFrame,
    on_error: str,
    num_workers: int | None,
    backend: str,
    shard: Shard,
) -> Cohort:
    shard.wait()
    work = preparation.start(root, rows[rows["problem"] == ""], backend)
    problems: dict[str, str] = {}
    for image, problem in work.run(shard, num_workers):
        if on_error == "stop":
            raise InputError(f"{problem.rstrip('.')}. {CONTINUE.format('images')}")
        problems[image] = problem
    write_json(root / "patches" / f"problems-{shard.rank}.json", problems)
    shard.wait()
    if shard.is_main:
        for rank in range(1, shard.world_size):
            problems |= read_json(root / "patches" / f"problems-{rank}.json")
        _write(preparation, root, rows, work.collect(problems), problems)
    shard.wait()
    return Cohort.read(root)


def _rows_with_splits(preparation: AnyPreparation, on_error: str) -> pd.DataFrame:
    rows = preparation.source.rows()
    wrong = rows["problem"] != ""
    if wrong.any() and on_error == "stop":
        first = rows.loc[wrong].iloc[0]
        alike = int((rows["problem"] == first["problem"]).sum())
        others = f"; {alike} rows have this problem" if alike > 1 else ""
        more = f", and {int(wrong.sum())} rows have some problem" if alike < wrong.sum() else ""
        raise InputError(
            f"{preparation.source.table_name}, row {first['row'] + 1} ({first['image']}): "
            f"{first['problem'].rstrip('.')}{others}{more}. {CONTINUE.format('rows')}"
        )
    return preparation.with_splits(rows)


def _write(
    preparation: AnyPreparation, root: Path, rows: pd.DataFrame, images: PreparedImages, problems: dict[str, str]
) -> None:
    source = preparation.source
    reasons = rows["problem"].mask(rows["problem"] == "", rows["image"].map(problems)).fillna("")
    write_rejected(root, rows, reasons, source.files_without_row(rows))
    if images.table.empty:
        kinds = {re.sub(r"\d+", "", reason.replace(image, "")) for image, reason in zip(rows["image"], reasons)}
        reason = f": {next(iter(reasons)).rstrip('.')}" if len(kinds) == 1 else ""
        raise InputError(
            f"no image of {source.table_name} can be used{reason}; the reasons are in {root / REJECTED_FILE}"
        )
    about = rows.loc[images.source_rows].reset_index(drop=True)
    table = images.table.reset_index(drop=True)
    cohort = table[["image"]].assign(slide=about["slide"], patient=about["patient"])
    geometry = [name for name in ("x", "y", "mpp", "source_mpp") if name in table]
    cohort[geometry] = table[geometry]
    metadata = [*preparation.columns, "split"]
    cohort[metadata] = about[metadata]
    # record which files these are, so that later runs notice if one has changed
    pixels = fingerprints([root / name for name in cohort["image"]])
    write_table(root / QUALITY_FILE, images.quality.assign(**{PIXELS: pixels}))
    if images.slides is not None:
        write_table(root / SLIDES_FILE, images.slides)
    Cohort(cohort.astype(str), root).write()
