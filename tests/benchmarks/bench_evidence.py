"""Evaluation and probing at scale: a million images of 1,024 features, 32 classes x 185 centers, most cells empty.

``python tests/benchmarks/bench_evidence.py --folder F [--images 1000000] [--dim 1024]``

Features are drawn (a mean per class, one per center, noise) into stores in F, which takes 4.4 GB and is kept. Every
stage prints its time and the peak memory of the process so far, mapped pages of the stores among it.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.engines.evaluation import _compare_all, _distance_of_all, _streamed_moments
from medi_monai.engines.fidelity import FidelitySettings, summarize
from medi_monai.engines.reading import read_columns
from medi_monai.metrics import balanced_accuracy
from medi_monai.probing import FeatureStore, ImageSet, ProbeProtocol, Setting

CLASSES, CENTERS, BLOCK = 32, 185, 16_384
COLUMNS = ["cancer_type", "center"]


def make_table(count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Patches of patients; a class is seen at a tenth of the centers, one in three of these pairs is held out."""
    pairs = np.argwhere(rng.random((CLASSES, CENTERS)) < 0.12)
    pair = rng.choice(len(pairs), count, p=rng.dirichlet(np.full(len(pairs), 0.5)))
    patient = pair * 12 + rng.integers(0, 12, count)
    held = rng.random(len(pairs)) < 0.3
    split = np.where(held[pair], "holdout", np.where(patient % 12 == 0, "val", "train"))
    return pd.DataFrame(
        {
            "image": np.arange(count).astype(str),
            "slide": patient.astype(str),
            "patient": patient.astype(str),
            "cancer_type": np.char.add("class ", pairs[pair, 0].astype(str)),
            "center": np.char.add("center ", pairs[pair, 1].astype(str)),
            "split": split,
            "class_code": pairs[pair, 0],
            "center_code": pairs[pair, 1],
        }
    )


def make_store(folder: Path, table: pd.DataFrame, dim: int, center_strength: float, seed: int) -> FeatureStore:
    """A store of features with a mean per class and, ``center_strength`` as strong, one per center."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.1, (CLASSES, dim)), rng.normal(0, 0.2, (CENTERS, dim))
    kept = table.drop(columns=["class_code", "center_code"])
    store = FeatureStore.create_or_open(folder, kept, {"seed": seed, "strength": center_strength}, dim, BLOCK)
    for block in store.missing_blocks():
        rows = store.rows(block)
        part = table.iloc[rows.start : rows.stop]
        noise = np.random.default_rng([seed, block]).standard_normal((len(part), dim), np.float32)
        store.write(block, means[0][part["class_code"]] + center_strength * means[1][part["center_code"]] + noise)
    return FeatureStore.open(folder)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print the time that a stage took."""
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak {peak:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--generated", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    options = parser.parse_args()
    folder, rng = Path(options.folder), np.random.default_rng(1)
    with stage("features drawn and stored"):
        tables = {"real": make_table(options.images, rng)}
        generated = tables["real"].sample(options.generated, random_state=0).reset_index(drop=True)
        tables |= {"medi": generated, "cls": generated}
        stores = {
            name: make_store(folder / name, table, options.dim, 0.0 if name == "cls" else 1.0, seed)
            for seed, (name, table) in enumerate(tables.items())
        }
    cohorts = {name: Cohort(table, folder / name) for name, table in tables.items()}
    features = {name: store.features for name, store in stores.items()}
    arms = {name: cohorts[name] for name in ("cls", "medi")}
    with stage("Fréchet and kernel distance, precision and recall by combination"):
        settings = FidelitySettings(num_halves=2, num_replicates=10)
        results, _ = _compare_all(cohorts["real"], arms, features, COLUMNS, settings)
    usable = [one for one in results if one["matched"]]
    print(f"  {len(results)} combinations, {len(usable)} with enough images;", end=" ")
    print({arm: round(summarize(results, arm, "frechet_distance")["value"], 2) for arm in ("floor", "cls", "medi")})
    with stage("Fréchet distance of all images, streamed"):
        moments = {name: _streamed_moments(rows) for name, rows in features.items()}
        print(" ", {arm: round(_distance_of_all(moments["real"], moments[arm])["value"], 3) for arm in arms})
    with stage("label and center read in generated images"):
        manifests = {arm: (features[arm], tables[arm]) for arm in arms}
        read = read_columns(features["real"], tables["real"], manifests, COLUMNS, (0.001, 0.01))
        print(" ", {arm: {name: round(one["value"], 3) for name, one in found.items()} for arm, found in read.items()})
    sets = {name: ImageSet(folder / name, table) for name, table in tables.items()}
    with stage("protocol of the probes"):
        protocol = ProbeProtocol({"real": sets["real"]}, {"medi": sets["medi"]}, [], COLUMNS[0], COLUMNS[1:], (0.001,))
    for arm in ("real", "medi"):
        with stage(f"a probe of {len(protocol.train):,} images, arm {arm}, {CLASSES} classes"):
            (outcome,) = protocol.run([arm], 0, Setting(ratio=0.1))
            confusion = np.zeros((len(protocol.classes),) * 2)
            np.add.at(confusion, (protocol.labels[protocol.test], outcome.probabilities.argmax(1).numpy()), 1)
            print(f"  balanced accuracy {balanced_accuracy(confusion):.3f}, converged: {outcome.converged}")


if __name__ == "__main__":
    main()
