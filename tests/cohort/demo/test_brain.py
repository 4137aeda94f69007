from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from medi_monai.cohort.demo.brain import (
    LESIONS,
    SEX_MEASURES,
    SEXES,
    _scan,
    brain_of,
    draw_slice,
    view_of,
)
from medi_monai.utils.errors import InputError

NUM_PATIENTS = 1200


def draw_brain(sex, age, lesion="absent", seed=0, image_size=64, level=0.0):
    return draw_slice(brain_of(sex, age, lesion, seed), view_of(seed, level), image_size)


def head_of(pixels):
    """Everything within the scalp, found in the pixels alone."""
    bright = ndimage.binary_closing(pixels > threshold_otsu(pixels), iterations=2)
    filled = label(ndimage.binary_fill_holes(bright))
    return max(regionprops(filled), key=lambda region: region.area)


def inside_of(pixels, share=0.72):
    """The brain of a slice without its surface: an ellipse within the head, as a mask."""
    head = head_of(pixels)
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    row, column = head.centroid
    turn = head.orientation
    along = (rows - row) * np.cos(turn) + (columns - column) * np.sin(turn)
    across = (columns - column) * np.cos(turn) - (rows - row) * np.sin(turn)
    return np.hypot(along / head.axis_major_length, across / head.axis_minor_length) < share / 2


def threshold_accuracy(feature, truth):
    """Of the best single threshold, in either direction."""
    stump = DecisionTreeClassifier(max_depth=1).fit(feature[:, None], truth)
    return stump.score(feature[:, None], truth)


@pytest.fixture(scope="module")
def patients():
    """Brains of both sexes and all ages; sex, age and lesion are independent."""
    rng = np.random.default_rng(1)
    sexes, lesions = rng.choice(SEXES, NUM_PATIENTS), rng.choice(LESIONS, NUM_PATIENTS)
    ages = rng.uniform(20, 90, NUM_PATIENTS)
    return [brain_of(*who, seed) for seed, who in enumerate(zip(sexes, ages, lesions))]


@pytest.fixture(scope="module")
def male(patients):
    return np.array([brain.sex == "male" for brain in patients])


@pytest.fixture(scope="module")
def small(patients):
    """Their slices at the size at which the demo trains."""
    return np.stack([draw_slice(brain, view_of(brain.seed), 32) for brain in patients]).astype(float)


@pytest.fixture(scope="module")
def large(patients):
    """Slices of the first patients at the size of the files."""
    return [draw_slice(brain, view_of(brain.seed), 64) for brain in patients[:240]]


def test_a_slice_is_a_function_of_its_arguments_alone():
    first = draw_brain("female", 47, "left", seed=3)
    np.random.seed(1)
    assert first.shape == (64, 64) and first.dtype == np.uint8
    assert np.array_equal(first, draw_brain("female", 47, "left", seed=3))
    for other in (
        ("male", 47, "left", 3),
        ("female", 67, "left", 3),
        ("female", 47, "absent", 3),
        ("female", 47, "left", 4),
    ):
        assert not np.array_equal(first, draw_brain(*other))


def test_no_single_pixel_tells_the_sexes_apart(small, male):
    pixels = small.reshape(len(small), -1)
    # the best threshold of every pixel at once; its agreement with the tree of scikit-learn is checked on the best one
    order = np.argsort(pixels, axis=0, kind="stable")
    men_below = np.cumsum(male[order], axis=0)
    below = np.arange(1, len(pixels) + 1)[:, None]
    right = (below - men_below + male.sum() - men_below) / len(pixels)
    accuracies = np.maximum(right, 1 - right).max(axis=0)
    best = accuracies.argmax()
    assert threshold_accuracy(pixels[:, best], male) == pytest.approx(accuracies[best], abs=0.01)
    assert accuracies.max() < 0.74
    assert threshold_accuracy(small.mean(axis=(1, 2)), male) < 0.60


def test_the_sexes_overlap_in_each_measure_but_not_in_all_together(patients, male):
    measures = np.array([[getattr(brain, name) for name in SEX_MEASURES] for brain in patients])
    assert all(0.90 < threshold_accuracy(column, male) < 0.99 for column in measures.T)
    scaled = (measures - measures.mean(axis=0)) / measures.std(axis=0)
    assert LogisticRegression(C=100).fit(scaled[:600], male[:600]).score(scaled[600:], male[600:]) >= 0.995


def test_sex_can_be_read_from_all_pixels_together(small, male):
    pixels = (small.reshape(len(small), -1) - small.mean()) / small.std()
    model = LogisticRegression(C=0.003, max_iter=300).fit(pixels[:800], male[:800])
    assert model.score(pixels[800:], male[800:]) > 0.95


def test_the_head_has_the_axis_ratio_that_the_truth_says(patients, large):
    regions = [head_of(pixels) for pixels in large]
    measured = [region.axis_major_length / region.axis_minor_length for region in regions]
    truth = [brain.axis_ratio for brain in patients[: len(large)]]
    assert np.corrcoef(measured, truth)[0, 1] > 0.95
    assert np.mean(measured) == pytest.approx(np.mean(truth), rel=0.05)


