import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

import medi_monai.evaluation.memorization as module
from medi_monai.cohort import Cohort
from medi_monai.evaluation.memorization import memorization
from medi_monai.metrics.copies import structure
from medi_monai.utils.errors import InputError

SIZE = 12


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
    monkeypatch.setattr(module, "READ", 5)
    monkeypatch.setattr(module, "SEARCHED", 7)
    pixels, fresh = draw(50), draw(12)
    real = write("real", pixels, ["train"] * 40 + ["val"] * 4 + ["holdout"] * 6)
    copies = [pixels[3], np.rot90(pixels[7]), pixels[9][:, ::-1], np.rot90(pixels[11][::-1]), pixels[39] + np.uint8(3)]
    generated = np.concatenate([fresh, np.stack(copies)])
    arms = {"copier": (means(generated), write("copier", generated)), "honest": (means(fresh), write("honest", fresh))}
    memory = memorization(means(pixels), real, arms, SIZE)
    figures, closest = memory.figures, memory.closest
    assert figures["copier"]["copies"]["value"] == pytest.approx(5 / 17) and figures["copier"]["copies"]["n"] == 17
    assert figures["honest"]["copies"]["value"] == figures["held_out"]["copies"]["value"] == 0
    assert figures["held_out"]["copies"]["n"] == 10 and figures["held_out"]["ratio"] == 1
    assert figures["copier"]["correlation"] > 0.999 > 0.5 > figures["honest"]["correlation"]
    assert figures["held_out"]["nearer"] is None and figures["honest"]["nearer"]["n"] == 12
    # as many training images as there are in the validation
    assert all(len(rows) == 4 for rows in module._choices(real.table, np.arange(40, 44), np.arange(40), 0))
    pairs = [(image, training) for image, training, alike in closest["copier"] if alike > 0.9]
    # training images are shown as they were found: turned and mirrored
    assert all(np.ptp(image.astype(int) - training) == 0 for image, training in pairs)
    copied = {tuple(np.sort(training, axis=None)) for _, training in pairs}
    assert copied == {tuple(np.sort(pixels[n], axis=None)) for n in (3, 7, 9, 11, 39)}
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
    figures = memorization(means(heads[:110]), real, arms, SIZE).figures
    assert 0.9 < figures["held_out"]["limit"] == figures["copier"]["limit"] < 1
    assert figures["held_out"]["copies"]["value"] <= 1 / 30 and figures["honest"]["copies"]["value"] <= 0.1
    assert figures["copier"]["copies"]["value"] == pytest.approx(0.2, abs=0.051)
    assert figures["copier"]["copies"]["ci95"][0] > 0.07
    assert figures["honest"]["nearer"]["ci95"][0] < 0.5 < figures["honest"]["nearer"]["ci95"][1]
    # by patient: both images of one, or none, but for the last
    chosen = module._choices(real.table, np.arange(80, 110), np.arange(80), 0)
    assert all(len(rows) == 30 and len({patients[row] for row in rows}) == 15 for rows in chosen)


def tissue(count, stains, seed):
    """Images of smooth amounts of hematoxylin and eosin, in the optical densities of a center."""
    noise = np.random.default_rng(seed).standard_normal((count, 32, 32, 2))
    amounts = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    amounts = np.clip(0.6 + amounts / amounts.std() * (0.35, 0.15), 0, None)
    return np.rint(250 * 10 ** -(amounts @ np.array(stains))).astype(np.uint8)


NORTH, SOUTH = [(0.62, 0.66, 0.30), (0.08, 0.52, 0.16)], [(0.80, 0.62, 0.22), (0.16, 0.44, 0.10)]


