"""From images to a cohort: cut the patches, assign the splits, write the table; safe to interrupt and repeat."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.extraction import Cutting, SlideJob, cut_slide, is_cut, is_replaced, read_record, record_names
from medi_monai.cohort.folder import REJECTED_FILE, claimed_folder, holds_cohort, write_rejected
from medi_monai.cohort.scanning import PATCHES_PER_SCAN, ScanJob, read_scan, scan_patches
from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.cohort.table import Cohort
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json, write_json, write_table
from medi_monai.utils.workers import map_processes
from medi_monai.wsi.readers import BACKENDS

__all__ = ["Preparation", "Shard", "default_cohort_dir", "load_or_prepare", "prepare", "table_cohort"]

#: one row per patch of the cohort, in its order: what was measured
QUALITY_FILE = "quality.parquet"
QUALITY = ("tissue", "sharpness", "background", "hash", "width", "height", "source_mpp", "suffix", "fingerprint")
#: one row per slide that was read
SLIDES_FILE = "slides.csv"


@dataclass(frozen=True)
class Preparation:
    """All that decides what a prepared cohort is.

    Args:
        source: table and images.
        cutting: how slides become patches; of patches that are taken as they are, size and resolution.
        splits: what is held out.
    """

    source: ImageTable
    cutting: Cutting
    splits: SplitScheme

    def settings(self) -> dict:
        """The settings as JSON; two preparations with equal settings give equal cohorts."""
        return {**asdict(self), "source": self.source.settings()}

    @property
    def reads_on_the_fly(self) -> bool:
        """Whether patches stay in the images that they come from."""
        return self.cutting.patch_format == "none" or self.source.unit == "patches"

    @property
    def name(self) -> str:
        """A folder name that no two preparations share: data set, patch size and the digest of all settings."""
        digest = json_digest(self.settings())[:8]
        return f"{self.source.folder.resolve().name}_{self.cutting.grid.image_size}px_{digest}"


@dataclass(frozen=True)
class Shard:
    """The part of the work that this process has, of several that were started together.

    Args:
        rank: number of this process.
        world_size: number of processes.
        wait: returns when all of them have called it.
    """

    rank: int = 0
    world_size: int = 1
    wait: Callable[[], None] = field(default=lambda: None)


def default_cohort_dir(preparation: Preparation, bundle_root: str | os.PathLike) -> str:
    """``dataset_dir`` where it is a prepared cohort itself, else a folder of the bundle named by the settings."""
    root = preparation.source.root
    if root is not None and holds_cohort(root):
        return str(root)
    return str(Path(bundle_root) / "output" / "preparing" / preparation.name)


def load_or_prepare(
    preparation: Preparation, cohort_dir: str | os.PathLike, on_error: str = "stop", num_workers: int | None = None
) -> Cohort:
    """The cohort in ``cohort_dir``; prepared on first use.

    A cohort that is there is taken as it is: the settings of the preparation count for a new one alone. Of several
    processes that start without one, as those of ``torchrun``, one prepares and the others wait for it.
    """
    if holds_cohort(cohort_dir):
        return Cohort.read(cohort_dir)
    return prepare(preparation, cohort_dir, on_error, num_workers, once=True)


def table_cohort(preparation: Preparation) -> Cohort:
    """The rows of the source with their split, before any image is there: to look at a split, never to train.

    Args:
        preparation: its source and splits count.
    """
    rows = _rows(preparation, "skip", check_files=False)
    rows = rows[rows["split"] != ""].drop(columns=["problem"])
    return Cohort(rows.reset_index(drop=True), preparation.source.folder)


def prepare(
    preparation: Preparation,
    output_dir: str | os.PathLike,
    on_error: str = "stop",
    num_workers: int | None = None,
    backend: str = "auto",
    shard: Shard | None = None,
    once: bool = False,
) -> Cohort:
    """Cut all images into patches; write ``patches/``, the cohort table, ``slides.csv`` and ``rejected.csv``.

    Finished slides are skipped when the same call is made again; a slide half done is done again, and one whose file
    is another by now.

    Args:
        preparation: source, cutting and splits.
        output_dir: the cohort's folder.
        on_error: ``stop`` at the first row or image that cannot be used, or ``skip`` it; either way ``rejected.csv``
            is a list of what was left out.
        num_workers: processes; by default one per core.
        backend: of slides, as for :func:`medi_monai.wsi.open_slide`.
        shard: of the work, where several processes were started together; all get the whole cohort.
        once: take the cohort that another process has prepared meanwhile, and look at no slide again.

    Raises:
        InputError: for anything wrong with settings or (with ``stop``) a row or an image; also where no patch is
            left, or ``output_dir`` holds a cohort prepared otherwise.
    """
    if on_error not in ("stop", "skip"):
        raise unknown_value("choice of `on_error`", on_error, ("stop", "skip"))
    if backend not in BACKENDS:
        raise unknown_value("back end", backend, BACKENDS)
    shard = shard or Shard()
    with nullcontext() if shard.rank == 0 else redirect_stdout(StringIO()):
        rows = _rows(preparation, on_error)
    if shard.rank > 0:
        return _prepare(preparation, Path(output_dir), rows, on_error, num_workers, backend, shard)
    with claimed_folder(output_dir, preparation.settings()) as root:
        if once and holds_cohort(root):
            return Cohort.read(root)
        return _prepare(preparation, root, rows, on_error, num_workers, backend, shard)


def _prepare(
    preparation: Preparation,
    root: Path,
    rows: pd.DataFrame,
    on_error: str,
    num_workers: int | None,
    backend: str,
    shard: Shard,
) -> Cohort:
    shard.wait()
    work = _Patches if preparation.source.unit == "patches" else _Slides
    stage = work(preparation, root, rows[rows["problem"] == ""], backend)
    problems: dict[str, str] = {}
    for image, problem in stage.run(shard, num_workers):
        if on_error == "stop":
            raise InputError(f"{problem.rstrip('.')}. To go on without such images: --on_error skip")
        problems[image] = problem
    write_json(root / "patches" / f"problems-{shard.rank}.json", problems)
    shard.wait()
    if shard.rank == 0:
        found: dict[str, str] = {}
        for rank in range(shard.world_size):
            found |= read_json(root / "patches" / f"problems-{rank}.json")
        _finish(preparation, root, rows, stage, found)
    shard.wait()
    return Cohort.read(root)


def _rows(preparation: Preparation, on_error: str, check_files: bool = True) -> pd.DataFrame:
    source = preparation.source
    rows = source.rows(check_files)
    wrong = rows["problem"] != ""
    if wrong.any() and on_error == "stop":
        first = rows.loc[wrong].iloc[0]
        raise InputError(
            f"{source.table_name}, row {first['row'] + 1} ({first['image']}): {first['problem'].rstrip('.')}. To go on "
            "without such rows: --on_error skip"
        )
    # splits do not depend on which files can be read today
    known = (rows[source.label] != "") & (rows["patient"] != "")
    if not known.any():
        raise InputError(f"no row of {source.table_name} has both a value of {source.label!r} and a patient")
    split = assign_splits(rows[known], preparation.splits)
    return rows.assign(split=split.reindex(rows.index, fill_value=""))


class _Slides:
    """Rows that are slides or tiles: each is cut."""

    def __init__(self, preparation: Preparation, root: Path, rows: pd.DataFrame, backend: str) -> None:
        self._cutting, self._root, self._rows = preparation.cutting, root, rows
        folder = str(preparation.source.folder.resolve())
        self._folder = folder
        self._jobs = [
            SlideJob(str(root), folder, image, mpp, self._cutting, backend)
            for image, mpp in zip(rows["image"], rows["mpp"])
        ]

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """Do this process's part; yields each image that cannot be used, and why."""
        mine = self._jobs[shard.rank :: shard.world_size]
        replaced = [job.image for job in mine if is_cut(job) and is_replaced(job)]
        if replaced:
            print(
                f"preparing: {len(replaced)} of the images are other files than those that were cut, and are cut "
                f"again, for example {replaced[0]}",
                flush=True,
            )
        again = set(replaced)
        jobs = [job for job in mine if job.image in again or not is_cut(job)]
        with closing(map_processes(cut_slide, jobs, num_workers, "cutting patches", "slide")) as results:
            # results come first: zip would leave the last step of the progress bar undone
            for problem, job in zip(results, jobs):
                if problem is not None and not problem.startswith("no tissue"):
                    yield job.image, problem

    def collect(self, problems: dict[str, str]) -> Iterator[tuple[pd.DataFrame, dict]]:
        """Of each image that gave patches: these, with what was measured, and the record of the slide."""
        for job, row in zip(self._jobs, self._rows.index):
            if job.image in problems:
                continue
            record, measures = read_record(self._root, job.image)
            if record["problem"]:
                problems[job.image] = record["problem"]
                continue
            patches = pd.DataFrame(measures).assign(
                **{name: record[name] for name in ("width", "height", "source_mpp")}
            )
            patches["suffix"] = Path(job.image).suffix
            patches["fingerprint"] = record.get("fingerprint", "")
            if self._cutting.patch_format == "none":
                patches["image"] = str(Path(self._folder) / job.image)
            else:
                patches["image"] = record_names(self._root, job.image, measures, self._cutting.patch_format)
            yield patches.assign(source_row=row), record


