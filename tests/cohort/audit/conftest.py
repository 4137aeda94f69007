"""A cohort without leakage, and its audit."""

import itertools

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.audit import audit_cohort


def clean_cohort(seed=0, patients=120, patches=4):
    """Patients with one class, center, race and split; slides and patches of their own."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        shared = {
            "patient": f"p{patient:03d}",
            "tumor": f"t{rng.integers(3)}",
            "center": f"c{rng.integers(6)}",
            "race": rng.choice(["a", "b", "", " "]),
            "split": rng.choice(["train", "val", "holdout", "excluded"], p=[0.6, 0.1, 0.2, 0.1]),
            "mpp": "0.25",
        }
        for slide, patch in itertools.product(range(rng.integers(1, 3)), range(patches)):
            name = f"s{patient:03d}-{slide}"
            rows.append({"image": f"patches/{name}/{patch}.png", "slide": name, **shared})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def clean():
    return clean_cohort()


@pytest.fixture(scope="session")
def audit(clean):
    return audit_cohort(clean, "tumor", ["center", "race"])