@pytest.fixture
def stained(pictures):
    """Cohort of two centers; an arm with copies in the stain of the other center, and one without."""
    write, _ = pictures
    pixels = np.concatenate([tissue(90, NORTH, 1), tissue(90, SOUTH, 2)])
    splits = (["train"] * 60 + ["val"] * 20 + ["holdout"] * 10) * 2
    patients = [f"P{number // 5}" for number in range(180)]
    real = write("real", pixels, splits)
    real = Cohort(real.table.assign(patient=patients, center=["north"] * 90 + ["south"] * 90), real.root)
    honest, copies = tissue(40, NORTH, 3), tissue(90, SOUTH, 1)[:10, 2:, :30]
    # ten patches of the north, moved to the right and up, with the stain of the south
    copies = np.pad(copies, ((0, 0), (0, 2), (2, 0), (0, 0)), mode="edge")
    images = {"honest": honest, "copier": np.concatenate([honest[:30], copies])}
    arms = {name: (means(own), write(name, own)) for name, own in images.items()}
    return means(pixels), real, arms


def test_copies_in_another_stain_and_position_are_found(stained, monkeypatch):
    features, real, arms = stained
    memory = memorization(features, real, arms, 32)
    assert memory.search["splits"] == ["val", "holdout"] and memory.figures["held_out"]["copies"]["n"] == 60
    assert memory.figures["honest"]["copies"]["value"] == memory.figures["held_out"]["copies"]["value"] == 0
    assert memory.figures["copier"]["copies"]["value"] == 10 / 40
    assert len(memory.search["recall"]) == 7 and memory.search["limit"] == 0.9
    assert all(share["value"] >= 0.95 and share["n"] == 120 for share in memory.search["recall"].values())
    monkeypatch.setattr(module, "MIN_HELD_OUT", 40)
    memory = memorization(features, real, arms, 32)
    assert memory.search["splits"] == ["val"] and memory.figures["held_out"]["copies"]["n"] == 40


def test_planted_copies_are_lost_if_their_originals_are_not_searched(stained, monkeypatch):
    search = module._search
    # every second training image is missing
    monkeypatch.setattr(module, "_search", lambda queries, reader, train: search(queries, reader, train[::2]))
    recall = memorization(*stained, 32).search["recall"]
    assert all(share["value"] == pytest.approx(0.5, abs=0.02) for share in recall.values())


def test_few_images_are_read_at_once_and_the_order_of_rows_does_not_matter(stained, monkeypatch):
    features, real, arms = stained
    first, reads = memorization(features, real, arms, 32), []
    monkeypatch.setattr(module, "READ", 16)
    monkeypatch.setattr(module, "SEARCHED", 50)
    monkeypatch.setattr(module, "structure", lambda images: reads.append(len(images)) or structure(images))
    order = np.random.default_rng(0).permutation(len(features))
    shuffled = Cohort(real.table.iloc[order].reset_index(drop=True), real.root)
    again = memorization(features[order], shuffled, arms, 32)
    # but for the planted copies, 7 kinds of 120
    assert sorted(reads)[-8:] == [16, *[120] * 7]
    assert again.search == first.search
    for name, figures in first.figures.items():
        assert again.figures[name]["copies"] == figures["copies"]
        assert again.figures[name]["correlation"] == pytest.approx(figures["correlation"], abs=1e-5)


def _scaled(features, training):
    return (features.astype(float) - training.astype(float).mean(0)) / training.astype(float).std(0)


def test_flat_images_have_no_correlation_and_no_training_is_refused(pictures):
    write, draw = pictures
    flat = np.full((3, SIZE, SIZE, 3), 9, np.uint8)
    real = write("real", draw(8), "train")
    memory = memorization(means(draw(8)), real, {"flat": (means(flat), write("flat", flat))}, SIZE)
    figures, closest = memory.figures, memory.closest
    assert figures["flat"]["correlation"] is None and figures["flat"]["copies"]["value"] == 0
    assert figures["flat"]["ratio"] is None and "held_out" not in figures and closest == {}
    with pytest.raises(InputError, match="no image of the cohort is in the split 'train'"):
        memorization(means(draw(8)), Cohort(real.table.assign(split="val"), real.root), {}, SIZE)
