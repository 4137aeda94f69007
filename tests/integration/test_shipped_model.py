"""The trained model that comes with the pathology bundle: it samples as soon as the package is installed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.runs.packing import LARGEST
from medi_monai.utils.files import file_digest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "bundles" / "pathology_medi_diffusion"


def _mean_colors(images, table):
    colors = [np.asarray(Image.open(images / name).convert("RGB")).mean((0, 1)) for name in table["image"]]
    means = pd.DataFrame(colors).groupby([table["project_id"].to_numpy(), table["center"].to_numpy()]).mean()
    return means.sort_index()


def test_the_model_samples_every_unseen_combination_without_a_cohort(bundle, prepared, tmp_path):
    root = tmp_path / "b"
    shutil.copytree(SOURCE, root, ignore=shutil.ignore_patterns("output", "checkpoint*", "earlier-*", "cls"))
    # a cache without demo slides, which sampling must not need
    shipped = type(bundle)(root, tmp_path / "cache", bundle.forks)
    shipped.must_run(
        "sampling", "inference.json", output_dir=tmp_path / "out", images_per_combination=4, own_process=True
    )
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.tiff"))
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv", dtype=str, keep_default_na=False)
    # the combinations that the demo cohort holds out, in the color of their centers
    cohort = Cohort.read(prepared)
    held_out = cohort.table[cohort.table["split"] == "holdout"]
    real = held_out.groupby(["project_id", "center"]).head(40).reset_index(drop=True)
    generated, expected = _mean_colors(tmp_path / "out", manifest), _mean_colors(cohort.root, real)
    assert generated.index.tolist() == expected.index.tolist() and len(expected) == 10
    assert np.corrcoef(generated.to_numpy().ravel(), expected.to_numpy().ravel())[0, 1] > 0.95


def test_the_model_holds_no_path_and_fits_the_zoo():
    models = SOURCE / "models"
    record = json.loads((models / "model.json").read_text())
    assert record["weights_sha256"] == [file_digest(models / "model.pt")]
    assert (models / "model.pt").stat().st_size <= LARGEST
    for name in ("model.json", "schema.json"):
        assert '"/' not in (models / name).read_text()
