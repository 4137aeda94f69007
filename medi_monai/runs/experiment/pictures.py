"""Draw the grid of samples in the report of the metadata experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import PatchReader
from medi_monai.cohort.samples import read_arms
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.report import labeled_grid
from medi_monai.report.words import arm_title
from medi_monai.utils.seeding import seed_from

__all__ = ["sample_grid"]

#: maximum number of combinations in the grid, and of images of each combination and arm
MAX_ROWS, PER_CELL = 12, 8


def sample_grid(
    cohort: Cohort, sampling_dirs: Mapping[str, Path], columns: Sequence[str], image_size: int
) -> np.ndarray:
    """Draw real images and those of each arm side by side, for combinations that all have; those not in training first.

    Args:
        cohort: cohort with its split.
        sampling_dirs: sampling folder of each arm.
        columns: label, followed by the attributes.
        image_size: side of the images in pixels.

    Returns:
        ``(H, W, 3)`` uint8 image.
    """
    table = cohort.table[cohort.table["split"].isin(["train", "val", "holdout"])].reset_index(drop=True)
    arms = read_arms(sampling_dirs, columns, RESERVED_NAMES)
    sources = {"real": Cohort(table, cohort.root), **arms}
    in_training = set(map(tuple, table.loc[table["split"] == "train", list(columns)].to_numpy()))
    combinations = [set(map(tuple, images.table[list(columns)].to_numpy())) for images in sources.values()]
    everywhere = set.intersection(*combinations)
    shown = sorted(everywhere, key=lambda key: (key in in_training, seed_from("samples", list(key))))[:MAX_ROWS]
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    names = {key: " · ".join(key) + ("" if key in in_training else " (not in training)") for key in shown}
    for arm, images in sources.items():
        reader = PatchReader(images, image_size)
        keys = pd.Series(list(map(tuple, images.table[list(columns)].to_numpy())))
        for key in shown:
            rows = np.flatnonzero(keys == key)
            chosen = np.random.default_rng(seed_from("shown", arm, list(key))).permutation(rows)[:PER_CELL]
            cells[names[key], arm] = reader.read(np.sort(chosen).tolist())
        reader.close()
    titles = {arm: arm_title(arm) for arm in sources}
    titled = {(row, titles[arm]): images for (row, arm), images in cells.items()}
    return labeled_grid(titled, sorted(names.values()), list(titles.values()), "", (1, PER_CELL), 64, cohort.mpp)
