import numpy as np
import pytest

from medi_monai.cohort.captions import SquareFit
from medi_monai.cohort.captions.images import area_resize
from medi_monai.utils.errors import InputError


def area_by_hand(pixels, size):
    # the mean over each cell of a grid, by cutting every pixel into `size` equal parts a side
    fine = np.repeat(np.repeat(pixels, size, axis=0), size, axis=1)
    side = pixels.shape[0]
    return fine.reshape(size, side, size, side).mean(axis=(1, 3))


@pytest.mark.parametrize(("side", "size"), [(12, 4), (10, 7), (9, 9), (5, 2)])
def test_area_resizing_is_the_mean_over_each_cell(side, size):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side)).astype(float)
    np.testing.assert_allclose(area_resize(pixels, size), area_by_hand(pixels, size), rtol=1e-5)
    color = np.stack([pixels, pixels[::-1], pixels.T], axis=2)
    expected = np.stack([area_by_hand(color[..., channel], size) for channel in range(3)], axis=2)
    np.testing.assert_allclose(area_resize(color, size), expected, rtol=1e-5)


def test_enlarging_keeps_a_ramp_a_ramp():
    ramp = np.tile(np.arange(8.0), (8, 1))
    large = area_resize(ramp, 32)
    expected = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    np.testing.assert_allclose(large, np.tile(expected, (32, 1)), atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 40, 3), (30, 50, 3), (51, 30), (7, 5)])
def test_padding_puts_the_picture_in_the_middle(shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    side = max(shape[:2])
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    for pad in ("black", "border"):
        square = SquareFit(side, pad=pad).apply(pixels)
        np.testing.assert_array_equal(square[top : top + shape[0], left : left + shape[1]], pixels)
        outside = np.ones((side, side), bool)
        outside[top : top + shape[0], left : left + shape[1]] = False
        inside = np.zeros(shape[:2], bool)
        inside[1:-1, 1:-1] = True
        value = np.rint(np.median(pixels[~inside], axis=0)) if pad == "border" else 0
        assert (square[outside] == value).all()


def test_cropping_takes_the_middle():
    pixels = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)
    np.testing.assert_array_equal(SquareFit(6, fit="crop").apply(pixels), pixels[:, 2:8])
    np.testing.assert_array_equal(SquareFit(6, fit="crop").apply(pixels.T), pixels.T[2:8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "1 or more"),
        ({"image_size": 32.0}, "1 or more"),
        ({"fit": "padd"}, "did you mean 'pad'"),
        ({"pad": "white"}, "Known: 'border', 'black'"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        SquareFit(**{"image_size": 32, **settings})


def test_a_square_at_a_spacing_covers_its_millimeters():
    pixels = np.random.default_rng(3).integers(0, 256, (12, 10), dtype=np.uint8)
    # 12 x 10 pixels of 1 x 2 mm: 8 pixels of 2 mm are 16 mm, of which the image has 12 down
    square = SquareFit(8, pad="black", spacing=2.0).apply(pixels, (1.0, 2.0))
    expected = np.zeros((8, 8))
    expected[1:7] = pixels[:, 1:9].reshape(6, 2, 8).mean(axis=1)
    np.testing.assert_array_equal(square, np.rint(expected))
    padded = SquareFit(8, spacing=2.0).apply(pixels, (1.0, 2.0))
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    assert (padded[[0, 7]] == np.rint(np.median(border))).all() and (padded[1:7] == square[1:7]).all()
    color = np.stack([pixels, pixels // 2, pixels // 3], axis=2)
    assert SquareFit(8, pad="black", spacing=2.0).apply(color, (1.0, 2.0)).shape == (8, 8, 3)
    # finer than the pixels: interpolated between their centers
    ramp = np.tile(np.arange(0, 80, 10, dtype=np.uint8), (8, 1))
    fine = SquareFit(8, spacing=0.5).apply(ramp, (1.0, 1.0))
    np.testing.assert_array_equal(fine[4], np.rint(np.arange(8) * 5 + 17.5))


def test_pixels_that_are_not_square_become_so():
    pixels = np.random.default_rng(4).integers(0, 256, (10, 20), dtype=np.uint8)
    square = SquareFit(20).apply(pixels, (2.0, 1.0))
    np.testing.assert_array_equal(square, SquareFit(20).apply(pixels, (1.0, 0.5)))
    centers = np.clip((np.arange(20) + 0.5) / 2 - 0.5, 0, 9)
    expected = np.stack([np.interp(centers, np.arange(10), column) for column in pixels.T.astype(float)], axis=1)
    np.testing.assert_allclose(square, expected, atol=0.51)
    np.testing.assert_array_equal(SquareFit(20).apply(pixels, (1.0, 1.001)), SquareFit(20).apply(pixels))
