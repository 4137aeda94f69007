"""Patches are what OpenSlide reads at level 0, resized by PIL: over downsamples, resolutions, borders and back ends."""

import numpy as np
import openslide
import pytest
from PIL import Image

from medi_monai.wsi import PatchGrid, open_slide, plan_patches

BICUBIC = Image.Resampling.BICUBIC
SIZE = (64, 48)


def from_level_0(slide, x, y, field, size, method=BICUBIC):
    """OpenSlide's own region around a real-valued field, resized by PIL: the reference."""
    left, top = int(np.floor(x)), int(np.floor(y))
    width, height = int(np.ceil(x + field[0] - 1e-6)) - left, int(np.ceil(y + field[1] - 1e-6)) - top
    region = slide.read_region((left, top), 0, (width, height)).convert("RGB")
    box = (x - left, y - top, min(x - left + field[0], width), min(y - top + field[1], height))
    return np.asarray(region.resize(size, method, box)).astype(int)


def rounded_means(slide, x, y, field):
    """The means of blocks of OpenSlide's own pixels, where those have a whole number of them per direction."""
    width, height = map(round, field)
    pixels = np.asarray(slide.read_region((x, y), 0, (width, height)).convert("RGB"))
    blocks = pixels.reshape(SIZE[1], height // SIZE[1], SIZE[0], width // SIZE[0], 3)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5)


def some_corners(slide, target, size=SIZE):
    """The four corners of the slide, some of a grid, and random ones: whole and real-valued."""
    rng = np.random.default_rng(0)
    field = slide.field(size, target)
    far = np.array(slide.dimensions) - field
    corners = [(0, 0), (far[0], 0), (0, far[1]), tuple(far), tuple(np.floor(far))]
    corners += [tuple(int(v) for v in rng.uniform(0, far)) for _ in range(3)]
    corners += [tuple(rng.uniform(0, far)) for _ in range(2)]
    planned = plan_patches(slide, PatchGrid(size[0], target, min_tissue=0)).corners
    inside = planned[(planned + field <= slide.dimensions).all(axis=1)]
    return corners + [tuple(corner) for corner in rng.choice(inside, 4).tolist()]


def is_whole(number):
    return abs(number - round(number)) < 1e-9


@pytest.mark.parametrize("mpp", [0.25, 0.32, 0.46])
@pytest.mark.parametrize("downsample", ["4", "3.9996"])
def test_patches_are_openslides_level_0_resized(tissue_slides, reader, downsample, mpp):
    path = tissue_slides[downsample][0]
    with reader(path, mpp) as slide, openslide.OpenSlide(path) as reference:
        assert slide.level_downsamples[1][0] == pytest.approx(float(downsample), abs=1e-9)
        for target in (mpp, 0.5, 1.0, 2.0):
            field = slide.field(SIZE, target)
            off = []
            for x, y in some_corners(slide, target):
                patch = slide.read(x, y, field, SIZE).astype(int)
                expected = from_level_0(reference, x, y, field, SIZE)
                off.append(np.abs(patch - expected).mean())
                window = slide.window(x, y, field, SIZE)
                reduction = field[0] / SIZE[0]
                if window.level == 0 and not is_whole(reduction):
                    assert np.array_equal(patch, expected), (target, x, y)
                if window.level == 0 and is_whole(reduction) and is_whole(x) and is_whole(y):
                    assert np.array_equal(patch, rounded_means(reference, int(x), int(y), field)), (target, x, y)
            # measured: 0.73 at most on average, and 1.6 where a patch moves to the pixels of a level of 3.9996
            assert np.mean(off) < 1 and max(off) < 2, (target, off)


def test_a_slide_of_jpeg_tiles_is_read_from_level_0_exactly(tissue_slides, write_tiff, reader, tmp_path):
    path, pixels, level = tissue_slides["4"]
    path = write_tiff(
        tmp_path / "slide.tiff",
        [pixels[:1100, :1500], level[:275, :375]],
        0.25,
        compression="jpeg",
        compressionargs={"level": 90},
    )
    with reader(path) as slide, openslide.OpenSlide(path) as reference:
        for target in (0.25, 0.4, 0.5, 0.62):
            field = slide.field(SIZE, target)
            for x, y in [(0, 0), (1300, 900), (501, 333), (int(1500 - field[0]), int(1100 - field[1]))]:
                expected = from_level_0(reference, x, y, field, SIZE)
                if is_whole(round(target / 0.25, 6)):
                    expected = rounded_means(reference, x, y, field)
                assert slide.window(x, y, field, SIZE).level == 0
                assert np.array_equal(slide.read(x, y, field, SIZE), expected)


def test_the_corner_of_a_patch_is_real_valued(tissue_slides, reader):
    # a quarter of a pixel more in x is a quarter of a pixel in the patch: both neighbors differ from it
    path = tissue_slides["4"][0]
    with reader(path, 0.25) as slide, openslide.OpenSlide(path) as reference:
        patch = slide.read(700.5, 900.25, (64, 48), SIZE)
        expected = from_level_0(reference, 700.5, 900.25, (64, 48), SIZE)
        assert np.array_equal(patch, expected)
        assert np.abs(patch - from_level_0(reference, 700, 900, (64, 48), SIZE)).mean() > 1


@pytest.mark.parametrize("downsample", ["4", "3.9996"])
def test_grid_patches_at_the_resolution_of_a_level_are_its_own_pixels(tissue_slides, reader, downsample):
    path, _, level = tissue_slides[downsample]
    with reader(path, 0.25) as slide:
        plan = plan_patches(slide, PatchGrid(64, 0.25 * float(downsample), min_tissue=0))
        worst = 0
        for x, y in plan.corners[:: max(1, len(plan.corners) // 40)].tolist():
            window = slide.window(x, y, plan.field, (64, 64))
            assert window.level == 1 and window.box == window[1:5]
            own = level[window.top : window.bottom, window.left : window.right]
            assert own.shape == (64, 64, 3)
            scale = np.array(slide.level_downsamples[1])
            assert np.abs([x, y] - np.array([window.left, window.top]) * scale).max() <= 0.5 + 1e-6
            worst = max(worst, np.abs(slide.read(x, y, plan.field, (64, 64)).astype(int) - own).max())
    # OpenSlide gives a level between its pixels, which is taken back but for the rounding
    assert worst <= (0 if downsample == "4" or type(slide).__name__ == "CuCIMReader" else 3)


def test_real_tissue_is_within_one_gray_level(real_data, write_tiff, area_means, reader, tmp_path):
    tiles = sorted((real_data / "hne_tcga" / "tiles").glob("*.png"))[:6]
    tiles = [np.asarray(Image.open(tile).convert("RGB")) for tile in tiles]
    field = np.concatenate([np.concatenate(tiles[:3], 1), np.concatenate(tiles[3:], 1)])[:1999, :2999]
    path = write_tiff(tmp_path / "real.tiff", [field, area_means(field, 750, 500)])
    for mpp in (0.25, 0.32, 0.46):
        with reader(path, mpp) as slide, openslide.OpenSlide(path) as reference:
            for target in (mpp, 0.5, 2.0):
                size = (32, 24)
                field = slide.field(size, target)
                off = [
                    np.abs(slide.read(x, y, field, size) - from_level_0(reference, x, y, field, size)).mean()
                    for x, y in some_corners(slide, target, size)
                ]
                # measured: 0.74 for means of 2 x 2 pixels against PIL's bicubic filter, 0.94 from a level of 3.9987
                assert np.mean(off) < 1, (mpp, target, off)


def test_a_slide_of_a_real_scanner_is_within_one_gray_level(real_data, reader):
    path = real_data / "wsi" / "cmu-1-small-region.svs"
    with reader(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.dimensions == (2220, 2967) and slide.mpp == pytest.approx(0.499)
        for target in (0.499, 0.5, 0.7, 1.0, 2.0):
            field = slide.field(SIZE, target)
            off = []
            for x, y in some_corners(slide, target):
                patch = slide.read(x, y, field, SIZE).astype(int)
                off.append(np.abs(patch - from_level_0(reference, x, y, field, SIZE)).mean())
            assert np.mean(off) < 1, (target, off)


def test_a_real_slide_at_its_own_resolution_is_openslides_pixel_by_pixel(real_data, reader):
    path = real_data / "wsi" / "cmu-1-small-region.svs"
    with open_slide(path) as opened, reader(path) as slide, openslide.OpenSlide(path) as reference:
        assert opened.dimensions == slide.dimensions
        for x, y, size in [(0, 0, (300, 200)), (700, 900, (256, 256)), (2220 - 65, 2967 - 33, (65, 33))]:
            expected = np.asarray(reference.read_region((x, y), 0, size).convert("RGB"))
            assert np.array_equal(slide.read(x, y, size, size), expected)
        halved = slide.read(700, 900, (256, 256), (128, 128))
        pixels = np.asarray(reference.read_region((700, 900), 0, (256, 256)).convert("RGB"))
    means = pixels.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(halved, np.floor(means + 0.5))
