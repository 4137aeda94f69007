"""Shortcuts in features alone, by the command line, from files of TRIDENT, NumPy files and a Parquet table."""

import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.integration.conftest import ROOT, Bundle

OPTIONS = {"num_repeats": 2, "probe_replicates": 20, "sweep_repeats": 1, "c_values": [0.1], "num_workers": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, forks):
    folder = tmp_path_factory.mktemp("bundle")
    source = ROOT / "bundles" / "pathology_medi_diffusion"
    shutil.copytree(source, folder / "b", ignore=shutil.ignore_patterns("models", "output"))
    return Bundle(folder / "b", folder / "cache", forks)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same features in all formats; the center is planted more strongly than the class."""
    root, rng, rows, tables = tmp_path_factory.mktemp("data"), np.random.default_rng(0), [], []
    for name in ("h5", "npz"):
        (root / name).mkdir()
    for number in range(45):
        first, second = number % 3, number // 3 % 3
        mean = 0.5 * np.eye(8)[first] + 3 * np.eye(8)[3 + second]
        features = (mean + rng.normal(size=(6, 8))).astype("float32")
        coords = np.stack([np.arange(6) * 512, np.zeros(6, int)], 1)
        name = f"S{number}"
        with h5py.File(root / "h5" / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = features, coords
        np.savez(root / "npz" / f"{name}.npz", features=features, coords=coords)
        tables.append(pd.DataFrame({"slide_id": name, "embedding": list(features)}))
        rows.append((name, f"P{number}", "ABC"[first], f"H{second}"))
    pd.concat(tables).to_parquet(root / "features.parquet")
    pd.DataFrame(rows, columns=["slide_id", "case_id", "tumor", "hospital"]).to_csv(root / "slides.csv", index=False)
    return root


def options(data, features, out):
    return {
        "feature_source": data / features, "table": data / "slides.csv", "label": "tumor",
        "metadata_columns": ["hospital"], "columns": {"slide": "slide_id", "patient": "case_id"}, "output_dir": out,
        **OPTIONS,
    }  # fmt: skip


def test_all_formats_give_the_same_figures_in_one_command(bundle, data, tmp_path):
    found = {}
    for features in ("h5", "npz", "features.parquet"):
        out = tmp_path / features
        given = options(data, features, out)
        printed = bundle.must_run("shortcuts", "shortcuts.json", **given, own_process=features == "h5")
        assert f"shortcuts: done. Results: {out / 'report.html'}" in printed.splitlines()
        content = json.loads((out / "shortcuts.json").read_text())
        found[features] = {name: content[name] for name in ("attributes", "unseen", "conclusions", "digests")}
        del found[features]["digests"]["draws"]
    assert found["h5"] == found["npz"] == found["features.parquet"]
    assert found["h5"]["conclusions"][0]["text"] == "The features reveal hospital more than tumor."


def test_mistakes_are_one_line(bundle, data, tmp_path):
    given = options(data, "h5", tmp_path / "out")
    wrong = {**given, "feature_source": data / "h6"}
    # a fork ends without removing the folder that its run has made
    error = bundle.error("shortcuts", "shortcuts.json", **wrong, own_process=True)
    assert "there is no such folder" in error and not (tmp_path / "out").exists()
    for changes, says in (
        ({"pooling": "slide"}, "unknown pooling 'slide': did you mean 'slides'"),
        ({"feature_source": None}, "no features are given: set --feature_source"),
        ({"columns": {"slide": "slide", "patient": "case_id"}}, "did you mean 'slide_id'"),
    ):
        said = bundle.error_in_process("shortcuts", "shortcuts.json", **{**given, **changes})
        assert says in said and not list((tmp_path / "out").glob("[!.]*"))
