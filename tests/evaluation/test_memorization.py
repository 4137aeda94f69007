import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medi_monai.evaluation.memorization as module
from medi_monai.cohort import Cohort
from medi_monai.evaluation.memorization import memorization, read_columns
from medi_monai.metrics.memorization import reproduces_training_images
from medi_monai.utils.errors import InputError

LABELS, CENTERS, CS, SIZE = ("A", "B"), ("n", "s", "w"), (0.1, 1.0), 12


def table_of(patients=6, images=8):
    rows = [
        (f"{label}{center}{patient}_{n}.png", f"{label}{center}{patient}", label, center)
        for label in LABELS
        for center in CENTERS
        for patient in range(patients)
        for n in range(images)
    ]
    return pd.DataFrame(rows, columns=["image", "patient", "label", "center"])


def features_of(table, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    base = {key: np.eye(5)[place] * 3 for place, key in enumerate((*LABELS, *CENTERS))}
    mean = np.array(
        [base.get(one, np.zeros(5)) + base.get(two, np.zeros(5)) for one, two in zip(table["label"], table["center"])]
    )
    return (mean + noise * rng.standard_normal(mean.shape)).astype(np.float32)


def test_what_was_asked_for_is_read_and_what_was_not_is_told():
    real = table_of()
    manifest = table_of(1, 10)[["image", "label", "center"]]
    right = features_of(manifest, seed=1)
    # images of center n are those of center s
    wrong = features_of(manifest.assign(center=manifest["center"].replace("n", "s")), seed=2)
    found = read_columns(
        features_of(real), real, {"right": (right, manifest), "wrong": (wrong, manifest)}, ["label", "center"], CS
    )
    assert (
        found["real"]["label"]["value"] == found["real"]["center"]["value"] == 1
        and found["real"]["center"]["chance"] == 1 / 3
    )
    assert found["right"]["center"]["value"] == found["right"]["label"]["value"] == 1
    assert found["right"]["center"]["ci95"][0] < 1 and found["right"]["center"]["n"] == 60
    assert found["wrong"]["center"]["by_value"] == {"n": 0.0, "s": 1.0, "w": 1.0}
    assert found["wrong"]["center"]["value"] == pytest.approx(2 / 3) and found["wrong"]["label"]["value"] == 1


def proportion_interval(share, n, z=1.959963984540054):
    # the roots of (share - p)^2 = z^2 p (1 - p) / n
    return sorted(np.roots([1 + z * z / n, -2 * share - z * z / n, share * share]).real)


def test_combinations_weigh_alike_and_rows_and_arms_come_in_any_order():
    real = table_of()
    manifest = pd.concat(
        [table_of(1, 10), table_of(1, 50).query("center == 'n'").assign(image=lambda t: "x" + t["image"])]
    )
    manifest = manifest.reset_index(drop=True)
    features = features_of(manifest.assign(center=manifest["center"].replace("n", "s")), 1.0)
    features_real = features_of(real, 1.0)
    found = read_columns(features_real, real, {"a": (features, manifest)}, ["label", "center"], CS)["a"]["center"]
    assert found["value"] == pytest.approx(np.mean(list(found["by_value"].values())), abs=0.02) and found["n"] == 160
    # 40 images of "n" weigh a sixth of 10 each: 1 / sum of the squared weights is the number that the share rests on
    sizes = manifest.groupby(["label", "center"]).size()
    effective = 36 / (1 / sizes).sum()
    low, high = proportion_interval(found["value"], effective)
    assert found["ci95"] == pytest.approx([low, high]) and effective < 160 * 0.6
    order, turned = (np.random.default_rng(n).permutation(n) for n in (len(real), len(manifest)))
    arms = {"z": (features[:9], manifest.head(9)), "a": (features[turned], manifest.iloc[turned])}
    again = read_columns(features_real[order], real.iloc[order], arms, ["label", "center"], CS)["a"]["center"]
    assert again == found


def test_values_that_no_real_image_has_are_left_out_with_their_count():
    real = table_of()
    manifest = table_of(1, 4)
    manifest["center"] = manifest["center"].replace("w", "elsewhere")
    found = read_columns(features_of(real), real, {"a": (features_of(manifest), manifest)}, ["label", "center"], CS)
    assert found["a"]["center"]["left_out"] == 8 and found["a"]["center"]["n"] == 16
    assert found["a"]["center"]["value"] == 1 and set(found["a"]["center"]["by_value"]) == {"n", "s"}
    alone = manifest[manifest["center"] == "elsewhere"]
    none = read_columns(features_of(real), real, {"a": (features_of(alone), alone)}, ["label", "center"], CS)["a"][
        "center"
    ]
    assert none == {"value": None, "ci95": None, "n": 0, "left_out": 8, "by_value": {}}


def test_a_column_of_one_value_and_a_single_patient_cannot_be_read():
    real = table_of().assign(center="n")
    arms = {"a": (features_of(real), real)}
    assert "center" not in read_columns(features_of(real), real, arms, ["label", "center"], CS)["a"]
    single = table_of().assign(patient="p")
    found = read_columns(features_of(single), single, {"a": (features_of(single), single)}, ["label"], CS)
    assert found["a"] == {} and found["real"]["label"]["value"] is None


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)

    def write(folder, pixels, split=None):
        (tmp_path / folder).mkdir()
        names = [f"{n:03d}.png" for n in range(len(pixels))]
        for name, image in zip(names, pixels):
            Image.fromarray(image).save(tmp_path / folder / name)
        table = pd.DataFrame({"image": names, "x": "0", "y": "0", "mpp": "1.0", "patient": names})
        return Cohort(table if split is None else table.assign(split=split), tmp_path / folder)

    return write, lambda count: rng.integers(0, 200, (count, SIZE, SIZE, 3), dtype=np.uint8)


