"""Write the demo cohort: pyramidal TIFF slides and a slide table with the column names of the GDC."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from medi_monai.cohort.demo.histology import draw_stains, scan, tumor_of_patient
from medi_monai.cohort.demo.profiles import CENTERS, NUM_PATIENTS, NUM_PATIENTS_BALANCED, SIDE_MICRONS, TUMORS
from medi_monai.schema import MetadataSchema
from medi_monai.utils.files import atomic_path, cache_dir, writable_dir, write_table
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.workers import map_processes

__all__ = ["demo_dataset", "demo_schema", "demo_slide_table", "write_demo_slides"]

#: increased whenever the same seed gives different pixels, so that an old cohort in the cache is not reused
VERSION = 2
TILE = 256
RACES = ("white", "black or african american", "asian", "not reported")


def demo_dataset(seed: int = 0, num_workers: int | None = None, balanced: bool = False) -> Path:
    """Return the folder of the demo slides in the cache (``$MEDI_CACHE``), which is written on first use.

    Args:
        seed: seed of the cohort; another seed gives other patients, slides and pixels for the same tumors and centers.
        num_workers: number of processes; by default one per core.
        balanced: whether every tumor has the same number of patients at every center, as a negative control.
    """
    root = cache_dir() / f"demo{'_balanced' if balanced else ''}_v{VERSION}_seed{seed}"
    if not (root / "slides.csv").is_file():
        write_demo_slides(root, seed, num_workers, balanced)
    return root


def write_demo_slides(
    root: str | os.PathLike, seed: int = 0, num_workers: int | None = None, balanced: bool = False
) -> Path:
    """Write all demo slides and then their table; after an interruption, the next call writes the missing slides.

    Args:
        root: output folder for ``slides/*.tiff`` and ``slides.csv``.
        seed: source of all randomness; the same seed gives the same pixels.
        num_workers: number of processes; by default one per core.
        balanced: whether to write the negative control; see :func:`demo_dataset`.

    Returns:
        ``root``.
    """
    root = writable_dir(root)
    table = demo_slide_table(seed, balanced)
    jobs = [(str(root), row, seed) for row in table.to_dict("records")]
    for _ in map_processes(_write_slide, jobs, num_workers, "generating the demo slides", "slide"):
        pass
    write_table(root / "slides.csv", table.drop(columns=["tumor_index", "center_index", "num_patients"]))
    return root


def demo_slide_table(seed: int = 0, balanced: bool = False) -> pd.DataFrame:
    """Return one row per slide: GDC columns, indices of tumor and center, and the number of patients with both.

    As in TCGA, a tissue source site code belongs to one tumor, and the codes ``NA`` and ``01`` occur.
    """
    rng = np.random.default_rng(seed_from("demo table", seed))
    num_patients = NUM_PATIENTS_BALANCED if balanced else NUM_PATIENTS
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


def _write_slide(job: tuple[str, dict, int]) -> None:
    root, row, seed = job
    target = Path(root) / "slides" / f"{row['slide_submitter_id']}.tiff"
    if target.is_file():
        return
    tumor, center = TUMORS[row["tumor_index"]], CENTERS[row["center_index"]]
    rng = np.random.default_rng(seed_from("demo slide", seed, row["slide_submitter_id"]))
    side = SIDE_MICRONS[row["num_patients"]]
    size = round(side / center.mpp / 64) * 64
    tumor = tumor_of_patient(tumor, np.random.default_rng(seed_from("demo patient", seed, row["case_submitter_id"])))
    pixels = scan(*draw_stains(tumor, size, center.mpp, rng), center, center.mpp, rng)
    with atomic_path(target) as path:
        write_pyramid(path, pixels, center.mpp)


def write_pyramid(path: str | os.PathLike, pixels: np.ndarray, mpp: float, levels: int = 3) -> None:
    """Write a tiled JPEG TIFF with its resolution in the tags and one page per level, each half the size of the last.

    Args:
        path: file to write.
        pixels: ``(H, W, 3)`` uint8; H and W must be divisible by ``2 ** (levels - 1)``.
        mpp: microns per pixel of the first level.
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
                compressionargs={"level": 92},
                subfiletype=1 if level else 0,
                resolution=(1e4 / (mpp * 2**level), 1e4 / (mpp * 2**level)),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
