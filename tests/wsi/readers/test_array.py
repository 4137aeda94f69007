import numpy as np
import pytest
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.wsi import ArrayReader, open_slide


def random_pixels(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_whole_tile_comes_back_unchanged():
    pixels = random_pixels(30, 50)
    with ArrayReader(pixels, 0.25) as tile:
        assert tile.dimensions == (50, 30) and tile.mpp == 0.25 and tile.spacing == (0.25, 0.25)
        assert tile.level_downsamples == [(1, 1)]
        assert np.array_equal(tile.read(0, 0, (50, 30), (50, 30)), pixels)
        assert np.array_equal(tile.read(7, 3, (20, 11), (20, 11)), pixels[3:14, 7:27])


def test_an_integer_reduction_is_the_mean_of_its_pixels():
    pixels = random_pixels(40, 60)
    for factor, most in ((2, 0.5), (3, 0.56), (5, 0.53)):
        expected = pixels[4:34, 6:36].reshape(30 // factor, factor, 30 // factor, factor, 3).mean(axis=(1, 3))
        region = ArrayReader(pixels, 0.5).read(6, 4, (30, 30), (30 // factor, 30 // factor))
        # rounded once for both directions
        assert np.abs(region - expected).max() <= most


def test_a_patch_does_not_change_with_the_image():
    pixels = random_pixels(30, 50)
    patch = ArrayReader(pixels, 0.25).read(3, 4, (20, 10), (20, 10))
    assert patch.flags["C_CONTIGUOUS"] and patch.shape == (10, 20, 3)


@pytest.mark.parametrize("name", ["tile.PNG", "tile.bmp", "tile.webp"])
def test_plain_images_are_read_whole_and_need_a_resolution(tmp_path, name):
    pixels = random_pixels(20, 30)
    Image.fromarray(pixels).save(tmp_path / name, lossless=True)
    for backend in ("auto", "openslide", "cucim"):
        with open_slide(tmp_path / name, 0.25, backend) as slide:
            assert isinstance(slide, ArrayReader) and slide.mpp == 0.25
            assert np.array_equal(slide.read(0, 0, (30, 20), (30, 20)), pixels)
    with pytest.raises(InputError, match=f"{name}.*resolution"):
        open_slide(tmp_path / name)


def test_the_resolution_that_an_editor_left_in_an_image_does_not_count(tmp_path):
    Image.fromarray(random_pixels(20, 30)).save(tmp_path / "tile.png", dpi=(72, 72))
    with pytest.raises(InputError, match="tile.png does not contain its resolution"):
        open_slide(tmp_path / "tile.png")


@pytest.mark.parametrize("mpp", [0, -0.5, 100, float("nan")])
def test_an_impossible_resolution_is_refused(tmp_path, mpp):
    Image.fromarray(random_pixels(8, 8)).save(tmp_path / "tile.png")
    with pytest.raises(InputError, match="tile.png"):
        open_slide(tmp_path / "tile.png", mpp)
