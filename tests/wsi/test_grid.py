import numpy as np
import pytest

from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.utils.errors import InputError
from medi_monai.wsi import ArrayReader, PatchGrid, open_slide, plan_patches


def slide_of(mask, mpp=0.5):
    """A slide with tissue where the mask says."""
    noise = np.random.default_rng(0).normal(0, 3, (*mask.shape, 3))
    pixels = np.where(mask[..., None], (190, 130, 175), (243, 241, 244)) + noise
    return ArrayReader(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), mpp)


def tissue(width, height, mpp=0.5):
    return slide_of(np.ones((height, width), bool), mpp)


def half_glass(width, height):
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


def test_touching_patches_tile_the_slide_row_by_row():
    corners, side = plan_patches(tissue(200, 130), PatchGrid(64, 0.5))
    assert side == 64
    assert corners.tolist() == [[0, 0], [64, 0], [128, 0], [0, 64], [64, 64], [128, 64]]


@pytest.mark.parametrize("mpp", [0.25, 0.32, 0.46, 0.499, 0.9, 1.0, 1.009])
def test_the_side_of_a_patch_is_real_valued_and_patches_touch(mpp):
    width, height = round(640 / mpp), round(500 / mpp)
    corners, side = plan_patches(tissue(width, height, mpp), PatchGrid(64, 1.0))
    assert side == pytest.approx(64 * 1.0 / mpp, rel=1e-12)
    expected, y = [], 0.0
    while y + side <= height + 1e-6:
        x = 0.0
        while x + side <= width + 1e-6:
            expected.append((x, y))
            x += side
        y += side
    assert corners.shape == (len(expected), 2) and np.issubdtype(corners.dtype, np.integer)
    assert np.abs(corners - expected).max() < 1, "rounding must not add up along a row"


@pytest.mark.parametrize("stride", [16, 50, 64, 100])
def test_the_stride_is_in_pixels_of_a_patch(stride):
    corners, side = plan_patches(tissue(400, 300, 0.46), PatchGrid(64, 1.0, stride=stride))
    step = stride / 0.46
    for axis, length in enumerate((400, 300)):
        found = np.unique(corners[:, axis])
        assert len(found) == int((length - side) / step) + 1
        assert np.abs(found - step * np.arange(len(found))).max() < 1


def test_no_patch_leaves_the_slide_by_more_than_the_rounding_of_its_corner():
    rng = np.random.default_rng(0)
    for _ in range(60):
        width, height = (int(length) for length in rng.integers(60, 400, 2))
        mpp = rng.uniform(0.2, 0.5)
        grid = PatchGrid(int(rng.integers(8, 40)), mpp * rng.uniform(1, 1.4), min_tissue=0)
        corners, side = plan_patches(tissue(width, height, mpp), grid)
        assert corners.min() >= 0 and len(corners) >= 1
        assert (corners + side - [width, height]).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("min_tissue", [0.25, 0.5, 0.75])
def test_patches_are_chosen_by_their_tissue_on_a_half_glass_slide(min_tissue):
    mask = half_glass(1024, 512)
    everything, side = plan_patches(slide_of(mask), PatchGrid(24, 0.92, stride=10, min_tissue=0))
    chosen, _ = plan_patches(slide_of(mask), PatchGrid(24, 0.92, stride=10, min_tissue=min_tissue))
    chosen = set(map(tuple, chosen.tolist()))
    assert 0 < len(chosen) < len(everything)
    for x, y in map(tuple, everything.tolist()):
        covered = np.clip((512 - x) / side, 0, 1)
        # the mask is found on a thumbnail: a patch within 15 % of the limit may fall on either side
        if abs(covered - min_tissue) > 0.15:
            assert ((x, y) in chosen) == (covered > min_tissue), (x, y, covered)


def test_all_glass_gives_no_patch_and_no_limit_gives_all():
    glass = slide_of(np.zeros((200, 300), bool))
    corners, _ = plan_patches(glass, PatchGrid(50, 0.5))
    assert corners.shape == (0, 2)
    corners, _ = plan_patches(glass, PatchGrid(50, 0.5, min_tissue=0))
    assert len(corners) == 6 * 4


def test_rows_and_columns_are_not_swapped():
    mask = np.zeros((300, 600), bool)
    mask[:100, 400:] = True
    corners, side = plan_patches(slide_of(mask), PatchGrid(50, 0.5, min_tissue=0.8))
    expected = {(x, y) for x in (400, 450, 500, 550) for y in (0, 50)}
    assert set(map(tuple, corners.tolist())) == expected


def test_a_pyramid_and_its_pixels_in_memory_are_cut_alike(tmp_path):
    mask = half_glass(1024, 768)
    tile = slide_of(mask, 0.46)
    write_pyramid(tmp_path / "slide.tiff", tile.read(0, 0, (1024, 768), (1024, 768)), 0.46)
    grid = PatchGrid(64, 1.0, min_tissue=0.4)
    with open_slide(tmp_path / "slide.tiff") as slide:
        corners, side = plan_patches(slide, grid)
    expected, expected_side = plan_patches(tile, grid)
    assert side == pytest.approx(expected_side, rel=1e-4)
    assert np.array_equal(corners, expected) and len(corners) == 4 * 5


@pytest.mark.parametrize("mpp", [0.25, 0.49])
def test_a_slide_coarser_than_the_grid_is_refused(mpp):
    with pytest.raises(InputError, match=f"0.5 microns.*{mpp}"):
        plan_patches(tissue(200, 200), PatchGrid(32, mpp))


def test_a_slide_coarser_by_less_than_a_percent_is_cut():
    _, side = plan_patches(tissue(200, 200, 0.503), PatchGrid(64, 0.5))
    assert side == pytest.approx(64 * 0.5 / 0.503)


def test_a_slide_smaller_than_a_patch_is_refused_and_one_of_its_size_is_one_patch():
    with pytest.raises(InputError, match="200 x 100"):
        plan_patches(tissue(200, 100), PatchGrid(101, 0.5))
    corners, _ = plan_patches(tissue(100, 100), PatchGrid(100, 0.5))
    assert corners.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_size": 4, "mpp": 0.5}, "image_size 4"),
        ({"image_size": 64, "mpp": 0.5, "stride": 0}, "stride 0"),
        ({"image_size": 64, "mpp": 0}, "mpp = 0"),
        ({"image_size": 64, "mpp": -1.0}, "mpp = -1.0"),
        ({"image_size": 64, "mpp": float("nan")}, "mpp = nan"),
        ({"image_size": 64, "mpp": 0.5, "min_tissue": 50}, "min_tissue = 50"),
        ({"image_size": 64, "mpp": 0.5, "min_tissue": -0.1}, "min_tissue = -0.1"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(InputError, match=named):
        PatchGrid(**settings)
