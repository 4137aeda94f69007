import numpy as np
import pytest
import torch
from skimage.color import combine_stains, hed_from_rgb, rgb_from_hed, separate_stains

from medi_monai.cohort.demo.profiles import CENTERS
from medi_monai.utils.errors import InputError
from medi_monai.wsi.stain import RUIFROK, check_patch, full_basis, jitter_stains, macenko_stains, tissue_weight

NEUTRAL = np.ones(3), np.zeros(3)


def degrees(first, second):
    cosine = np.dot(first, second) / np.linalg.norm(first) / np.linalg.norm(second)
    return np.degrees(np.arccos(min(1, cosine)))


def beer_lambert(vectors, amounts, white=240):
    """(3, H, W) uint8 from two stain vectors and (2, H, W) amounts."""
    light = (white + 1) * 10 ** -np.einsum("sc,shw->chw", vectors, amounts) - 1
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def amounts_with_pure_pixels(size=96, seed=0):
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.2, 0.9, (2, size, size))
    amounts[0, : size // 8], amounts[1, -size // 8 :] = 0, 0
    return amounts


# Macenko's stains


@pytest.mark.parametrize("center", CENTERS, ids=lambda center: center.name)
def test_macenko_finds_the_vectors_and_amounts_of_exact_mixtures(center):
    truth = np.array([center.hematoxylin, center.eosin])
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    amounts = amounts_with_pure_pixels()
    stains = macenko_stains(beer_lambert(truth, amounts))
    assert degrees(stains.vectors[0], truth[0]) < 0.6
    assert degrees(stains.vectors[1], truth[1]) < 0.6
    np.testing.assert_allclose(np.linalg.norm(stains.vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(stains.amounts, np.percentile(amounts, 99, axis=(1, 2)), rtol=0.03)


def test_macenko_finds_the_stains_of_the_demo_centers(demo_patches):
    errors = []
    for number, patches in demo_patches.items():
        truth = CENTERS[number].hematoxylin, CENTERS[number].eosin
        for patch in patches:
            stains = macenko_stains(patch)
            errors.append([degrees(stains.vectors[stain], truth[stain]) for stain in (0, 1)])
    # the demo has no pure eosin (0.06 of hematoxylin everywhere), a white point of its own, blur and noise
    assert np.mean(errors) < 4
    assert np.max(errors) < 7


def test_macenko_is_as_near_to_the_truth_as_cucim(demo_patches, cucim_on_numpy):
    ours, theirs = [], []
    for number, patches in demo_patches.items():
        truth = CENTERS[number].hematoxylin, CENTERS[number].eosin
        for patch in patches:
            vectors = macenko_stains(patch).vectors
            reference = cucim_on_numpy[0].stain_extraction_pca(patch).T
            for stain in (0, 1):
                ours.append(degrees(vectors[stain], truth[stain]))
                theirs.append(degrees(reference[stain], truth[stain]))
                assert degrees(vectors[stain], reference[stain]) < 5
    assert np.mean(ours) < np.mean(theirs) + 0.5


def test_macenko_does_not_depend_on_the_place_of_pixels(demo_patches):
    patch = demo_patches[0][0]
    shuffled = patch.reshape(3, -1)[:, np.random.default_rng(0).permutation(128 * 128)].reshape(patch.shape)
    first, second = macenko_stains(patch), macenko_stains(shuffled)
    np.testing.assert_allclose(first.vectors, second.vectors, atol=1e-4)
    np.testing.assert_allclose(first.amounts, second.amounts, rtol=1e-3)


@pytest.mark.filterwarnings("error")
def test_macenko_says_none_where_two_stains_do_not_show(odd_patches):
    with np.errstate(all="raise"):
        assert {name: macenko_stains(patch) for name, patch in odd_patches.items()} == dict.fromkeys(odd_patches)


def test_a_full_basis_has_a_third_direction_across_the_stains():
    basis = full_basis(RUIFROK[:2])
    np.testing.assert_allclose(basis[:2], RUIFROK[:2])
    np.testing.assert_allclose(basis @ basis[2], [0, 0, 1], atol=1e-12)


# jitter


@pytest.mark.parametrize("basis", [RUIFROK, full_basis(np.array([CENTERS[3].hematoxylin, CENTERS[3].eosin]))])
def test_neutral_jitter_gives_every_color_back(basis):
    colors = np.random.default_rng(0).integers(0, 256, (3, 300, 300), dtype=np.uint8)
    result = jitter_stains(colors, *NEUTRAL, basis)
    assert result.dtype == np.uint8 and result.shape == colors.shape
    np.testing.assert_array_equal(result, colors)


def test_ruifrok_vectors_are_those_of_scikit_image():
    for ours, theirs in zip(RUIFROK, rgb_from_hed):
        assert degrees(ours, theirs) < 1e-4


def test_jitter_equals_scikit_image_where_amounts_are_positive():
    rng = np.random.default_rng(1)
    amounts = rng.uniform(0.02, 0.06, (40, 50, 3))
    pixels = np.rint(combine_stains(amounts, rgb_from_hed) * 256 - 1).clip(0, 255)
    scale, shift = np.array([1.15, 0.9, 1.1]), np.array([0.02, -0.01, 0.01])
    # scikit-image counts amounts in units of ln(10**6), and its vectors are not of length 1
    unit = np.log(1e6) / np.log(10) * np.linalg.norm(rgb_from_hed, axis=1)
    separated = separate_stains((pixels + 1) / 256, hed_from_rgb)
    assert separated.min() > 0
    expected = combine_stains(separated * scale + shift / unit, rgb_from_hed) * 256 - 1
    image = np.ascontiguousarray(pixels.astype(np.uint8).transpose(2, 0, 1))
    assert image.max() < 200, "all tissue: the shift acts in full"
    result = jitter_stains(image, scale, shift).transpose(1, 2, 0)
    np.testing.assert_allclose(result, expected, atol=0.51)


def test_twice_the_hematoxylin_squares_the_light_that_passes():
    amounts = np.stack([np.linspace(0.2, 0.8, 64)[None].repeat(2, 0), np.zeros((2, 64))])
    once, twice = (beer_lambert(RUIFROK[:2], amounts * factor, white=255) for factor in (1, 2))
    result = jitter_stains(once, np.array([2.0, 1, 1]), np.zeros(3))
    # one gray level of rounding becomes two where the light is squared
    np.testing.assert_allclose(result.astype(int), twice, atol=2)


def test_jitter_leaves_glass_and_changes_tissue():
    rng = np.random.default_rng(0)
    patch = rng.integers(236, 256, (3, 64, 64), dtype=np.uint8)
    patch[:, 40:] = rng.integers(60, 200, (3, 24, 64))
    result = jitter_stains(patch, np.array([1.2, 0.8, 1.2]), np.array([0.1, 0.1, -0.1]))
    np.testing.assert_array_equal(result[:, :40], patch[:, :40])
    assert (result[:, 40:] != patch[:, 40:]).any(axis=0).all()


def test_tissue_weight_rises_from_glass_to_tissue():
    density = np.broadcast_to([0.0, 0.05, 0.065, 0.08, 2.0], (3, 5))
    np.testing.assert_allclose(tissue_weight(density, np), [0, 0, 0.5, 1, 1], atol=1e-6)


# what a patch is


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((3, 64, 64), np.float32),
        torch.zeros(3, 64, 64),
        torch.zeros(1, 64, 64, dtype=torch.uint8),
        np.zeros((3, 0, 4), np.uint8),
        np.zeros((64, 64), np.uint8),
        [[1, 2], [3, 4]],
        None,
    ],
)
def test_what_is_no_patch_is_named(image):
    with pytest.raises(InputError, match=r"cannot be transformed. Expected: .*\(3, H, W\)"):
        check_patch(image)


def test_patches_and_batches_pass():
    for image in (np.zeros((3, 4, 5), np.uint8), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)):
        check_patch(image)
