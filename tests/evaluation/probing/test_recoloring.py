import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.evaluation.embedding import embed_images
from medi_monai.evaluation.probing.recoloring import Recoloring, num_recolored
from medi_monai.networks.encoders import build_encoder
from medi_monai.wsi.color import from_optical_density

SIZE = 32
HEMATOXYLIN = {"n": (0.65, 0.70, 0.29), "s": (0.55, 0.62, 0.56), "w": (0.75, 0.60, 0.28)}
EOSIN = {"n": (0.07, 0.99, 0.11), "s": (0.27, 0.57, 0.78), "w": (0.30, 0.90, 0.32)}
#: factor of the amounts of both stains
STRENGTH = {"n": 1.0, "s": 1.5, "w": 0.7}
MISSING = {("A", "s"), ("B", "w")}


def tissue(rng, center):
    vectors = np.array([HEMATOXYLIN[center], EOSIN[center]])
    amounts = STRENGTH[center] * rng.gamma(2.0, 0.15, (2, SIZE * SIZE)) * (rng.random((2, SIZE * SIZE)) < 0.7)
    return from_optical_density((vectors.T @ amounts + 0.03).astype(np.float32)).reshape(3, SIZE, SIZE)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root, rng, rows = tmp_path_factory.mktemp("recoloring"), np.random.default_rng(0), []
    for label in "ABC":
        for center in "nsw":
            for patient in range(4):
                name = f"{label}{center}{patient}"
                split = "holdout" if (label, center) in MISSING else "val" if patient == 3 else "train"
                rows += [(f"{name}_{n}.png", name, "0", "0", label, center, split) for n in range(5)]
    for name, *_, center, _ in rows:
        Image.fromarray(tissue(rng, center).transpose(1, 2, 0)).save(root / name)
    return Cohort(pd.DataFrame(rows, columns=["image", "patient", "x", "y", "label", "center", "split"]), root)


@pytest.fixture(scope="module")
def recoloring(cohort):
    return Recoloring(cohort, "label", "center", SIZE, 0)


@pytest.mark.parametrize("method", ["moments", "macenko"])
def test_training_patches_of_other_centers_are_spread_over_all_combinations(cohort, recoloring, method):
    patches = recoloring.patches(method, None, 12)
    table, original = patches.cohort.table, cohort.table.set_index("image")
    assert table.groupby(["label", "center"]).size().tolist() == [4] * 9
    assert set(original.loc[table["image"], "split"]) == {"train"}
    assert (original.loc[table["image"], "label"].to_numpy() == table["label"]).all()
    assert (original.loc[table["image"], "center"].to_numpy() != table["center"]).all()
    assert not table.duplicated(["image", "center"]).any()
    # as many patients as possible
    assert table.groupby(["label", "center"])["patient"].nunique().min() >= 3
    only = recoloring.patches(method, MISSING | {("C", "n")}, 12).cohort.table
    assert set(zip(only["label"], only["center"])) == MISSING | {("C", "n")}
    assert only["label"].value_counts().to_dict() == {"A": 12, "B": 12, "C": 12}


@pytest.mark.parametrize(("method", "tolerance"), [("moments", 0.35), ("macenko", 0.35)])
def test_recolored_patches_have_the_color_of_the_center_that_the_class_lacks(cohort, recoloring, method, tolerance):
    patches = recoloring.patches(method, None, 30)
    read = {name: np.asarray(Image.open(cohort.root / name)).transpose(2, 0, 1) for name in cohort.table["image"]}
    mean = {  # of patches of the missing combination itself, which the recoloring has not seen
        name: np.mean([read[image].mean(axis=(1, 2)) for image in rows["image"]], axis=0)
        for name, rows in cohort.table.groupby(["label", "center"])
    }
    for label, center in MISSING:
        rows = np.flatnonzero((patches.cohort.table["label"] == label) & (patches.cohort.table["center"] == center))
        images = [read[patches.cohort.table["image"].iloc[row]] for row in rows]
        changed = [patches.transform({"image": image, "index": int(row)})["image"] for image, row in zip(images, rows)]
        before, after = (
            np.linalg.norm(np.mean([image.mean(axis=(1, 2)) for image in sets], axis=0) - mean[label, center])
            for sets in (images, changed)
        )
        assert after < tolerance * before


