import numpy as np
import pytest
import tifffile
from PIL import Image

from medi_monai.cohort.captions import SquareFit, read_picture
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


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_windowed(tmp_path, suffix):
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100) * 5 + 1000
    path = tmp_path / f"a{suffix}"
    tifffile.imwrite(path, values) if suffix == ".tif" else Image.fromarray(values).save(path)
    pixels = read_picture(path, (10, 90))
    low, high = 1000 + 5 * 0.1 * 9999, 1000 + 5 * 0.9 * 9999
    expected = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    assert pixels.dtype == np.uint8 and np.abs(pixels - expected).max() <= 0.5 + 1e-6
    assert read_picture(path, (0, 100)).min() == 0 and read_picture(path, (0, 100)).max() == 255


def test_a_picture_that_is_mostly_of_one_value_keeps_the_rest(tmp_path):
    values = np.zeros((100, 100), np.uint16)
    values[50, 50] = 60_000
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    assert pixels[50, 50] == 255 and pixels.sum() == 255
    Image.fromarray(values * 0 + 7).save(tmp_path / "b.png")
    assert not read_picture(tmp_path / "b.png").any()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_eight_bits_are_taken_as_they_are(tmp_path, mode):
    color = np.random.default_rng(2).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    image = Image.fromarray(color).convert(mode)
    image.save(tmp_path / "a.png")
    pixels = read_picture(tmp_path / "a.png")
    gray = mode in ("L", "1", "LA")
    assert pixels.shape == ((8, 9) if gray else (8, 9, 3))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("L" if gray else "RGB")))


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot read the image .*a.png"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="image not found"):
        read_picture(tmp_path / "b.png")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(InputError, match="not finite"):
        read_picture(tmp_path / "c.tif")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "1 or more"),
        ({"image_size": 32.0}, "1 or more"),
        ({"fit": "padd"}, "did you mean 'pad'"),
        ({"pad": "white"}, "Known: 'border', 'black'"),
        ({"window": [99, 1]}, "increase"),
        ({"window": 5}, "two percentiles"),
        ({"window": [0, 101]}, "increase"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        SquareFit(**{"image_size": 32, **settings})
