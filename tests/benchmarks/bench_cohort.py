"""How long a cohort of 1.6 million patches takes to build, split and audit, and how much memory.

    python tests/benchmarks/bench_cohort.py [--patches 1600000] [--scheme combination_holdout] [--fraction 0.3]

The target: under 60 seconds and 4 GB for all stages together, on one core.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import ImageTable, SplitScheme, assign_splits
from medi_monai.cohort.audit import audit_cohort
from medi_monai.report.audit_page import write_audit_page
from medi_monai.utils.files import write_json, write_table

SLIDES, PATIENTS, CLASSES, CENTERS = 12_000, 8_000, 32, 200
RACES = ("white", "black or african american", "asian", "american indian or alaska native", "")


def make_synthetic_cohort(num_patches: int = 1_600_000, seed: int = 0) -> pd.DataFrame:
    """A patch table of 12,000 slides, 8,000 patients, 32 classes, 200 centers and 5 races (one of them missing).

    As in TCGA, classes and centers are of very different sizes, and a center sees a part of the classes only.
    """
    rng = np.random.default_rng(seed)
    label = rng.choice(CLASSES, PATIENTS, p=_sizes(CLASSES))
    # centers of each class: a random third of them, of very different sizes
    sizes = rng.permuted(np.tile(_sizes(CENTERS), (CLASSES, 1)), axis=1)
    weights = np.where(rng.random((CLASSES, CENTERS)) < 0.3, sizes, 0)
    shares = (weights / weights.sum(1, keepdims=True)).cumsum(1)
    center = (rng.random((PATIENTS, 1)) > shares[label]).sum(1).clip(0, CENTERS - 1)
    race = rng.choice(len(RACES), PATIENTS, p=[0.6, 0.1, 0.08, 0.02, 0.2])

    patient = np.concatenate([np.arange(PATIENTS), rng.integers(0, PATIENTS, SLIDES - PATIENTS)])
    slide = np.repeat(np.arange(SLIDES), rng.multinomial(num_patches, np.full(SLIDES, 1 / SLIDES)))
    number = np.arange(num_patches) - np.searchsorted(slide, np.arange(SLIDES))[slide]
    patient_names = _names("P{:04d}", PATIENTS)
    slide_names = _names("S{:05d}", SLIDES)
    texts = {
        "slide": slide_names[slide],
        "patient": patient_names[patient[slide]],
        "x": _names("{}", 100 * 512, 512)[number % 100],
        "y": _names("{}", (num_patches // 100 + 1) * 512, 512)[number // 100],
        "mpp": np.where(center[patient[slide]] % 2, "0.25", "0.5"),
        "project_id": _names("TCGA-{:02d}", CLASSES)[label[patient[slide]]],
        "center": _names("Center {:03d}", CENTERS)[center[patient[slide]]],
        "race": np.array(RACES, object)[race[patient[slide]]],
    }
    table = pd.DataFrame({name: pd.Series(values, dtype="str") for name, values in texts.items()})
    table.insert(0, "image", "patches/" + table["slide"] + "/patch_" + table["x"] + "_" + table["y"] + ".png")
    return table


def _names(pattern: str, stop: int, step: int = 1) -> np.ndarray:
    return np.array([pattern.format(number) for number in range(0, stop, step)], object)


def _sizes(count: int) -> np.ndarray:
    sizes = 1 / np.arange(2, count + 2)
    return sizes / sizes.sum()


@contextmanager
def stage(name: str, seconds: list[float]) -> Iterator[None]:
    """Print how long a stage took, and the most memory that the process has held so far."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:32s} {seconds[-1]:6.1f} s   peak {peak:5.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1_600_000)
    parser.add_argument("--scheme", default="combination_holdout")
    parser.add_argument("--fraction", type=float, default=0.3)
    options = parser.parse_args()
    seconds: list[float] = []
    columns = (
        ("project_id", "center", "race") if options.scheme == "subpopulation_holdout" else ("project_id", "center")
    )
    scheme = SplitScheme(columns, options.scheme, fraction=options.fraction)
    audit: Callable[..., dict[str, Any]] = audit_cohort
    with tempfile.TemporaryDirectory() as folder:
        for name in ("patches.csv", "patches.parquet"):
            write_table(Path(folder) / name, make_synthetic_cohort(options.patches))
        print(f"{options.patches:,} rows")
        columns_of = {"slide": "slide", "patient": "patient", "mpp": "mpp"}
        rules = {"race": {"merge": {"other": ["asian", "american indian or alaska native"]}}}
        for name in ("patches.csv", "patches.parquet"):
            source = ImageTable(
                folder, name, "project_id", ["center", "race"], columns_of, mapping=rules, unit="patches"
            )
            with stage(f"build the table from {name}", seconds):
                table = source.rows(check_files=False)
        with stage(f"split ({options.scheme})", seconds):
            table["split"] = assign_splits(table, scheme)
        with stage("audit", seconds):
            audit(table, "project_id", ["center", "race"])
        with stage("audit with hashes", seconds):
            hashes = np.random.default_rng(1).integers(1, 2**63, len(table), dtype=np.uint64)
            results = audit(table, "project_id", ["center", "race"], hashes=hashes)
        with stage("audit.json and audit.html", seconds):
            write_json(Path(folder) / "audit.json", results)
            write_audit_page(results, Path(folder) / "audit.html")
        with stage("cohort.parquet", seconds):
            write_table(Path(folder) / "cohort.parquet", table)
    print(f"{'all stages':32s} {sum(seconds):6.1f} s")
    print(table["split"].value_counts().to_string())
    for finding in results["findings"]:
        print(f"{finding['level']}: {finding['text']}")


if __name__ == "__main__":
    main()
