import numpy as np
import pytest

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers import PixelRules
from medi_monai.wsi.readers.rules import laid_on, oriented


def test_eight_bits_stay_as_they_are_whatever_the_rules():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for rules in (PixelRules(), PixelRules(intensity_range=[10, 20]), PixelRules(percentiles=[10, 90])):
        assert rules.gray_levels(values, "a.png") is values
    assert PixelRules().gray_levels(values > 127, "a.png").tolist() == np.where(values > 127, 255, 0).tolist()


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32])
def test_a_range_makes_black_white_and_what_lies_between(kind):
    values = np.array([[100, 200, 300, 600, 1100, 2000]], kind)
    expected = [[0, 26, 51, 128, 255, 255]]  # 25.5 is rounded to the even 26
    assert PixelRules(intensity_range=[100, 1100]).gray_levels(values, "a.tif").tolist() == expected


def test_sixteen_bits_that_use_the_highest_are_scaled_by_their_full_range():
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    assert PixelRules().gray_levels(values, "a.png").tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 4000]], np.uint16), r"16-bit values from 0 to 4000.*intensity_range, for example \[0, 4095\]"),
        (np.array([[0, 32767]], np.uint16), r"16-bit values.*\[0, 32767\]"),
        (np.array([[-1000, 3000]], np.int16), r"16-bit values from -1000 to 3000.*\[-1000, 3000\]"),
        (np.array([[0, 70_000]], np.uint32), r"32-bit values.*\[0, 131071\]"),
        (np.array([[0.2, 0.9]], np.float32), r"32-bit floats from 0.2 to 0.9.*\[0, 1\]"),
        (np.array([[0, 255]], np.float64), r"64-bit floats from 0 to 255.*\[0, 255\]"),
    ],
)
def test_values_that_could_mean_anything_are_refused_with_the_setting_that_says_it(values, message):
    with pytest.raises(InputError, match=f"a.tif has {message}"):
        PixelRules().gray_levels(values, "a.tif")


def test_percentiles_are_those_of_numpy():
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100) * 5 + 1000
    low, high = 1000 + 5 * 0.1 * 9999, 1000 + 5 * 0.9 * 9999
    expected = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    pixels = PixelRules(percentiles=[10, 90]).gray_levels(values, "a.png")
    assert pixels.dtype == np.uint8 and np.abs(pixels - expected).max() <= 0.5 + 1e-6
    whole = PixelRules(percentiles=(0, 100)).gray_levels(values, "a.png")
    assert whole.min() == 0 and whole.max() == 255


def test_an_image_that_is_mostly_of_one_value_keeps_the_rest():
    values = np.zeros((100, 100), np.uint16)
    values[50, 50] = 60_000
    rules = PixelRules(percentiles=[0.5, 99.5])
    pixels = rules.gray_levels(values, "a.png")
    assert pixels[50, 50] == 255 and pixels.sum() == 255
    assert not rules.gray_levels(values * 0 + 7, "a.png").any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match="a.tif: it contains values that are not finite"):
        PixelRules(intensity_range=[0, 1]).gray_levels(np.array([[0.5, value]], np.float32), "a.tif")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intensity_range": [5, 5]}, "increase"),
        ({"intensity_range": [0, float("inf")]}, "finite"),
        ({"intensity_range": 4095}, "two values"),
        ({"intensity_range": [0, "4095"]}, "two values"),
        ({"percentiles": [99, 1]}, "increase"),
        ({"percentiles": 5}, "two percentiles"),
        ({"percentiles": [0, 101]}, "increase"),
        ({"background": "whit"}, "did you mean 'white'"),
    ],
)
def test_rules_out_of_range_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        PixelRules(**settings)


def test_transparent_pixels_show_the_background():
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[..., :3] = 100
    pixels[..., 3] = 255
    pixels[1, 1] = (200, 0, 0, 51)
    pixels[1, 2] = (7, 8, 9, 0)
    white, black, border = (laid_on(pixels, background) for background in ("white", "black", "border"))
    # a fifth of the color and four fifths of what is behind
    assert white[1, 1].tolist() == [244, 204, 204] and white[1, 2].tolist() == [255] * 3
    assert black[1, 1].tolist() == [40, 0, 0] and black[1, 2].tolist() == [0] * 3
    assert border[1, 1].tolist() == [120, 80, 80] and border[1, 2].tolist() == [100] * 3
    for image in (white, black, border):
        assert (image[0] == 100).all()
    pixels[..., 3] = 0
    assert not laid_on(pixels, "border").any()
    gray = np.stack([np.full((2, 2), 50), np.full((2, 2), 102)], axis=2).astype(np.uint8)
    assert laid_on(gray, "white").tolist() == [[173, 173], [173, 173]]


def test_orientations_are_undone():
    upright = np.arange(6).reshape(2, 3)
    # what a camera that was held so keeps: where the first row and column of the file lie in the scene (TIFF 6.0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),  # turned clockwise for display
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        assert oriented(pixels, orientation).tolist() == upright.tolist(), orientation
    assert oriented(upright, 0) is upright and oriented(upright, 99) is upright