def means(pixels):
    # alike for all eight symmetries, and not far from it for another brightness
    flat = pixels.astype(float).reshape(len(pixels), -1, 3)
    return np.hstack([flat.mean(1), flat.std(1), np.sort(flat - flat.mean(1, keepdims=True), 1)[:, ::9, 0]]).astype(
        np.float32
    )


def test_planted_copies_are_found_among_others(pictures, monkeypatch):
    write, draw = pictures
    monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(module, "QUERIES", 5)
    pixels, fresh = draw(50), draw(12)
    real = write("real", pixels, ["train"] * 40 + ["val"] * 4 + ["holdout"] * 6)
    copies = [pixels[3], np.rot90(pixels[7]), pixels[9][:, ::-1], np.rot90(pixels[11][::-1]), pixels[39] + np.uint8(3)]
    generated = np.concatenate([fresh, np.stack(copies)])
    arms = {"copier": (means(generated), write("copier", generated)), "honest": (means(fresh), write("honest", fresh))}
    figures, closest = memorization(means(pixels), real, arms, SIZE)
    assert figures["copier"]["copies"]["value"] == pytest.approx(5 / 17) and figures["copier"]["copies"]["n"] == 17
    assert figures["honest"]["copies"]["value"] == figures["held_out"]["copies"]["value"] == 0
    assert figures["held_out"]["copies"]["n"] == 10 and figures["held_out"]["ratio"] == 1
    assert figures["copier"]["correlation"] > 0.999 > 0.5 > figures["honest"]["correlation"]
    assert figures["held_out"]["nearer"] is None and figures["honest"]["nearer"]["n"] == 12
    # as many training images as there are in the validation
    assert all(len(one) == 4 for one in module._choices(real.table, np.arange(40, 44), np.arange(40), 0))
    pairs = [(image, training) for image, training, alike in closest["copier"] if alike > 0.9]
    # training images are shown as they were found: turned and mirrored
    assert all(np.ptp(image.astype(int) - training) == 0 for image, training in pairs)
    found = {tuple(np.sort(training, axis=None)) for _, training in pairs}
    assert found == {tuple(np.sort(pixels[n], axis=None)) for n in (3, 7, 9, 11, 39)}
    distances = np.linalg.norm(
        _scaled(means(fresh), means(pixels[:40]))[:, None] - _scaled(means(pixels[:40]), means(pixels[:40]))[None],
        axis=2,
    )
    assert figures["honest"]["distance"] == pytest.approx(np.median(distances.min(1)), rel=1e-5)


def test_where_all_images_correlate_a_copy_is_more_alike_than_other_real_images(pictures):
    """Heads of one form: nearly all correlate by more than 0.9 with some training image, and few copies are told."""
    write, draw = pictures
    form = 40 + 10 * np.arange(SIZE)[:, None, None] * np.ones((1, SIZE, 3))
    heads = np.clip(form + draw(130).astype(float) / 10, 0, 255).astype(np.uint8)
    splits = ["train"] * 80 + ["val"] * 30
    patients = [f"P{number // 2}" for number in range(110)]
    real = write("real", heads[:110], splits)
    real = Cohort(real.table.assign(patient=patients), real.root)
    copies = np.concatenate([heads[110:126], heads[[5, 9, 20, 40]]])
    arms = {"honest": heads[110:], "copier": copies}
    arms = {name: (means(images), write(name, images)) for name, images in arms.items()}
    figures, _ = memorization(means(heads[:110]), real, arms, SIZE)
    assert 0.9 < figures["held_out"]["limit"] == figures["copier"]["limit"] < 1
    assert figures["held_out"]["copies"]["value"] <= 1 / 30 and figures["honest"]["copies"]["value"] <= 0.1
    assert figures["copier"]["copies"]["value"] == pytest.approx(0.2, abs=0.051)
    assert reproduces_training_images(figures["copier"], {"copies": {"value": 0, "ci95": [0, 0.07], "n": 50}})
    assert figures["honest"]["nearer"]["ci95"][0] < 0.5 < figures["honest"]["nearer"]["ci95"][1]
    # by patient: both images of one, or none, but for the last
    chosen = module._choices(real.table, np.arange(80, 110), np.arange(80), 0)
    assert all(len(one) == 30 and len({patients[row] for row in one}) == 15 for one in chosen)


def _scaled(features, training):
    return (features.astype(float) - training.astype(float).mean(0)) / training.astype(float).std(0)


def test_flat_images_have_no_correlation_and_no_training_is_refused(pictures):
    write, draw = pictures
    flat = np.full((3, SIZE, SIZE, 3), 9, np.uint8)
    real = write("real", draw(8), "train")
    figures, closest = memorization(means(draw(8)), real, {"flat": (means(flat), write("flat", flat))}, SIZE)
    assert figures["flat"]["correlation"] is None and figures["flat"]["copies"]["value"] == 0
    assert figures["flat"]["ratio"] is None and "held_out" not in figures and closest == {}
    with pytest.raises(InputError, match="no image of the cohort is in the split 'train'"):
        memorization(means(draw(8)), Cohort(real.table.assign(split="val"), real.root), {}, SIZE)