def test_only_training_images_are_read_and_the_missing_class_is_not(cohort, recoloring, tmp_path):
    kept = cohort.table["split"] == "train"
    alone = Recoloring(Cohort(cohort.table[kept].reset_index(drop=True), cohort.root), "label", "center", SIZE, 0)
    first, second = (item.patches("macenko", None, 9) for item in (recoloring, alone))
    assert first.recipe == second.recipe and first.cohort.table.equals(second.cohort.table)
    # in any order of the rows
    shuffled = cohort.table.sample(frac=1, random_state=1).reset_index(drop=True)
    again = Recoloring(Cohort(shuffled, cohort.root), "label", "center", SIZE, 0).patches("macenko", None, 9)
    assert again.recipe == first.recipe and again.cohort.table.equals(first.cohort.table)
    other = Recoloring(cohort, "label", "center", SIZE, 1).patches("macenko", None, 9)
    assert other.recipe != first.recipe


def test_stains_of_a_patch_that_shows_none_are_those_of_its_center(recoloring):
    patches = recoloring.patches("moments", None, 12)
    flat = np.full((3, SIZE, SIZE), 120, np.uint8)
    center = patches.transform.sources[0]
    changed = patches.transform({"image": flat, "index": 0})["image"]
    expected = patches.transform.method.change(flat, center, patches.transform.targets[0])
    np.testing.assert_array_equal(changed, expected)
    assert (changed != flat).any()


def test_features_are_those_of_the_recolored_pixels(cohort, recoloring, tmp_path):
    encoder, patches = build_encoder("embedded"), recoloring.patches("macenko", None, 6)
    store = embed_images(patches.cohort, encoder, tmp_path, SIZE, transform=patches.transform, recipe=patches.recipe)
    image = np.asarray(Image.open(cohort.root / patches.cohort.table["image"].iloc[4])).transpose(2, 0, 1)
    changed = patches.transform({"image": image, "index": 4})["image"]
    plain = embed_images(patches.cohort, encoder, tmp_path, SIZE)
    folder = tmp_path / "one"
    folder.mkdir()
    Image.fromarray(changed.transpose(1, 2, 0)).save(folder / "a.png")
    alone = embed_images(Cohort(pd.DataFrame({"image": ["a.png"]}), folder), encoder, folder / "f", SIZE)
    np.testing.assert_allclose(store.features[4], alone.features[0], rtol=1e-4, atol=1e-5)
    assert store.folder != plain.folder and not np.allclose(store.features[4], plain.features[4], rtol=1e-2)


def test_a_center_without_two_stains_is_left_out_and_said(cohort, tmp_path, capsys):
    for name, center in zip(cohort.table["image"], cohort.table["center"]):
        source = cohort.root / name
        if center == "s":
            Image.new("RGB", (SIZE, SIZE), (250, 250, 250)).save(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(source.read_bytes())
    patches = Recoloring(Cohort(cohort.table, tmp_path), "label", "center", SIZE, 0).patches("macenko", None, 12)
    assert set(patches.cohort.table["center"]) == {"n", "w"}
    assert "no stain of s can be estimated" in capsys.readouterr().out
    only = Recoloring(Cohort(cohort.table, tmp_path), "label", "center", SIZE, 0)
    assert only.patches("macenko", {("A", "n"), ("B", "n"), ("C", "s")}, 12) is None
    assert "no arm of macenko stain transfer: no stain to transfer to patches of 'C'" in capsys.readouterr().out


def test_more_patches_are_recolored_than_a_draw_adds(cohort):
    images = Cohort(pd.DataFrame({"label": ["A"] * 9 + ["B"] * 6 + ["C"] * 8}), cohort.root)
    # 105 training images in three classes
    assert num_recolored(cohort, {}, "label", 0.5, None) == np.ceil(1.5 * 0.5 * 105 / 3)
    assert num_recolored(cohort, {}, "label", 0.5, 20) == 15
    assert num_recolored(cohort, {"medi": images}, "label", 0.5, None) == 9
