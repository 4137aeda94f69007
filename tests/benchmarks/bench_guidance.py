"""What guidance, solvers and steps do to the images of trained models: fidelity, distance, variety, and time.

    python tests/benchmarks/bench_guidance.py --cohort_dir C --output_dir O --model_dirs M0 M1 … \
        --options '{"label_guidance": 1, "attribute_guidance": 1}' '{"label_guidance": 2.5}' …

Samples every combination with each model and each mapping of sampling options, evaluates all by the run ``evaluation``,
and prints one row per mapping: means over the models, and their range. Runs again skip what is done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medi_monai.results import read_results
from medi_monai.results.metrics import ArmMetrics, ArmsMetrics

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_medi_diffusion"
TITLES = (
    "label",
    "label, unseen",
    "attributes",
    "Fréchet",
    "Fréchet, unseen",
    "recall",
    "diversity",
    "pixel variance",
    "images/s",
)


def run(run_id: str, config: str, **options: object) -> None:
    """Run a run id of the bundle in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id, "--bundle_root", str(BUNDLE)]
    command += ["--config_file", str(BUNDLE / "configs" / config)]
    for name, value in options.items():
        command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def figures(of_arm: ArmMetrics, sampling: Path) -> list[float]:
    """The figures of one set of images, in the order of ``TITLES``."""
    shares = [share.value for share in of_arm.attribute_fidelity.values() if share]
    speed = json.loads((sampling / "summary.json").read_text())["figures"]["images_per_second"]
    values = (
        of_arm.label_fidelity.value if of_arm.label_fidelity else None,
        of_arm.label_fidelity.unseen if of_arm.label_fidelity else None,
        np.mean([share for share in shares if share is not None]),
        of_arm.frechet_distance.mean.value,
        of_arm.frechet_distance.unseen.value,
        of_arm.recall.mean.value,
        of_arm.diversity.value,
        of_arm.pixel_variance.value,
        speed,
    )
    return [np.nan if value is None else float(value) for value in values]


def print_table(names: Sequence[str], rows: Sequence[np.ndarray], titles: Sequence[str] = TITLES) -> None:
    """One row per mapping of options: mean over models, and lowest to highest if there are several."""
    print("| options | " + " | ".join(titles) + " |")
    print("|---|" + "---|" * len(titles))
    for name, values in zip(names, rows):
        cells = [
            f"{column.mean():.3g}" + (f" ({column.min():.3g} to {column.max():.3g})" if len(column) > 1 else "")
            for column in values.T
        ]
        print(f"| `{name}` | " + " | ".join(cells) + " |")


def main() -> None:
    """Sample, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model_dirs", type=Path, nargs="+", required=True)
    parser.add_argument("--images_per_combination", type=int, default=48)
    parser.add_argument("--num_steps", type=int, default=15)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--options", nargs="+", type=json.loads, required=True, help="sampling options, as JSON")
    given = parser.parse_args()
    shared = {"plan": "all", "num_steps": given.num_steps, "images_per_combination": given.images_per_combination}
    samplings = {
        f"m{model}_o{number}": (folder, options)
        for model, folder in enumerate(given.model_dirs)
        for number, options in enumerate(given.options)
    }

    def sample(name: str) -> None:
        folder, options = samplings[name]
        where = {"cohort_dir": str(given.cohort_dir), "ckpt_dir": str(folder)}
        if not (given.output_dir / name / "summary.json").is_file():
            run("sampling", "inference.json", **where, output_dir=str(given.output_dir / name), **{**shared, **options})

    with ThreadPoolExecutor(given.processes) as pool:
        list(pool.map(sample, samplings))
    arms = {name: str(given.output_dir / name) for name in samplings}
    evaluation = given.output_dir / "evaluation"
    where = {"cohort_dir": str(given.cohort_dir), "output_dir": str(evaluation), "arms": arms}
    run("evaluation", "evaluate.json", **where, num_replicates=2)
    metrics = read_results(evaluation / "metrics.json", ArmsMetrics)
    floor = metrics.real.floor.frechet_distance.value
    first = next(iter(metrics.arms.values())).frechet_distance
    print(f"Fréchet distance of real images of other patients: {floor:.3g}, unseen {first.floor_unseen.value:.3g}")
    rows = [
        np.array(
            [
                figures(metrics.arms[f"m{model}_o{number}"], given.output_dir / f"m{model}_o{number}")
                for model in range(len(given.model_dirs))
            ]
        )
        for number in range(len(given.options))
    ]
    print_table([json.dumps(options) for options in given.options], rows)


if __name__ == "__main__":
    main()
