import numpy as np
import pytest
from scipy import ndimage

from medi_monai.wsi import background_fraction, optical_density, sharpness


def random_patch(height=40, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_sharpness_equals_a_loop_over_pixels():
    patch = random_patch(12, 9)
    gray = patch.astype(float).mean(axis=2)
    padded = np.pad(gray, 1, mode="symmetric")
    values = [
        padded[y - 1, x] + padded[y + 1, x] + padded[y, x - 1] + padded[y, x + 1] - 4 * padded[y, x]
        for y in range(1, 13)
        for x in range(1, 10)
    ]
    assert sharpness(patch) == pytest.approx(np.var(values), rel=1e-4)


def test_a_flat_patch_has_no_sharpness_and_a_checkerboard_the_most():
    assert sharpness(np.full((20, 20, 3), 130, np.uint8)) == 0
    board = np.where((np.indices((20, 20)).sum(axis=0) % 2 == 0)[..., None], np.uint8([255] * 3), np.uint8([0] * 3))
    # inside, every neighbor differs by 255: the Laplacian is +-1020
    assert sharpness(board[..., :3]) == pytest.approx(1020**2, rel=0.25)


def test_blur_lowers_sharpness(drawn_tissue):
    patch = drawn_tissue[300:556, 300:556]
    blurred = [ndimage.gaussian_filter(patch, (blur, blur, 0)) for blur in (0.7, 1.5, 3)]
    values = [sharpness(blurry) for blurry in (patch, *blurred)]
    assert values == sorted(values, reverse=True) and values[0] > 10 * values[2]


def test_sharpness_does_not_depend_on_the_side_on_which_the_patch_lies():
    patch = random_patch()
    for turned in (patch[::-1], patch[:, ::-1], patch.transpose(1, 0, 2)):
        assert sharpness(turned) == pytest.approx(sharpness(patch), rel=1e-5)


def test_the_background_is_the_share_of_pixels_as_bright_as_glass():
    patch = random_patch()
    patch[:10] = np.random.default_rng(1).integers(225, 256, (10, 30, 3))
    density = optical_density(patch).mean(axis=2)
    expected = sum(density[y, x] < 0.05 for y in range(40) for x in range(30)) / 1200
    assert 0.1 < expected < 0.3 and background_fraction(patch) == pytest.approx(expected)


@pytest.mark.parametrize(("color", "expected"), [((255, 255, 255), 1), ((243, 241, 244), 1), ((215, 190, 205), 0)])
def test_glass_is_background_and_pale_stroma_is_not(color, expected):
    assert background_fraction(np.broadcast_to(np.uint8(color), (8, 8, 3))) == expected
