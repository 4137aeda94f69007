import math

import numpy as np
import pytest

from medi_monai.wsi.color import from_optical_density, mean_optical_density, optical_density


def test_optical_density_equals_the_formula_of_every_gray_value():
    expected = [-math.log10((value + 1) / 256) for value in range(256)]
    np.testing.assert_allclose(optical_density(np.arange(256, dtype=np.uint8)), expected, rtol=0, atol=1e-6)


def test_white_is_zero_and_black_is_finite():
    white, black = optical_density(np.array([255, 0], np.uint8))
    assert white == 0 and black == pytest.approx(2.408, abs=1e-3)


def test_pixels_come_back_from_their_optical_density():
    levels = np.arange(256, dtype=np.uint8)
    result = from_optical_density(optical_density(levels))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, levels)


def test_what_lies_outside_the_gray_values_is_clipped():
    np.testing.assert_array_equal(from_optical_density(np.array([-0.5, 0, 9], np.float32)), [255, 255, 0])


def test_two_layers_of_stain_have_twice_the_optical_density():
    # Beer-Lambert: the light that passes is multiplied, so densities add
    single, double = optical_density(np.array([63, 15], np.uint8))
    assert double == pytest.approx(2 * single, abs=1e-6)


def test_mean_optical_density_equals_a_loop_over_pixels():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    expected = np.zeros((3, 3))
    for n, row, column, channel in np.ndindex(*images.shape):
        expected[n, channel] -= math.log10((int(images[n, row, column, channel]) + 1) / 256) / 20
    result = mean_optical_density(images)
    assert result.shape == (3, 3)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
