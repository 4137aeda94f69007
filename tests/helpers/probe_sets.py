"""Small sets of real, generated and recolored features, for tests of the probes."""

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing import ImageSet, ProbeProtocol

LABELS, CENTERS, DIM, CS = ("A", "B", "C"), ("n", "s", "w"), 6, (0.01, 1.0)


def real_table(patients=5, images=4, val=True, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for label in LABELS:
        for center in CENTERS:
            held_out = (label, center) in {("A", "s"), ("B", "w")}
            for patient in range(patients):
                split = "holdout" if held_out else "val" if val and patient == 0 else "train"
                name = f"{label}{center}{patient}"
                rows += [(f"{name}_{n}", name, label, center, split) for n in range(images + rng.integers(0, 3))]
    return pd.DataFrame(rows, columns=["image", "patient", "label", "center", "split"])


def features_of(table, seed=0):
    rng = np.random.default_rng(seed)
    base = {key: rng.standard_normal(DIM) for key in (*LABELS, *CENTERS)}
    centers = table["center"] if "center" in table else ["n"] * len(table)
    mean = np.array([base[label] + base[center] for label, center in zip(table["label"], centers)])
    return (mean + rng.standard_normal(mean.shape)).astype(np.float32)


def synthetic_set(per_cell, seed, columns=("label", "center")):
    rows = [(f"{label}{center}{n}", label, center) for label in LABELS for center in CENTERS for n in range(per_cell)]
    table = pd.DataFrame(rows, columns=["image", "label", "center"])[["image", *columns]]
    return ImageSet(features_of(table, seed), table)


def recolored_set(table, per_cell, seed):
    """Training rows with other centers, as features of their own."""
    train = table[table["split"] == "train"]
    rows = [train[train["label"] == label].head(per_cell).assign(center=name) for label in LABELS for name in CENTERS]
    moved = pd.concat(rows, ignore_index=True)
    return ImageSet(features_of(moved, seed), moved)


def make(table=None, sets=None, views=None, augmented=(), **kwargs):
    table = real_table() if table is None else table
    real = {"real": ImageSet(features_of(table), table)} | (views or {})
    sets = {"cls": synthetic_set(9, 1), "medi": synthetic_set(7, 2)} if sets is None else sets
    return ProbeProtocol(real, sets, augmented, "label", ["center"], CS, **kwargs)