class _Patches:
    """Rows that are patches: each file is looked at once, and stays where it is."""

    def __init__(self, preparation: Preparation, root: Path, rows: pd.DataFrame, backend: str) -> None:
        self._rows = rows
        self._folder = str(preparation.source.folder.resolve())
        parts = [rows.iloc[start : start + PATCHES_PER_SCAN] for start in range(0, len(rows), PATCHES_PER_SCAN)]
        self._jobs = [
            ScanJob(str(root), self._folder, tuple(part["image"]), tuple(part["mpp"]), preparation.cutting)
            for part in parts
        ]

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """As of slides."""
        jobs = self._jobs[shard.rank :: shard.world_size]
        # files that could not be read may have been mended
        pending = [job for job in jobs if not job.record.is_file() or (read_scan(job)["problem"] != "").any()]
        unit = f"{PATCHES_PER_SCAN} patches"
        with closing(map_processes(scan_patches, pending, num_workers, "reading patches", unit)) as results:
            for _ in results:
                pass
        for job in jobs:
            found = zip(job.images, read_scan(job)["problem"].tolist())
            yield from ((image, problem) for image, problem in found if problem)

    def collect(self, problems: dict[str, str]) -> Iterator[tuple[pd.DataFrame, dict]]:
        scans = [pd.DataFrame(read_scan(job)) for job in self._jobs]
        patches = pd.concat(scans, ignore_index=True) if scans else pd.DataFrame({"problem": []})
        patches = patches.assign(source_row=self._rows.index, image=self._folder + "/" + self._rows["image"].to_numpy())
        patches = patches[patches["problem"] == ""].drop(columns="problem")
        if len(patches):
            yield patches.assign(suffix=patches["image"].str.extract(r"(\.\w+)$", expand=False)), {}


