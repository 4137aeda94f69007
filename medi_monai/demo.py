"""The demo experiment, end to end with report: ``python -m medi_monai.demo``, or ``make demo``.

Runs the experiment of the bundle in its quick form: the cohort, MeDi and the class-only model CLS on one budget, their
images, fidelity, linear probes, and a report; then compares the stain of their images with real ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.metrics import group_means, stain_regression
from medi_monai.report import labeled_grid
from medi_monai.report.words import arm_title
from medi_monai.utils.errors import InputError, report_user_errors
from medi_monai.utils.files import atomic_path, write_json
from medi_monai.wsi.color import mean_optical_density
from medi_monai.wsi.readers import read_image

__all__ = ["main", "compare"]

COLUMNS = ("project_id", "center")
ARMS = ("cls", "medi")


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment, skipping stages that are done; additional options are passed to the experiment."""
    report_user_errors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle_root", default="bundles/pathology_medi_diffusion", help="folder of the bundle")
    parser.add_argument("--output_dir", default="demo_output", help="folder for all results of the demo")
    options, others = parser.parse_known_args(arguments)
    bundle, output = Path(options.bundle_root).resolve(), Path(options.output_dir).resolve()
    if not (bundle / "configs" / "experiment.json").is_file():
        raise InputError(f"there is no bundle in {bundle}; start in the repository, or give --bundle_root")
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "experiment", "--bundle_root", str(bundle)]
    command += ["--config_file", str(bundle / "configs" / "experiment.json"), "--output_dir", str(output), *others]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(code)
    # no picture of samples here, because the report has one
    figures = compare(output / "cohort", {arm: output / arm / "sampling" for arm in ARMS}, output, per_cell=0)
    for arm, values in figures.items():
        shown = ", ".join(
            f"{name} = {'–' if values[name] is None else round(values[name], 3)}" for name in ("r", "slope")
        )
        print(f"{arm_title(arm)}: stain of held-out combinations, generated versus real: {shown}")
    print(f"demo: done, the report is {output / 'report.html'}")


def compare(
    cohort_dir: Path, sampling_dirs: dict[str, Path], output_dir: Path, split: str = "holdout", per_cell: int = 8
) -> dict:
    """Compare the stain of real and generated patches of the same combinations, and draw them side by side.

    Args:
        cohort_dir: folder of a prepared cohort.
        sampling_dirs: ``output_dir`` of the sampling run of each arm.
        output_dir: folder for ``stain.json`` and ``comparison.png``.
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
        keys = list(table[list(COLUMNS)].itertuples(index=False, name=None))
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
        rows, columns = [" · ".join(key) for key in shared], list(titles.values())
        page = labeled_grid(titled, rows, columns, f"Combinations {training_status}", (1, per_cell), 64)
        with atomic_path(output_dir / "comparison.png") as path:
            Image.fromarray(page).save(path, format="png")
    write_json(output_dir / "stain.json", {"arms": figures, "combinations": [list(key) for key in shared]})
    return figures


if __name__ == "__main__":
    main()