def test_between_scalp_and_brain_is_a_dark_skull_of_the_thickness_that_the_truth_says():
    widths = []
    for skull in (0.04, 0.08):
        brain = replace(brain_of("male", 25, "absent", 0), skull=skull)
        view = replace(view_of(0), angle=0.0, shift_x=0.0, shift_y=0.0, scale=1.0, noise=0.001)
        # the mean of rows through the middle, so that no sulcus stands in the way
        row = draw_slice(brain, view, 256)[118:138, :92].mean(axis=0)
        dark = row < 0.5 * np.median(row[70:])
        runs = label(dark, connectivity=1)
        widths.append((runs == runs[row.argmax() + np.argmax(dark[row.argmax() :])]).sum())
    # 128 pixels are half the field of view; a head is narrower there by the root of its axis ratio
    assert widths[1] - widths[0] == pytest.approx(0.04 * 128 / np.sqrt(brain.axis_ratio), abs=1.1)
    assert widths[0] >= 0.04 * 128 / np.sqrt(brain.axis_ratio)


def test_gray_matter_is_brighter_than_white_by_the_contrast_of_the_truth():
    brain = replace(brain_of("female", 20, "absent", 5), contrast=0.30)
    view = replace(view_of(5), noise=0.0001, offset=0.0)
    plain = replace(brain, contrast=0.0)
    ratio = (draw_slice(brain, view, 128) + 0.5) / (draw_slice(plain, view, 128) + 0.5)
    inside = ratio[inside_of(draw_slice(plain, view, 128), 0.8)]
    assert np.percentile(inside, 1) == pytest.approx(0.85, abs=0.02)
    assert np.percentile(inside, 99.9) == pytest.approx(1.15, abs=0.02)


def test_the_area_of_the_ventricles_tells_the_age(patients, large):
    ages, areas = [], []
    for brain, pixels in zip(patients, large):
        center = inside_of(pixels, 0.55)
        level = np.median(pixels[inside_of(pixels)])
        areas.append((center & (pixels < 0.6 * level)).sum() / head_of(pixels).area)
        ages.append(brain.age)
    assert np.corrcoef(ages, areas)[0, 1] > 0.8


def test_older_brains_have_wider_sulci():
    young, old = (np.mean([brain_of("male", age, "absent", seed).sulcus for seed in range(50)]) for age in (20, 90))
    assert old > 2.5 * young


def test_the_lesion_is_the_brightest_part_of_its_hemisphere(patients, large):
    right = 0
    for brain, pixels in zip(patients, large):
        inside = inside_of(pixels, 0.78)
        blurred = np.where(inside, ndimage.gaussian_filter(pixels.astype(float), 1.0), 0)
        head = head_of(pixels)
        row, column = np.unravel_index(blurred.argmax(), blurred.shape)
        # of the brain alone: ventricles are dark
        brain_level = np.median(pixels[inside & (pixels > 0.6 * np.median(pixels[inside]))])
        side = "left" if column > head.centroid[1] else "right"
        right += brain.lesion == (side if blurred.max() > 1.35 * brain_level else "absent")
    assert right / len(large) >= 0.97


def test_all_but_the_lesion_is_the_same_with_and_without_one():
    without, with_lesion = brain_of("male", 60, "absent", 9), brain_of("male", 60, "left", 9)
    assert np.isnan(without.lesion_radius) and with_lesion.lesion_x > 0
    names = ["lesion", "lesion_x", "lesion_y", "lesion_radius"]
    assert replace(without, **{name: getattr(with_lesion, name) for name in names}) == with_lesion
    assert brain_of("male", 60, "right", 9).lesion_x == -with_lesion.lesion_x


def test_the_anatomy_is_the_same_at_any_size():
    brain, view = brain_of("female", 70, "right", 11), replace(view_of(11), noise=1e-4)
    fine = draw_slice(brain, view, 128).astype(float).reshape(32, 4, 32, 4).mean(axis=(1, 3))
    coarse = draw_slice(brain, view, 32)
    assert np.abs(fine - coarse).mean() < 4
    assert np.corrcoef(fine.ravel(), coarse.ravel())[0, 1] > 0.99


def test_the_head_lies_within_the_image(large):
    for pixels in large:
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert np.median(border) < 40 and (border > 60).mean() < 0.02


def test_noise_without_signal_has_the_mean_of_rayleigh():
    view = replace(view_of(2), noise=0.2, gain=1.0, offset=0.0)
    air = _scan(np.zeros((200, 200), np.float32), view) / 255
    assert air.mean() == pytest.approx(0.2 * np.sqrt(np.pi / 2), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("man", 50, "absent"), "male"),
        (("male", 19, "absent"), "20 to 90"),
        (("male", float("nan"), "absent"), "20 to 90"),
        (("male", 50, "lft"), "left"),
        (("male", 50, "absent", 0, 8), "16"),
        (("male", 50, "absent", 0, 64, 1.5), "between -1 and 1"),
    ],
)
def test_what_is_not_allowed_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        draw_brain(*arguments)