def _finish(
    preparation: Preparation, root: Path, rows: pd.DataFrame, stage: _Slides | _Patches, problems: dict[str, str]
) -> None:
    parts = []
    records = []
    for patches, record in stage.collect(problems):
        parts.append(patches)
        records.append(record)
    reasons = rows["problem"].mask(rows["problem"] == "", rows["image"].map(problems)).fillna("")
    write_rejected(root, rows, reasons, preparation.source.files_without_row(rows))
    if not parts:
        raise InputError(f"no image of {preparation.source.table_name} gave a patch; {root / REJECTED_FILE} says why")
    table = pd.concat(parts, ignore_index=True)
    about = rows.loc[table["source_row"]].reset_index(drop=True)
    metadata = list(dict.fromkeys([preparation.source.label, *preparation.source.attributes]))
    cohort = table[["image"]].assign(slide=about["slide"], patient=about["patient"], x=table["x"], y=table["y"])
    cohort["mpp"] = preparation.cutting.grid.mpp
    if preparation.reads_on_the_fly:
        cohort["source_mpp"] = table["source_mpp"]
    cohort[[*metadata, "split"]] = about[[*metadata, "split"]]
    write_table(root / QUALITY_FILE, table[[name for name in QUALITY if name in table]])
    if any(records):
        slides = pd.DataFrame(records).drop(columns=["problem", "fingerprint"], errors="ignore")
        write_table(root / SLIDES_FILE, _with_quality(slides, parts))
    Cohort(cohort.astype(str), root).write()


def _with_quality(slides: pd.DataFrame, parts: list[pd.DataFrame]) -> pd.DataFrame:
    # medians over a slide's patches, where they were read
    for name in ("sharpness", "background"):
        if all(name in part for part in parts):
            slides[name] = [round(float(np.median(part[name])), 4) for part in parts]
    return slides
