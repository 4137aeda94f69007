import numpy as np
import openslide
import pytest
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.wsi import OpenSlideReader
from medi_monai.wsi.readers.openslide import _on_white, _unshifted


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, write_tiff):
    """A slide whose level of 3.9996 is noise, the hardest to interpolate; and the pixels of that level."""
    rng = np.random.default_rng(0)
    levels = [
        np.full((1999, 9999, 3), 120, np.uint8),
        rng.integers(0, 256, (500, 2500, 3), dtype=np.uint8),
        rng.integers(0, 256, (33, 160, 3), dtype=np.uint8),
    ]
    return write_tiff(tmp_path_factory.mktemp("noisy") / "slide.tiff", levels, 0.25), levels


def test_the_slide_is_what_its_file_says(noisy):
    with OpenSlideReader(noisy[0]) as slide:
        assert slide.dimensions == (9999, 1999) and slide.vendor == "generic-tiff"
        assert slide.spacing == pytest.approx((0.25, 0.25), rel=1e-6)
        assert slide.level_dimensions == ((9999, 1999), (2500, 500), (160, 33))
        assert slide.level_downsamples[1] == pytest.approx((3.9996, 3.998))
        assert slide.level_downsamples[2] == pytest.approx((9999 / 160, 1999 / 33))


PLACES = [(0, 0), (1, 1), (300, 200), (937, 81), (1250, 250), (1875, 77), (2436, 452), (2436, 0), (0, 452), (5, 3)]


@pytest.mark.parametrize(("left", "top"), PLACES)
def test_the_pixels_of_a_level_are_its_own_though_openslide_reads_between_them(noisy, left, top):
    path, levels = noisy
    with OpenSlideReader(path) as slide, openslide.OpenSlide(path) as reference:
        pixels = slide._pixels(1, left, top, 64, 48)
        scale = reference.level_downsamples[1]
        x, y = round(left * scale), round(top * scale)
        blurred = np.asarray(reference.read_region((x, y), 1, (64, 48)).convert("RGB")).astype(int)
    expected = levels[1][top : top + 48, left : left + 64].astype(int)
    off = np.abs(pixels - expected)
    assert off.max() <= 3 and off.mean() < 0.5
    shift = max(abs(x / scale - left), abs(y / scale - top))
    assert shift < 0.03 or np.abs(blurred - expected).mean() > 3, "the test would pass without taking it back"


def test_a_whole_level_and_one_with_another_ratio_in_both_directions(noisy):
    path, levels = noisy
    with OpenSlideReader(path) as slide:
        for level in (1, 2):
            height, width = levels[level].shape[:2]
            off = np.abs(slide._pixels(level, 0, 0, width, height).astype(int) - levels[level])
            assert off.max() <= 1
        region = slide._pixels(2, 90, 10, 70, 23).astype(int)
    off = np.abs(region - levels[2][10:, 90:])
    assert off.max() <= 3 and off.mean() < 0.6


@pytest.mark.parametrize("shift", [-0.25, -0.125, -0.03, 0.01, 0.125, 0.24])
def test_a_linear_interpolation_is_taken_back(shift):
    # the closed form: shift white noise by hand, in both directions, and undo it
    truth = np.random.default_rng(0).integers(20, 236, (60, 80, 3)).astype(float)
    shifted = truth
    for axis, distance in ((1, shift), (0, -shift)):
        neighbor = np.roll(shifted, -1 if distance > 0 else 1, axis)
        shifted = (1 - abs(distance)) * shifted + abs(distance) * neighbor
    # without rounding there would be no difference but at the rim
    restored = _unshifted(np.rint(shifted).astype(np.uint8), shift, -shift).astype(int)
    inner = (slice(12, -12), slice(12, -12))
    assert np.abs(restored[inner] - truth[inner]).max() <= 4 and np.abs(restored[inner] - truth[inner]).mean() < 0.8
    assert np.array_equal(_unshifted(truth.astype(np.uint8), 0, 0.001), truth.astype(np.uint8))


def test_patches_at_the_far_borders_have_no_white_rim(noisy):
    path, levels = noisy
    with OpenSlideReader(path) as slide:
        for size in ((64, 48), (101, 77)):
            field = size[0] * slide.level_downsamples[1][0], size[1] * slide.level_downsamples[1][1]
            patch = slide.read(9999 - field[0], 1999 - field[1], field, size)
            expected = levels[1][-size[1] :, -size[0] :].astype(int)
            assert np.abs(patch[-1] - expected[-1]).max() <= 3
            assert np.abs(patch[:, -1] - expected[:, -1]).max() <= 3


def test_what_was_not_scanned_is_white_and_its_rim_has_its_own_color():
    region = np.zeros((4, 6, 4), np.uint8)
    region[:, 2:] = (200, 100, 150, 255)
    region[:, 2, 3], region[:, 1] = 143, (10, 20, 30, 112)
    on_white = _on_white(Image.fromarray(region, "RGBA"))
    assert (on_white[:, :2] == 255).all() and (on_white[:, 2:] == (200, 100, 150)).all()
    region[..., 3] = 255
    assert np.array_equal(_on_white(Image.fromarray(region, "RGBA")), region[..., :3])


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.svs").write_text("no slide")
    for name in ("text.svs", "absent.svs"):
        with pytest.raises(InputError, match=f"cannot read the slide .*{name}"):
            OpenSlideReader(tmp_path / name, 0.25)
    assert not OpenSlideReader.detects(tmp_path / "text.svs")


def test_detects_slides(noisy):
    assert OpenSlideReader.detects(noisy[0])
