"""Prepare cohorts of patches from slides, tiles or existing patches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.extraction import Cutting, SlideJob, cut_slide, is_cut, is_replaced, read_record, record_names
from medi_monai.cohort.prepare import AuditColumns, PreparedImages, Shard, Work
from medi_monai.cohort.scanning import PATCHES_PER_SCAN, ScanJob, read_scan, scan_patches
from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest
from medi_monai.utils.workers import map_processes

__all__ = ["Preparation"]

#: columns of the quality table, if measured
QUALITY = ("tissue", "sharpness", "background", "hash", "width", "height", "source_mpp", "suffix", "fingerprint")


@dataclass(frozen=True)
class Preparation:
    """All settings that determine a prepared cohort of patches.

    Args:
        source: table and images.
        cutting: how slides are cut into patches; for existing patches, their size and resolution.
        splits: how rows are split.
        given: names of the settings that the user set explicitly, which an existing cohort must not contradict.
    """

    source: ImageTable
    cutting: Cutting
    splits: SplitScheme
    given: Collection[str] = field(default=(), compare=False)

    def settings(self) -> dict:
        """Return all settings, JSON-compatible; equal settings give equal cohorts."""
        return {"source": self.source.settings(), **self.rules()}

    def rules(self) -> dict:
        """Return all settings except those of the source, JSON-compatible."""
        return {"cutting": asdict(self.cutting), "splits": asdict(self.splits)}

    @property
    def reads_on_the_fly(self) -> bool:
        """Whether patches are read from the original images rather than from new files."""
        return self.cutting.patch_format == "none" or self.source.unit == "patches"

    @property
    def name(self) -> str:
        """Unique folder name: data set, patch size and digest of all settings."""
        digest = json_digest(self.settings())[:8]
        return f"{self.source.folder.resolve().name}_{self.cutting.grid.image_size}px_{digest}"

    @property
    def columns(self) -> list[str]:
        """Metadata columns of the cohort table: the label, then the attributes."""
        return list(dict.fromkeys([self.source.label, *self.source.attributes]))

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that an existing cohort must also have: none, because each run checks those that it uses."""
        return ()

    @property
    def is_measured(self) -> bool:
        """Whether perceptual hashes are computed; always, for existing patches."""
        return self.cutting.measures or self.source.unit == "patches"

    @property
    def audit_columns(self) -> AuditColumns:
        """Columns to audit."""
        return AuditColumns(self.source.label, self.source.attributes, self.splits.columns)

    def with_splits(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the source with a column ``split``, which is empty in rows without a label or a patient.

        Raises:
            InputError: if no row has both.
        """
        # rows with problems are also split: splits must not depend on which files can be read today
        known = (rows[self.source.label] != "") & (rows["patient"] != "")
        if not known.any():
            raise InputError(
                f"no row of {self.source.table_name} has both a value of {self.source.label!r} and a patient"
            )
        split = assign_splits(rows[known], self.splits)
        return rows.assign(split=split.reindex(rows.index, fill_value=""))

    def start(self, root: Path, rows: pd.DataFrame, backend: str) -> Work:
        """Return the object that cuts or scans the usable rows."""
        return _Patches(self, root, rows) if self.source.unit == "patches" else _Slides(self, root, rows, backend)


class _Slides:
    """Cuts rows that are slides or tiles."""

    def __init__(self, preparation: Preparation, root: Path, rows: pd.DataFrame, backend: str) -> None:
        self._preparation, self._root, self._rows = preparation, root, rows
        folder = str(preparation.source.folder.resolve())
        self._jobs = [
            SlideJob(str(root), folder, image, mpp, preparation.cutting, backend)
            for image, mpp in zip(rows["image"], rows["mpp"])
        ]

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """Cut this shard's part of the images; yield each unusable image with the reason."""
        mine = self._jobs[shard.rank :: shard.world_size]
        replaced = [job.image for job in mine if is_cut(job) and is_replaced(job)]
        if replaced:
            print(
                f"preparing: {len(replaced)} of the images have changed since they were cut, and are cut again, for "
                f"example {replaced[0]}",
                flush=True,
            )
        again = set(replaced)
        jobs = [job for job in mine if job.image in again or not is_cut(job)]
        with closing(map_processes(cut_slide, jobs, num_workers, "cutting patches", "slide")) as results:
            # `results` is the first argument: zip has to exhaust it to complete the progress bar
            for problem, job in zip(results, jobs):
                if problem is not None and not problem.startswith("no tissue"):
                    yield job.image, problem

    def collect(self, problems: dict[str, str]) -> PreparedImages:
        """Return the patches and properties of all slides; add slides without tissue to ``problems``."""
        patches_of_slides, records = [], []
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
            if self._preparation.cutting.patch_format == "none":
                patches["image"] = str(Path(job.folder) / job.image)
            else:
                patches["image"] = record_names(self._root, job.image, measures, self._preparation.cutting.patch_format)
            patches_of_slides.append(patches.assign(source_row=row))
            records.append(record)
        if not records:
            return _prepared(self._preparation, pd.DataFrame())
        slides = pd.DataFrame(records).drop(columns=["problem", "fingerprint"], errors="ignore")
        patches = pd.concat(patches_of_slides, ignore_index=True)
        return _prepared(self._preparation, patches, _with_quality(slides, patches_of_slides))


class _Patches:
    """Scans rows that are existing patches; the files are not copied."""

    def __init__(self, preparation: Preparation, root: Path, rows: pd.DataFrame) -> None:
        self._preparation, self._rows = preparation, rows
        self._folder = str(preparation.source.folder.resolve())
        blocks = [rows.iloc[start : start + PATCHES_PER_SCAN] for start in range(0, len(rows), PATCHES_PER_SCAN)]
        self._jobs = [
            ScanJob(str(root), self._folder, tuple(block["image"]), tuple(block["mpp"]), preparation.cutting)
            for block in blocks
        ]

    def run(self, shard: Shard, num_workers: int | None) -> Iterator[tuple[str, str]]:
        """Scan this shard's part of the files; yield each unusable image with the reason."""
        jobs = self._jobs[shard.rank :: shard.world_size]
        pending = [job for job in jobs if not job.is_done()]
        unit = f"{PATCHES_PER_SCAN} patches"
        with closing(map_processes(scan_patches, pending, num_workers, "reading patches", unit)) as results:
            for _ in results:
                pass
        for job in jobs:
            problems = zip(job.images, read_scan(job)["problem"].tolist())
            yield from ((image, problem) for image, problem in problems if problem)

    def collect(self, problems: dict[str, str]) -> PreparedImages:
        """Return the patches of all usable files."""
        scans = [pd.DataFrame(read_scan(job)) for job in self._jobs]
        patches = pd.concat(scans, ignore_index=True) if scans else pd.DataFrame({"problem": []})
        patches = patches.assign(source_row=self._rows.index, image=self._folder + "/" + self._rows["image"].to_numpy())
        patches = patches[patches["problem"] == ""].drop(columns="problem")
        suffix = patches["image"].str.extract(r"(\.\w+)$", expand=False) if len(patches) else ""
        return _prepared(self._preparation, patches.assign(suffix=suffix))


def _prepared(preparation: Preparation, patches: pd.DataFrame, slides: pd.DataFrame | None = None) -> PreparedImages:
    if patches.empty:
        return PreparedImages(patches, [], patches)
    columns = ["image", "x", "y", *(["source_mpp"] if preparation.reads_on_the_fly else [])]
    quality = patches[[name for name in QUALITY if name in patches]]
    table = patches[columns].assign(mpp=preparation.cutting.grid.mpp)
    return PreparedImages(table, patches["source_row"].tolist(), quality, slides)


def _with_quality(slides: pd.DataFrame, patches_of_slides: list[pd.DataFrame]) -> pd.DataFrame:
    # medians over the patches of a slide, if they were read
    for name in ("sharpness", "background"):
        if all(name in patches for patches in patches_of_slides):
            slides[name] = [round(float(np.median(patches[name])), 4) for patches in patches_of_slides]
    return slides
