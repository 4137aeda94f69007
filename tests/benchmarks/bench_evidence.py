"""Evaluation and probing at scale: a million images of 1,024 features, 32 classes x 185 centers, most cells empty.

``python tests/benchmarks/bench_evidence.py --folder F [--images 1000000] [--dim 1024] [--probes_only]``

Features are drawn (a mean per class, one per center, noise) into stores in F, which takes 4.9 GB and is kept. Every
stage prints its time and its peaks of resident memory: in all, the process's own (anonymous pages), and pages of mapped
files, which the system may drop.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.evaluation.fidelity import FidelitySettings, distance_of_all, summarize
from medi_monai.evaluation.label_fidelity import label_fidelity
from medi_monai.evaluation.metadata import combination_sets, compare_combinations
from medi_monai.evaluation.probing import DrawCondition, FeatureStore, ImageSet, ProbeProtocol
from medi_monai.metrics import Moments, balanced_accuracy

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
        block_rows = table.iloc[rows.start : rows.stop]
        noise = np.random.default_rng([seed, block]).standard_normal((len(block_rows), dim), np.float32)
        store.write(
            block, means[0][block_rows["class_code"]] + center_strength * means[1][block_rows["center_code"]] + noise
        )
    return FeatureStore.open(folder)


class Memory(threading.Thread):
    """Peaks of resident memory (Linux), in GiB, looked at 50 times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks = {"in all": 0.0, "own": 0.0, "mapped": 0.0}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            text = Path("/proc/self/status").read_text()
            sizes = {name: int(size) / 2**20 for name, size in re.findall(r"Rss(\w+):\s+(\d+)", text)}
            now = (sum(sizes.values()), sizes["Anon"], sizes["File"])
            self.peaks = {name: max(peak, size) for (name, peak), size in zip(self.peaks.items(), now, strict=True)}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print the time that a stage took on the clock and on a core, and its memory."""
    start, busy, memory = time.perf_counter(), time.process_time(), Memory()
    memory.start()
    yield
    memory.ended.set()
    memory.join()
    peaks = ", ".join(f"{kind} {peak:.2f}" for kind, peak in memory.peaks.items())
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{name}: {seconds:.1f} s ({busy:.1f} s of a core), peak GiB: {peaks}", flush=True)


def evaluate(folder: Path, tables: dict[str, pd.DataFrame], stores: dict[str, FeatureStore]) -> None:
    """The distances, and the classifiers that read generated images."""
    cohorts = {name: Cohort(table, folder / name) for name, table in tables.items()}
    features = {name: store.features for name, store in stores.items()}
    arms = {name: cohorts[name] for name in ("cls", "medi")}
    with stage("Fréchet and kernel distance, precision and recall by combination"):
        settings = FidelitySettings(num_halves=2, num_replicates=10)
        results, _ = compare_combinations(combination_sets(cohorts["real"], arms, features, COLUMNS), settings)
    usable = [result for result in results if result["matched"]]
    print(f"  {len(results)} combinations, {len(usable)} with enough images;", end=" ")
    print({arm: round(summarize(results, arm, "frechet_distance")["value"], 2) for arm in ("floor", "cls", "medi")})
    with stage("Fréchet distance of all images, streamed"):
        moments = {name: Moments.of(rows) for name, rows in features.items()}
        print(" ", {arm: round(distance_of_all(moments["real"], moments[arm])["value"], 3) for arm in arms})
    with stage("label and center read in generated images"):
        manifests = {arm: (features[arm], tables[arm]) for arm in arms}
        read = label_fidelity(features["real"], tables["real"], manifests, COLUMNS, (0.001, 0.01))
        print(
            " ",
            {
                arm: {name: round(figure["value"], 3) for name, figure in figures.items()}
                for arm, figures in read.items()
            },
        )


def probe(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """One draw of the protocol, without and with generated images."""
    sets = {name: ImageSet(folder / name, table) for name, table in tables.items()}
    with stage("protocol of the probes"):
        protocol = ProbeProtocol({"real": sets["real"]}, {"medi": sets["medi"]}, [], COLUMNS[0], COLUMNS[1:], (0.001,))
    for arm in ("real", "medi"):
        with stage(f"a probe of {len(protocol.train):,} images, arm {arm}, {CLASSES} classes"):
            (outcome,) = protocol.run([arm], 0, DrawCondition(ratio=0.1))
            confusion = np.zeros((len(protocol.classes),) * 2)
            np.add.at(confusion, (protocol.labels[protocol.test], outcome.probabilities.argmax(1).numpy()), 1)
            print(f"  balanced accuracy {balanced_accuracy(confusion):.3f}, converged: {outcome.converged}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--generated", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--probes_only", action="store_true", help="leave out the evaluation of generated images")
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
    if not options.probes_only:
        evaluate(folder, tables, stores)
    # pages of a file that is mapped twice count twice
    del stores
    probe(folder, tables)


if __name__ == "__main__":
    main()
