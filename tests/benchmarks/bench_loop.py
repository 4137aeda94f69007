"""Images per second of `sampling` against a loop in the style of the published code, side by side.

    python tests/benchmarks/bench_loop.py --cohort_dir C --model_dir M --output_dir O

The loop loads the model for each combination and draws its images alone, with 100 steps of DDIM. Both draw the same
plan, in pairs of whole processes, each of one thread and with another seed in every pair; then the run `evaluation`
compares the images of each with real ones.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_guidance import run
from PIL import Image

from medi_monai.engines.model_dir import load_network, load_schema
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.results import read_results
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.utils.files import read_json
from medi_monai.utils.pixels import uint8_arrays


def published_loop(model_dir: Path, plan: pd.DataFrame, output_dir: Path, seed: int, steps: int = 100) -> None:
    """Draw a plan one combination at a time, and write images and manifest."""
    from diffusers import DDIMScheduler

    rows = []
    for number, combination in enumerate(plan.to_dict("records")):
        count = int(combination.pop("count"))
        schema, settings = load_schema(model_dir), read_json(model_dir / "model.json")
        names = ("channels", "attention_levels", "num_res_blocks", "num_head_channels", "norm_num_groups")
        network = MetadataDiffusionUNet(
            schema, settings["conditioning"], spatial_dims=2, in_channels=3, out_channels=3, use_combined_linear=True,
            **{name: settings[name] for name in names},
        )  # fmt: skip
        network = load_network(network, model_dir / "model.pt", torch.device("cpu"))
        scheduler = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        scheduler.set_timesteps(steps)
        conditions = schema.encode(pd.DataFrame([combination] * count))
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed * len(plan) + number))
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                prediction = network(images, timestep.expand(count), conditions)
                images = scheduler.step(prediction, timestep, images).prev_sample
        for pixels in uint8_arrays(images):
            name = f"{len(rows):05}.png"
            Image.fromarray(pixels).save(output_dir / name)
            rows.append({"image": name, **combination})
    pd.DataFrame(rows).to_csv(output_dir / "manifest.csv", index=False)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Draw with both, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort_dir", type=Path, required=True)
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--combinations", type=int, default=200)
    parser.add_argument("--images", type=int, default=2, help="images of each combination")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--loop", type=int, help="draw the plan of output_dir by the loop alone, with this seed")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    plan_file = given.output_dir / "plan.csv"
    if given.loop is not None:
        (given.output_dir / f"loop_{given.loop}").mkdir()
        plan = pd.read_csv(plan_file, keep_default_na=False)
        return published_loop(given.model_dir, plan, given.output_dir / f"loop_{given.loop}", given.loop)
    given.output_dir.mkdir(parents=True)
    schema = load_schema(given.model_dir)
    every = list(itertools.product(*(column.values for column in schema.columns)))
    chosen = np.random.default_rng(0).permutation(len(every))[: given.combinations]
    plan = pd.DataFrame([every[index] for index in sorted(chosen)], columns=schema.names).assign(count=given.images)
    plan.to_csv(plan_file, index=False)
    free = {"label_guidance": 1, "attribute_guidance": 1}
    seconds: dict[str, list[float]] = {"loop": [], "sampling": [], "guided": []}
    shared = {"ckpt_dir": str(given.model_dir), "cohort_dir": str(given.cohort_dir), "plan": str(plan_file)}
    for pair in range(given.pairs):
        again = [sys.executable, "-W", "ignore", __file__]
        again += ["--cohort_dir", str(given.cohort_dir), "--model_dir", str(given.model_dir)]
        again += ["--output_dir", str(given.output_dir), "--loop", str(pair)]
        seconds["loop"].append(seconds_of(partial(subprocess.run, again, check=True)))
        for name, options in (("sampling", free), ("guided", {})):
            folder = str(given.output_dir / f"{name}_{pair}")
            work = partial(run, "sampling", "inference.json", **shared, output_dir=folder, seed=pair, **options)
            seconds[name].append(seconds_of(work))
    arms = {
        f"{name}_{pair}": str(given.output_dir / f"{name}_{pair}") for name in seconds for pair in range(given.pairs)
    }
    folder = str(given.output_dir / "evaluation")
    where = {"cohort_dir": str(given.cohort_dir), "arms": arms, "output_dir": folder}
    run("evaluation", "evaluate.json", **where, num_replicates=2, min_images=8)
    metrics = read_results(Path(folder) / "metrics.json", ArmsMetrics)
    images = len(plan) * given.images
    print("| | seconds | images/s | ratio, pair by pair | Fréchet distance | label |\n|---|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [loop / own for loop, own in zip(seconds["loop"], times)]
        of_pairs = [metrics.arms[f"{name}_{pair}"] for pair in range(given.pairs)]
        distances = [arm.frechet_distance.mean.value for arm in of_pairs]
        labels = [arm.label_fidelity.value for arm in of_pairs if arm.label_fidelity]
        print(
            f"| {name} | {np.median(times):.1f} | {images / np.median(times):.2f} | {min(ratios):.1f} to "
            f"{max(ratios):.1f} | {np.mean(distances):.2f} ({min(distances):.2f} to {max(distances):.2f}) | "
            f"{np.mean(labels):.2f} |"
        )


if __name__ == "__main__":
    main()
