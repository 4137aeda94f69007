"""Scan existing patch files once each for size, quality and perceptual hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medi_monai.cohort.duplicates import PLAIN
from medi_monai.cohort.extraction import Cutting, measure_patches
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, json_digest
from medi_monai.utils.records.fingerprints import fingerprints
from medi_monai.wsi import open_slide

__all__ = ["PATCHES_PER_SCAN", "ScanJob", "read_scan", "scan_patches"]

#: patch files per job and record
PATCHES_PER_SCAN = 500


@dataclass(frozen=True)
class ScanJob:
    """A block of patch files to scan.

    Args:
        root: folder of the cohort.
        folder: folder of the images.
        images: paths relative to ``folder``.
        mpp: microns per pixel of each image from the table, or the empty string.
        cutting: size and resolution of patches.
    """

    root: str
    folder: str
    images: tuple[str, ...]
    mpp: tuple[str, ...]
    cutting: Cutting

    @property
    def record(self) -> Path:
        """Path of the file in which the result is recorded."""
        return Path(self.root) / "patches" / "scans" / f"{json_digest([self.images, self.mpp])[:16]}.npz"

    def fingerprints(self) -> list[str]:
        """Return the fingerprints of the files in their present state."""
        return fingerprints([Path(self.folder) / image for image in self.images])

    def is_done(self) -> bool:
        """Return whether all files have been scanned without a problem and have not changed since."""
        if not self.record.is_file():
            return False
        scan = read_scan(self)
        known = scan.get("fingerprint", np.array([])).tolist()
        return not (scan["problem"] != "").any() and known == self.fingerprints()


def scan_patches(job: ScanJob) -> None:
    """Scan patch files and record the result.

    A patch is the center of its file, at the size and resolution of the grid.
    """
    rows = [_scan(job, *row) for row in zip(job.images, job.mpp, job.fingerprints())]
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    with atomic_path(job.record) as path:
        np.savez(path, **columns)


def read_scan(job: ScanJob) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`scan_patches` recorded, by name; each has one entry per file, in order."""
    with np.load(job.record, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _scan(job: ScanJob, image: str, mpp: str, fingerprint: str) -> dict[str, object]:
    grid = job.cutting.grid
    size = (grid.image_size, grid.image_size)
    row: dict[str, object] = {
        "x": 0,
        "y": 0,
        "width": 0,
        "height": 0,
        "source_mpp": np.nan,
        "sharpness": np.nan,
        "background": np.nan,
        "hash": PLAIN,
        "fingerprint": fingerprint,
        "problem": "",
    }
    try:
        table_mpp = float(mpp) if mpp else None
        conflict, rules = job.cutting.mpp_conflict, job.cutting.pixels
        with open_slide(Path(job.folder) / image, table_mpp, on_conflict=conflict, pixels=rules) as file:
            (width, height), field = file.dimensions, file.field(size, grid.mpp)
            if grid.mpp / max(file.spacing) < 0.99:
                raise InputError(
                    f"{image} has {file.mpp:g} microns per pixel and cannot be used at a finer {grid.mpp:g}"
                )
            if field[0] > width + 0.5 or field[1] > height + 0.5:
                raise InputError(
                    f"{image} has {width} x {height} pixels of {file.mpp:g} microns, fewer than the {field[0]:.0f} x "
                    f"{field[1]:.0f} of a patch of {grid.image_size} pixels at {grid.mpp:g} microns"
                )
            field = min(field[0], width), min(field[1], height)
            x, y = int((width - field[0]) / 2), int((height - field[1]) / 2)
            patch = file.read(x, y, field, size)
            row |= {"x": x, "y": y, "width": width, "height": height, "source_mpp": file.mpp}
            row |= {name: values[0] for name, values in measure_patches(patch[None]).items()}
    except InputError as error:
        row["problem"] = str(error) if image in str(error) else f"{image}: {error}"
    return row
