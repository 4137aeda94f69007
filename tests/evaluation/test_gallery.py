import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.evaluation.gallery import IN_TRAINING, MOST_COLUMNS, NOT_IN_TRAINING, sample_gallery

CLASSES, CENTERS = ("gland", "solid"), tuple("ABCDEFGH")
HELD_OUT = {("gland", "B"), ("solid", "C"), ("solid", "D")}
COLUMNS = ["tumor", "center"]


def write_images(folder, color_of, splits, per_combination=3):
    """Patches of 16 pixels whose colors say to which combination they belong, with stained tissue for transfer."""
    rows = []
    for first, tumor in enumerate(CLASSES):
        for second, center in enumerate(CENTERS):
            for number in range(per_combination):
                name = f"images/{tumor}_{center}_{number}.png"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([first, second, number]).integers(-20, 20, (16, 16, 3))
                pixels = np.clip(pixels + np.array(color_of(first, second)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
                split = ("holdout" if (tumor, center) in HELD_OUT else "train") if splits else ""
                rows.append({"image": name, "patient": f"P{first}{second}{number % 2}", "tumor": tumor,
                             "center": center, "mpp": "0.5", "split": split})  # fmt: skip
    return Cohort(pd.DataFrame(rows), folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    real = write_images(folder / "real", lambda first, second: (120 + 10 * second, 60 + 40 * first, 140), True)
    medi = write_images(folder / "medi", lambda first, second: (40, 40 + 40 * first, 10 * second + 60), False)
    return real, {"medi": medi}


@pytest.fixture(scope="module")
def gallery(sources):
    return sample_gallery(*sources, COLUMNS, 16, images_per_cell=2, transfer_seed=0)


def nearest(pixels, colors):
    means = {name: np.abs(pixels.reshape(-1, 3).mean(0) - color).sum() for name, color in colors.items()}
    return min(means, key=means.get)


def test_held_out_combinations_come_first_and_say_so(gallery):
    keys = [tuple(lines) for lines in gallery.columns]
    assert len(set(keys)) == MOST_COLUMNS and gallery.mpp == 0.5
    assert {key for key, group in zip(keys, gallery.groups) if group == NOT_IN_TRAINING} == HELD_OUT
    assert gallery.groups == [NOT_IN_TRAINING] * 3 + [IN_TRAINING] * 7
    assert gallery.rows == ["Real", "MeDi", "Stain transfer"] and gallery.notes["MeDi"]


def test_every_image_is_one_of_its_arm_and_combination(gallery, sources):
    for arm, cohort in (("Real", sources[0]), ("MeDi", sources[1]["medi"])):
        for column, key in enumerate(gallery.columns):
            rows = cohort.table[(cohort.table[COLUMNS] == key).all(axis=1)]
            files = [np.asarray(Image.open(cohort.root / name)) for name in rows["image"]]
            shown = gallery.cells[arm, column]
            assert len(shown) == 2
            assert all(any(np.array_equal(image, file) for file in files) for image in shown)


def test_recolored_images_are_of_the_class_and_have_the_color_of_the_center(gallery, sources):
    # the stain of a center comes from the other class there: its red is that of the center
    reds = {center: 120 + 10 * second for second, center in enumerate(CENTERS)}
    for column, (_, center) in enumerate(gallery.columns):
        for image in gallery.cells["Stain transfer", column]:
            assert image.shape == (16, 16, 3) and image.dtype == np.uint8
            assert abs(image[..., 0].mean() - reds[center]) < 8


def test_the_choice_is_the_same_again_and_for_another_order_of_rows(gallery, sources):
    again = sample_gallery(*sources, COLUMNS, 16, images_per_cell=2)
    assert again.columns == gallery.columns and again.rows == ["Real", "MeDi"]
    for place, images in again.cells.items():
        assert all(np.array_equal(*pair) for pair in zip(images, gallery.cells[place], strict=True))


def test_combinations_that_an_arm_lacks_are_left_out(sources):
    real, arms = sources
    table = arms["medi"].table
    few = Cohort(table[table["center"].isin(["A", "B"])].reset_index(drop=True), arms["medi"].root)
    shown = sample_gallery(real, {"medi": few}, COLUMNS, 16)
    assert {lines[1] for lines in shown.columns} == {"A", "B"} and shown.groups.count(NOT_IN_TRAINING) == 1
