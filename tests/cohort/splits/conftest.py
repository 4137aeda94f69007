"""Tables to split."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="session")
def random_table():
    """A function from a seed to a small table of slides with label, center and race, all of them uneven."""

    def make(seed, missing=0.0, several=0.0, patients=60):
        """``missing``: share of empty cells in the attributes; ``several``: share of patients with other rows too."""
        rng = np.random.default_rng(seed)
        rows = []
        for patient in range(patients):
            of_patient = _values(rng, missing)
            for slide in range(rng.integers(1, 4)):
                values = _values(rng, missing) if slide and rng.random() < several else of_patient
                rows.append((f"p{patient:03d}", f"p{patient:03d}-{slide}", *values))
        table = pd.DataFrame(rows, columns=["patient", "slide", "label", "center", "race"])
        return table.sample(frac=1, random_state=seed, ignore_index=True)

    return make


def _values(rng, missing):
    label = f"t{rng.integers(3)}"
    center = f"c{min(rng.integers(8), rng.integers(8))}"
    race = f"r{min(rng.integers(3), rng.integers(3))}"
    return label, *("" if rng.random() < missing else value for value in (center, race))


@pytest.fixture(scope="session")
def tcga(real_data):
    """The TCGA slide table with site codes from the barcodes and the centers behind them; missing cells are empty."""

    def read(name):
        path = real_data / "tcga" / name
        if not path.is_file():
            pytest.skip(f"no real data at {path}")
        return pd.read_csv(path, dtype=str, keep_default_na=False)

    table, sites = read("slides.csv"), read("tissue_source_sites.csv")
    table["patient"] = table["case_submitter_id"]
    table["site"] = table["slide_submitter_id"].str.split("-").str[1]
    table["center"] = table["site"].map(dict(zip(sites["tissue_source_site"], sites["center"])))
    table[["race", "gender"]] = table[["race", "gender"]].replace(["'--", "not reported", "Unknown"], "")
    return table
