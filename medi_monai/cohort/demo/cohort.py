"""Write the demo cohort: pyramidal TIFF slides and a slide table with the column names of the GDC."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from medi_monai.cohort.demo.histology import draw_stains, scan, tumor_of_patient
from medi_monai.cohort.demo.profiles import (
    CENTERS,
    NUM_PATIENTS,
    NUM_PATIENTS_BALANCED,
    SIDE_MICRONS,
    TUMORS,
    CenterProfile,
    stain_only,
)
from medi_monai.schema import MetadataSchema
from medi_monai.utils.files import atomic_path, cache_dir, writable_dir, write_table
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.workers import map_processes

__all__ = [
    "BRAIN_DEMO_NAMES",
    "DEMO_NAMES",
    "are_made_up",
    "DemoCohort",
    "demo_dataset",
    "demo_schema",
    "demo_slide_table",
    "write_demo_slides",
]

#: increased whenever the same seed gives different pixels, so that an old cohort in the cache is not reused
VERSION = 3
TILE = 256
#: values of ``dataset_dir`` that select a demo cohort; a seed may follow, as in ``demo_stain@1``
DEMO_NAMES = ("demo_balanced", "demo_stain", "demo@0")
#: those of them that select a brain demo cohort
BRAIN_DEMO_NAMES = ("demo_balanced", "demo@0")
#: beginnings of the names of patients that are made up, of both bundles
MADE_UP = ("DEMO-", "DEMO_", "REFERENCE_")
RACES = ("white", "black or african american", "asian", "not reported")


def are_made_up(patients: Iterable[str]) -> bool:
    """Return whether all patients of a cohort, by their names, are those of a demo."""
    names = set(map(str, patients))
    return bool(names) and all(name.startswith(MADE_UP) for name in names)


@dataclass(frozen=True)
class DemoCohort:
    """A demo cohort: its kind and its seed.

    Args:
        seed: another seed gives other patients, slides and pixels for the same tumors and centers.
        balanced: whether every tumor has the same number of patients at every center, as a negative control.
        stain_only: whether centers differ in staining and optics alone, as in version 2, and not in fixation, section
            thickness, sharpening and compression.
    """

    seed: int = 0
    balanced: bool = False
    stain_only: bool = False

    @staticmethod
    def selected_by(dataset_dir: str | os.PathLike | None) -> DemoCohort | None:
        """Return the demo cohort that a ``dataset_dir`` selects, one of :data:`DEMO_NAMES`; None if it is a folder."""
        if dataset_dir is None:
            return DemoCohort()
        selected = re.fullmatch(r"(?:demo|(demo_balanced)|(demo_stain))(@\d+)?", str(dataset_dir))
        if selected is None or str(dataset_dir) == "demo":
            return None
        balanced, stain_only, seed = selected.groups()
        return DemoCohort(int(seed[1:]) if seed else 0, balanced is not None, stain_only is not None)

    @property
    def folder(self) -> Path:
        """Folder in the cache (``$MEDI_CACHE``)."""
        kind = "_balanced" * self.balanced + "_stain" * self.stain_only
        return cache_dir() / f"demo{kind}_v{VERSION}_seed{self.seed}"

    @property
    def centers(self) -> tuple[CenterProfile, ...]:
        """Profiles of the centers."""
        return tuple(stain_only(center) for center in CENTERS) if self.stain_only else CENTERS


def demo_dataset(cohort: DemoCohort = DemoCohort(), num_workers: int | None = None) -> Path:
    """Return the folder of the demo slides in the cache (``$MEDI_CACHE``), which is written on first use.

    Args:
        cohort: which demo cohort.
        num_workers: number of processes; by default one per core.
    """
    if not (cohort.folder / "slides.csv").is_file():
        write_demo_slides(cohort.folder, cohort, num_workers)
    return cohort.folder


def write_demo_slides(
    root: str | os.PathLike, cohort: DemoCohort = DemoCohort(), num_workers: int | None = None
) -> Path:
    """Write all demo slides and then their table; after an interruption, the next call writes the missing slides.

    Args:
        root: output folder for ``slides/*.tiff`` and ``slides.csv``.
        cohort: which demo cohort; the same one gives the same pixels.
        num_workers: number of processes; by default one per core.

    Returns:
        ``root``.
    """
    root = writable_dir(root)
    table = demo_slide_table(cohort)
    jobs = [(str(root), row, cohort) for row in table.to_dict("records")]
    for _ in map_processes(_write_slide, jobs, num_workers, "generating the demo slides", "slide"):
        pass
    write_table(root / "slides.csv", table.drop(columns=["tumor_index", "center_index", "num_patients"]))
    return root


def demo_slide_table(cohort: DemoCohort = DemoCohort()) -> pd.DataFrame:
    """Return one row per slide: GDC columns, indices of tumor and center, and the number of patients with both.

    As in TCGA, a tissue source site code belongs to one tumor, and the codes ``NA`` and ``01`` occur.
    """
    rng = np.random.default_rng(seed_from("demo table", cohort.seed))
    num_patients = NUM_PATIENTS_BALANCED if cohort.balanced else NUM_PATIENTS
    codes = ["NA", "01"] + [f"{letter}{digit}" for letter in "ABCDEFGH" for digit in range(2, 8)]
    rows = []
    for tumor, profile in enumerate(TUMORS):
        for center, where in enumerate(CENTERS):
            code = codes[tumor * len(CENTERS) + center]
            for patient in range(int(num_patients[tumor, center])):
                case = f"DEMO-{code}-{1000 * tumor + 100 * center + patient:04d}"
                shared = {
                    "case_submitter_id": case,
                    "project_id": profile.project,
                    "tissue_source_site": code,
                    "center": where.name,
                    "race": str(rng.choice(RACES, p=[0.6, 0.2, 0.1, 0.1])),
                    "gender": str(rng.choice(["female", "male"])),
                    "age_at_index": str(int(np.clip(rng.normal(62, 12), 25, 90))),
                    "tumor_index": tumor,
                    "center_index": center,
                    "num_patients": int(num_patients[tumor, center]),
                }
                # every fourth patient has a second slide
                for slide in range(1 + (patient % 4 == 3)):
                    rows.append({"slide_submitter_id": f"{case}-01Z-00-DX{slide + 1}", **shared})
    return pd.DataFrame(rows)


def demo_schema() -> MetadataSchema:
    """Return the schema of the demo cohort with the attribute ``center``; generates no images."""
    return MetadataSchema.from_table(demo_slide_table(), "project_id", ["center"])


def _write_slide(job: tuple[str, dict, DemoCohort]) -> None:
    root, row, cohort = job
    target = Path(root) / "slides" / f"{row['slide_submitter_id']}.tiff"
    if target.is_file():
        return
    tumor, center = TUMORS[row["tumor_index"]], cohort.centers[row["center_index"]]
    rng = np.random.default_rng(seed_from("demo slide", cohort.seed, row["slide_submitter_id"]))
    side = SIDE_MICRONS[row["num_patients"]]
    size = round(side / center.mpp / 64) * 64
    patient = np.random.default_rng(seed_from("demo patient", cohort.seed, row["case_submitter_id"]))
    stains = draw_stains(tumor_of_patient(tumor, patient), size, center.mpp, rng, center.preparation)
    pixels = scan(*stains, center, center.mpp, rng)
    with atomic_path(target) as path:
        write_pyramid(path, pixels, center.mpp, center.quality)


def write_pyramid(path: str | os.PathLike, pixels: np.ndarray, mpp: float, quality: int = 92, levels: int = 3) -> None:
    """Write a tiled JPEG TIFF with its resolution in the tags and one page per level, each half the size of the last.

    Args:
        path: file to write.
        pixels: ``(H, W, 3)`` uint8; H and W must be divisible by ``2 ** (levels - 1)``.
        mpp: microns per pixel of the first level.
        quality: of the JPEG compression, from 1 to 100.
        levels: number of levels.
    """
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            if level:
                height, width = pixels.shape[:2]
                halves = pixels.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3), dtype=np.float32)
                pixels = np.rint(halves).astype(np.uint8)
            file.write(
                pixels,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="jpeg",
                compressionargs={"level": quality},
                subfiletype=1 if level else 0,
                resolution=(1e4 / (mpp * 2**level), 1e4 / (mpp * 2**level)),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
