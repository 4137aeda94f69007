"""What settings of training do to the images of the demo: fidelity, distance, variety, fibers, and time.

    python tests/benchmarks/bench_training.py --cohort_dir C --output_dir O --seeds 0 1 2 \
        '{}' '{"timestep_weights": "min_snr"}' …

Trains a model for each seed and each mapping of options, samples every combination (with options of sampling, if
there are any), evaluates all by the run ``evaluation``, and prints one row per mapping: means over the seeds, and their
range. Runs again skip what is done.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from bench_guidance import TITLES, figures, print_table, run
from PIL import Image
from scipy import ndimage

from medi_monai.results import read_results
from medi_monai.results.metrics import ArmsMetrics

#: the class of the demo whose stroma is of parallel fibers
FIBROUS = "DEMO-SPINDLE"
#: options that sampling takes as well
OF_SAMPLING = {"label_guidance", "attribute_guidance", "guidance_interval", "num_steps", "solver"}


def coherence(folder: Path, table: pd.DataFrame) -> float:
    """Mean coherence of the gradients of fibrous images without their nuclei: 0 has no direction, 1 a single one.

    That of the structure tensor (Bigun and Granlund 1987) over the whole image, in its green channel.
    """
    values = []
    for name in table.loc[table["project_id"] == FIBROUS, "image"]:
        green = np.asarray(Image.open(folder / name).convert("RGB"))[..., 1] / 255
        green = ndimage.gaussian_filter(green, 0.7)
        across, down = ndimage.sobel(green, 1), ndimage.sobel(green, 0)
        stroma = ndimage.binary_erosion(green >= np.quantile(green, 0.12), iterations=2)
        xx, yy, xy = ((stroma * product).sum() for product in (across**2, down**2, across * down))
        values.append(np.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-9))
    return float(np.mean(values))


def main() -> None:
    """Train, sample, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images_per_combination", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("options", nargs="+", type=json.loads)
    given = parser.parse_args()
    where = {"cohort_dir": str(given.cohort_dir)}
    trainings = {
        f"o{number}_s{seed}": (seed, options) for seed in given.seeds for number, options in enumerate(given.options)
    }

    def train(name: str) -> None:
        seed, options = trainings[name]
        root = given.output_dir / name
        models = {"ckpt_dir": str(root / "models")}
        shared = {name: value for name, value in options.items() if name in OF_SAMPLING}
        own = {name: value for name, value in options.items() if name not in OF_SAMPLING}
        if not (root / "seconds.json").is_file():
            start = time.perf_counter()
            run("training", "train.json", **where, **models, seed=seed, output_dir=str(root / "training"), **own)
            (root / "seconds.json").write_text(json.dumps(time.perf_counter() - start))
        if not (root / "sampling" / "summary.json").is_file():
            count = {"plan": "all", "images_per_combination": given.images_per_combination, "num_steps": 15, **shared}
            run("sampling", "inference.json", **where, **models, output_dir=str(root / "sampling"), **count)

    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(train, trainings))
    arms = {name: str(given.output_dir / name / "sampling") for name in trainings}
    evaluation = given.output_dir / "evaluation"
    run("evaluation", "evaluate.json", **where, output_dir=str(evaluation), arms=arms, num_replicates=2)
    metrics = read_results(evaluation / "metrics.json", ArmsMetrics)
    real = pd.read_csv(given.cohort_dir / "cohort.csv", keep_default_na=False)
    print(f"coherence of real images: {coherence(given.cohort_dir, real):.2f}")

    def row(name: str) -> list[float]:
        root = given.output_dir / name
        manifest = pd.read_csv(root / "sampling" / "manifest.csv", keep_default_na=False)
        seconds = json.loads((root / "seconds.json").read_text())
        return [*figures(metrics.arms[name], root / "sampling"), coherence(root / "sampling", manifest), seconds]

    rows = [np.array([row(f"o{number}_s{seed}") for seed in given.seeds]) for number in range(len(given.options))]
    print_table([json.dumps(options) for options in given.options], rows, (*TITLES, "coherence", "training, s"))


if __name__ == "__main__":
    main()
