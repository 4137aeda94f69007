"""The demo's experiment with several seeds: figures over trainings, and intervals over trainings and patients.

    python tests/benchmarks/bench_seeds.py --output_dir O --seeds 0 1 2 3 4 5 6 7 8 9 [--overlay FILE]

Runs again skip what is done. Intervals are of the bootstrap (10,000 replicates) that draws trainings and, apart from
them, test patients with replacement, the same for all trainings; a training counts with the mean over its draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from bench_guidance import BUNDLE, TITLES, figures, print_table, run

from medi_monai.results import read_results
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults

REPLICATES = 10_000


def gains(folder: Path, repeats: list[str]) -> dict[str, pd.Series]:
    """What each test patient adds to the balanced accuracy of each arm: mean over the draws of a training."""
    draws = [json.loads(Path(name).read_text())["arms"] for name in repeats]
    return {arm: pd.DataFrame([draw[arm]["scores"]["gain"] for draw in draws]).mean() for arm in draws[0]}


def resampled_accuracies(gain: np.ndarray, classes: np.ndarray, counts: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Balanced accuracy ``(T, B)`` of each training and bootstrap sample of patients.

    Args:
        gain: ``(T, P)`` what patients add to the balanced accuracy of the original test set.
        classes: ``(P,)`` class of each patient.
        counts: ``(P,)`` test images of each patient.
        drawn: ``(B, P)`` how often each patient is in each sample.
    """
    recalls = []
    num_classes = len(np.unique(classes))
    for label in np.unique(classes):
        of_class = classes == label
        right = gain[:, of_class] * counts[of_class].sum() * num_classes @ drawn[:, of_class].T
        images = drawn[:, of_class] @ counts[of_class]
        recalls.append(np.where(images > 0, right / np.where(images > 0, images, 1), np.nan))
    return np.nanmean(recalls, 0)


def compare(folders: list[Path]) -> None:
    """Print the balanced accuracy of each arm on unseen combinations, and what Real + MeDi is ahead of it."""
    table = pd.read_csv(folders[0] / "cohort" / "cohort.csv", dtype=str, keep_default_na=False)
    label = json.loads((folders[0] / "experiment.json").read_text())["cohort"]["label"]
    by_training = [gains(folder, sorted(map(str, folder.glob("probing/repeats/*/main_*.json")))) for folder in folders]
    patients = list(by_training[0]["medi"].index)
    rows = table[table["split"].ne("train") & table["patient"].isin(patients)]
    if (rows.groupby("patient")[label].nunique() != 1).any():
        raise SystemExit("a test patient has images of several classes: the intervals are not made for that")
    classes = rows.groupby("patient")[label].first()[patients].to_numpy()
    counts = rows.groupby("patient").size()[patients].to_numpy()
    rng = np.random.default_rng(0)
    once = np.ones((1, len(patients)))
    drawn = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=REPLICATES)
    trainings = rng.integers(len(folders), size=(REPLICATES, len(folders)))
    values, replicates = {}, {}
    for arm in by_training[0]:
        gain = np.array([of_arm[arm][patients].to_numpy() for of_arm in by_training])
        values[arm] = resampled_accuracies(gain, classes, counts, once)[:, 0]
        chosen = resampled_accuracies(gain, classes, counts, drawn)
        replicates[arm] = chosen[trainings, np.arange(REPLICATES)[:, None]].mean(1)
    probes = [read_results(folder / "probing" / "probe.json", ProbeResults) for folder in folders]
    for arm in values:
        reported = [probe.arms[arm].balanced_accuracy.value for probe in probes]
        np.testing.assert_allclose(values[arm], reported, atol=1e-9)
    print("| arm | balanced accuracy | Real + MeDi − arm (95 % interval) | of the trainings |\n|---|---|---|---|")
    for arm, value in values.items():
        if arm == "medi":
            print(f"| {arm} | {value.mean():.3f} ({value.min():.3f} to {value.max():.3f}) | | |")
            continue
        ahead = values["medi"] - value
        low, high = np.quantile(replicates["medi"] - replicates[arm], [0.025, 0.975])
        print(
            f"| {arm} | {value.mean():.3f} ({value.min():.3f} to {value.max():.3f}) | {ahead.mean():+.3f} "
            f"({low:+.3f} to {high:+.3f}) | {ahead.min():+.3f} to {ahead.max():+.3f} |"
        )


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--overlay", type=Path, help="config file over experiment.json, such as demo_balanced.yaml")
    given = parser.parse_args()
    configs = ["experiment.json"] if given.overlay is None else ["experiment.json", str(given.overlay.resolve())]
    config = ",".join(str(BUNDLE / "configs" / name) for name in configs)
    folders = [given.output_dir / str(seed) for seed in given.seeds]
    for seed, folder in zip(given.seeds, folders):
        if not (folder / "experiment.json").is_file():
            run("experiment", config, output_dir=str(folder), seed=seed)
    metrics = [read_results(folder / "evaluation" / "metrics.json", ArmsMetrics) for folder in folders]
    for arm in ("medi", "cls"):
        floors = [of_seed.real.floor.frechet_distance.value for of_seed in metrics]
        unseen = [of_seed.arms[arm].frechet_distance.floor_unseen.value for of_seed in metrics]
        values = [figures(of_seed.arms[arm], folder / arm / "sampling") for of_seed, folder in zip(metrics, folders)]
        shares = np.array(values)[:, [3, 4]] / np.array([floors, unseen]).T
        rows = np.hstack([np.array(values), shares])
        titles = (*TITLES, "distance / floor", "unseen / floor")
        print_table([f"{arm}, {len(folders)} trainings"], [rows], titles)
        for seed, row in zip(given.seeds, rows):
            print(f"| seed {seed} | " + " | ".join(f"{value:.3g}" for value in row) + " |")
        print()
    compare(folders)


if __name__ == "__main__":
    main()
