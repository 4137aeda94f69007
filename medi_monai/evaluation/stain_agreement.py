"""How well generated images have the stain of the combinations that they were drawn for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.metrics import group_means, stain_regression
from medi_monai.report import labeled_grid
from medi_monai.report.words import arm_title
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, write_json
from medi_monai.wsi.color import mean_optical_density
from medi_monai.wsi.readers import read_image

__all__ = ["compare_stain"]


def compare_stain(
    cohort_dir: Path,
    sampling_dirs: Mapping[str, Path],
    output_dir: Path,
    columns: Sequence[str],
    split: str = "holdout",
    per_cell: int = 8,
) -> dict[str, dict[str, float | None]]:
    """Compare the stain of real and generated patches of the same combinations, and draw them side by side.

    Args:
        cohort_dir: folder of a prepared cohort.
        sampling_dirs: ``output_dir`` of the sampling run of each arm.
        output_dir: folder for ``stain.json`` and ``comparison.png``.
        columns: class label and attributes that make up a combination.
        split: split whose combinations are compared, such as ``holdout`` or ``train``.
        per_cell: number of patches to draw of each combination and arm; 0 for no picture.

    Returns:
        The figures of :func:`medi_monai.metrics.stain_regression` for each arm.
    """
    real = Cohort.read(cohort_dir).split(split)
    if len(real) == 0:
        raise InputError(f"{cohort_dir} has no patches in the split {split!r}")
    sources = {"real": (real.table, real.root)}
    for arm, folder in sampling_dirs.items():
        sources[arm] = (pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False), folder)
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    densities: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for arm, (table, root) in sources.items():
        images = np.stack([read_image(root / name) for name in table["image"]])
        keys = list(table[list(columns)].itertuples(index=False, name=None))
        densities[arm] = group_means(mean_optical_density(images), keys)
        for key, image in zip(keys, images):
            cells.setdefault((" · ".join(key), arm), []).append(image)
    shared = sorted(set.intersection(*(set(groups) for groups in densities.values())))
    if not shared:
        raise InputError(f"no combination in the split {split!r} of {cohort_dir} was sampled by every arm")
    figures = {
        arm: stain_regression(
            np.stack([densities["real"][key] for key in shared]),
            np.stack([densities[arm][key] for key in shared]),
            [key[0] for key in shared],
        )
        for arm in sampling_dirs
    }
    if per_cell:
        training_status = "held out of training" if split == "holdout" else "in training"
        titles = {arm: arm_title(arm) for arm in sources}
        titled = {(row, titles[arm]): images for (row, arm), images in cells.items()}
        rows, heads = [" · ".join(key) for key in shared], list(titles.values())
        page = labeled_grid(titled, rows, heads, f"Combinations {training_status}", (1, per_cell), 64)
        with atomic_path(output_dir / "comparison.png") as path:
            Image.fromarray(page).save(path, format="png")
    write_json(output_dir / "stain.json", {"arms": figures, "combinations": [list(key) for key in shared]})
    return figures
