"""Latents, the second stage of a cascade and new values, by the runs of the pathology bundle."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.utils.files import file_digest

SMOKE = Path(__file__).parents[2] / "configs" / "presets" / "smoke.yaml"
AUTOENCODER = {"autoencoder_channels": [8, 16], "max_steps": 4, "batch_size": 4, "adversarial_start": 2}
AUTOENCODER |= {"num_validation": 4}
SIDE, SMALL = 32, 16
PLAN = [("DEMO-GLAND", "Birch", 3), ("DEMO-SMALL", "Fir", 2)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.csv"
    pd.DataFrame(PLAN, columns=["project_id", "center", "count"]).to_csv(path, index=False)
    return path


def images_of(folder):
    """The manifest of a sampling, and its images by their names."""
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    return manifest, {name: np.asarray(Image.open(folder / name)) for name in manifest["image"]}


def test_an_autoencoder_and_a_diffusion_model_in_its_latents(bundle, cohorts, plan, tmp_path):
    cohort = {"cohort_dir": cohorts[SIDE], "image_size": SIDE}
    bundle.run_in_process(
        "autoencoding", "autoencode.json", **cohort, **AUTOENCODER, output_dir=tmp_path / "autoencoder"
    )
    settings = json.loads((tmp_path / "autoencoder" / "autoencoder.json").read_text())
    model = {"ckpt_dir": tmp_path / "model", "autoencoder": tmp_path / "autoencoder"}
    bundle.run_in_process("training", "train.json", SMOKE, **cohort, **model, output_dir=tmp_path / "training")
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    assert record["autoencoder"] == str(tmp_path / "autoencoder") and settings["scale"] > 0
    sampling = {"ckpt_dir": tmp_path / "model", "plan": plan, "num_steps": 2}
    bundle.run_in_process("sampling", "inference.json", **sampling, output_dir=tmp_path / "images")
    manifest, images = images_of(tmp_path / "images")
    assert manifest.groupby(["project_id", "center"]).size().to_dict() == {row[:2]: row[2] for row in PLAN}
    assert all(image.shape == (SIDE, SIDE, 3) for image in images.values())
    # latents of other weights mean other images
    (tmp_path / "autoencoder" / "autoencoder.pt").rename(tmp_path / "autoencoder" / "elsewhere.pt")
    message = bundle.error_in_process("sampling", "inference.json", **sampling, output_dir=tmp_path / "not drawn")
    assert "autoencoder" in message and not (tmp_path / "not drawn" / "images").exists()


def test_the_second_stage_of_a_cascade_enlarges_the_images_of_the_first(bundle, cohorts, plan, tmp_path):
    first = {"ckpt_dir": tmp_path / "first"}
    side = {"cohort_dir": cohorts[SMALL], "image_size": SMALL}
    bundle.run_in_process("training", "train.json", SMOKE, **first, **side, mpp=2, output_dir=tmp_path / "training")
    second = {"ckpt_dir": tmp_path / "second"}
    side = {"cohort_dir": cohorts[SIDE], "image_size": SIDE, "small_size": SMALL}
    side |= {"patch_size": 2, "objective": "sample"}
    bundle.run_in_process(
        "training", "train.json", "super_resolution.json", SMOKE, **second, **side,
        output_dir=tmp_path / "super-resolution",
    )  # fmt: skip
    sampling = {**first, "plan": plan, "num_steps": 2, "output_dir": tmp_path / "small"}
    bundle.run_in_process("sampling", "inference.json", **sampling)
    drawn, own = {}, {**second, "sampled_dir": tmp_path / "small", "num_steps": 2}
    for name, options in (("all", {}), ("again", {"batch_size": 2}), ("changed", {"level": 0})):
        bundle.run_in_process(
            "sampling", "inference.json", "upsample.json", **own, **options, output_dir=tmp_path / name
        )
        drawn[name] = images_of(tmp_path / name)
    small, _ = images_of(tmp_path / "small")
    manifest, images = drawn["all"]
    columns = ["image", "project_id", "center"]
    pd.testing.assert_frame_equal(manifest[columns], small[columns])
    assert all(image.shape == (SIDE, SIDE, 3) for image in images.values())
    again, changed = (
        np.abs(np.stack([images[key].astype(int) - drawn[name][1][key] for key in images]))
        for name in ("again", "changed")
    )
    assert again.max() <= 1 and changed.mean() > 0.5


def test_a_new_center_is_learned_and_drawn_with_every_class(bundle, trained, cohorts, tmp_path):
    before = file_digest(trained / "model.pt")
    patches = pd.DataFrame({"image": sorted(map(str, cohorts[SIDE].rglob("*.png")))[:24]})
    patches["project_id"] = "DEMO-GLAND"
    patches.to_csv(tmp_path / "patches.csv", index=False)
    learning = {"attribute": "center", "value": "East", "patches": tmp_path / "patches.csv", "max_steps": 3}
    bundle.run_in_process("adapting", "adapt.json", **learning, num_steps=2, output_dir=tmp_path / "adapting")
    assert json.loads((tmp_path / "adapting" / "summary.json").read_text())["made"]["patches"] == 24
    learned = {"plan": tmp_path / "adapting" / "plan.csv", "num_steps": 2, "output_dir": tmp_path / "images"}
    bundle.run_in_process("sampling", "inference.json", **learned)
    manifest, _ = images_of(tmp_path / "images")
    assert set(manifest["center"]) == {"East"} and manifest["project_id"].nunique() == 4
    assert file_digest(trained / "model.pt") == before
    message = bundle.error_in_process("adapting", "adapt.json", **{**learning, "value": "Birch"}, output_dir=tmp_path)
    assert "Birch" in message
