"""Patches of a ninth center of the demo cohort, which no model was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort.demo.histology import draw_stains, scan, tumor_of_patient
from medi_monai.cohort.demo.profiles import TUMORS, CenterProfile, Preparation
from medi_monai.utils.files import atomic_path, cache_dir, write_table
from medi_monai.utils.seeding import seed_from

__all__ = ["NEW_CENTER", "demo_new_center"]

VERSION = 2
NEW_CENTER = CenterProfile(
    "Yew", (0.66, 0.58, 0.36), (0.12, 0.56, 0.28), (244, 243, 241), 0.40, 0.50, Preparation(0.06, 0.20, 1.15), 0.5
)
#: side of the slides in microns, like the slides with little tissue in the demo cohort
SIDE = 320
#: mean gray level below which a patch is tissue
TISSUE_LEVEL = 225


def demo_new_center(image_size: int, num_patches: int = 40, seed: int = 0) -> Path:
    """Return the path of a table of patches in the cache (``$MEDI_CACHE``), which is written on first use.

    Args:
        image_size: side of the patches in pixels; a pixel is 1 micron wide.
        num_patches: number of patches, spread evenly over the tumors.
        seed: seed of the pixels.
    """
    root = cache_dir() / f"demo_new_center_v{VERSION}_{image_size}px_{num_patches}_seed{seed}"
    path = root / "patches.csv"
    if path.is_file():
        return path
    rows = []
    for number in range(num_patches):
        tumor = TUMORS[number % len(TUMORS)]
        rng = np.random.default_rng(seed_from("demo new center", seed, number))
        name = f"patches/{tumor.project}_{number:03d}.png"
        with atomic_path(root / name) as target:
            Image.fromarray(_patch(number % len(TUMORS), image_size, rng)).save(target, format="png")
        rows.append((name, f"DEMO-NEW-{number % len(TUMORS)}", "1.0", tumor.project, NEW_CENTER.name))
    columns = ["image", "patient", "mpp", "project_id", "center"]
    write_table(path, pd.DataFrame(rows, columns=columns))
    return path


def _patch(tumor: int, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one patch that contains tissue, ``(image_size, image_size, 3)`` uint8."""
    profile = tumor_of_patient(TUMORS[tumor], rng)
    step = round(1 / NEW_CENTER.mpp)
    size = max(round(SIDE / NEW_CENTER.mpp), 2 * image_size * step)
    stains = draw_stains(profile, size, NEW_CENTER.mpp, rng, NEW_CENTER.preparation)
    pixels = scan(*stains, NEW_CENTER, NEW_CENTER.mpp, rng)
    side = image_size * step
    while True:
        x, y = rng.integers(0, size - side + 1, 2)
        field = pixels[y : y + side, x : x + side].astype(np.float32)
        if field.mean() < TISSUE_LEVEL:
            blocks = field.reshape(image_size, step, image_size, step, 3).mean(axis=(1, 3))
            return np.rint(blocks).astype(np.uint8)
