import numpy as np
import pytest

from medi_monai.utils.errors import InputError
from medi_monai.wsi import ArrayReader, OpenSlideReader, PatchGrid, plan_patches, tissue_mask
from medi_monai.wsi.grid import MASK_MPP, _covered, _on_pixels


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


def starts(length, side, step):
    """Where patches begin along one side of a slide, one by one."""
    begins, start = [], 0.0
    while start + side <= length + 1e-6:
        begins.append(start)
        start = len(begins) * step
    return begins


def test_touching_patches_tile_the_slide_row_by_row():
    plan = plan_patches(tissue(200, 130), PatchGrid(64, 0.5))
    assert plan.field == (64, 64)
    assert plan.corners.tolist() == [[0, 0], [64, 0], [128, 0], [0, 64], [64, 64], [128, 64]]


@pytest.mark.parametrize("mpp", [0.25, 0.32, 0.46, 0.499, 0.9, 1.0, 1.009, (0.25, 0.26)])
@pytest.mark.parametrize("stride", [None, 16, 50, 64, 100])
def test_patches_are_those_of_a_loop(mpp, stride):
    across, down = np.broadcast_to(mpp, 2).tolist()
    width, height = round(320 / across), round(250 / down)
    slide = tissue(width, height, across)
    slide.spacing = across, down
    plan = plan_patches(slide, PatchGrid(64, 1.0, stride=stride))
    assert plan.field == pytest.approx((64 / across, 64 / down), rel=1e-12)
    step = stride or 64
    expected = [
        (x, y) for y in starts(height, 64 / down, step / down) for x in starts(width, 64 / across, step / across)
    ]
    assert plan.corners.shape == (len(expected), 2) and np.issubdtype(plan.corners.dtype, np.integer)
    off = np.array(expected) - plan.corners
    assert off.min() >= 0 and off.max() < 1, "rounded down, so that none leaves the slide, and not adding up"


def test_no_patch_leaves_the_slide():
    rng = np.random.default_rng(0)
    for _ in range(60):
        width, height = (int(length) for length in rng.integers(60, 400, 2))
        mpp = rng.uniform(0.2, 0.5)
        grid = PatchGrid(int(rng.integers(8, 40)), mpp * rng.uniform(1, 1.4), min_tissue=0)
        slide = tissue(width, height, mpp)
        plan = plan_patches(slide, grid)
        assert plan.corners.min() >= 0 and len(plan.corners) >= 1
        assert (plan.corners + plan.field - [width, height]).max() <= 1e-6
        for corner in plan.corners[-3:].tolist():
            slide.read(*corner, plan.field, (grid.image_size, grid.image_size))


def test_the_plan_has_what_it_was_made_from():
    slide = slide_of(half_glass(1024, 512))
    plan = plan_patches(slide, PatchGrid(200, 0.5, min_tissue=0.3))
    assert plan.thumbnail.shape == (32, 64, 3) and plan.thumbnail.dtype == np.uint8, "8 microns per pixel"
    assert np.array_equal(plan.thumbnail, slide.thumbnail((64, 32)))
    assert np.array_equal(plan.mask, tissue_mask(plan.thumbnail))
    assert plan.tissue.shape == (len(plan.corners),) and ((plan.tissue >= 0.3) & (plan.tissue <= 1)).all()
    assert slide.mpp * 1024 / plan.thumbnail.shape[1] == MASK_MPP


def test_small_patches_have_a_finer_thumbnail():
    # at least eight pixels of it for each patch
    plan = plan_patches(tissue(512, 256), PatchGrid(32, 0.5))
    assert plan.thumbnail.shape == (64, 128, 3)
    plan = plan_patches(tissue(100, 50, 9.0), PatchGrid(10, 9.0))
    assert plan.thumbnail.shape == (50, 100, 3), "no finer than the slide"


def test_the_share_of_tissue_is_that_of_a_loop_over_the_mask():
    rng = np.random.default_rng(0)
    mask = rng.random((40, 70)) < 0.4
    dimensions = (1001, 603)
    field = (77.7, 52.3)
    corners = np.stack([rng.uniform(0, 1001 - field[0], 50), rng.uniform(0, 603 - field[1], 50)], axis=1)
    for (x, y), share in zip(corners, _covered(mask, corners, field, dimensions)):
        # every pixel of the mask that the patch touches
        columns = [c for c in range(70) if c * 1001 / 70 < x + field[0] and (c + 1) * 1001 / 70 > x]
        rows = [r for r in range(40) if r * 603 / 40 < y + field[1] and (r + 1) * 603 / 40 > y]
        assert share == pytest.approx(np.mean([mask[r, c] for r in rows for c in columns]))


@pytest.mark.parametrize("min_tissue", [0.25, 0.5, 0.75])
def test_patches_are_chosen_by_their_tissue_on_a_half_glass_slide(min_tissue):
    mask = half_glass(1024, 512)
    everything = plan_patches(slide_of(mask), PatchGrid(24, 0.92, stride=10, min_tissue=0))
    chosen = plan_patches(slide_of(mask), PatchGrid(24, 0.92, stride=10, min_tissue=min_tissue))
    assert 0 < len(chosen.corners) < len(everything.corners) and chosen.tissue.min() >= min_tissue
    chosen = set(map(tuple, chosen.corners.tolist()))
    for x, y in map(tuple, everything.corners.tolist()):
        covered = np.clip((512 - x) / everything.field[0], 0, 1)
        # the mask is found on a thumbnail: a patch within 15 % of the limit may fall on either side
        if abs(covered - min_tissue) > 0.15:
            assert ((x, y) in chosen) == (covered > min_tissue), (x, y, covered)


def test_all_glass_gives_no_patch_and_no_limit_gives_all():
    glass = slide_of(np.zeros((200, 300), bool))
    plan = plan_patches(glass, PatchGrid(50, 0.5))
    assert plan.corners.shape == (0, 2) and plan.tissue.shape == (0,) and not plan.mask.any()
    assert len(plan_patches(glass, PatchGrid(50, 0.5, min_tissue=0)).corners) == 6 * 4


def test_rows_and_columns_are_not_swapped():
    mask = np.zeros((300, 600), bool)
    mask[:100, 400:] = True
    plan = plan_patches(slide_of(mask), PatchGrid(50, 0.5, min_tissue=0.8))
    assert set(map(tuple, plan.corners.tolist())) == {(x, y) for x in (400, 450, 500, 550) for y in (0, 50)}


def test_a_pyramid_and_its_pixels_in_memory_are_cut_alike(tmp_path, write_tiff, area_means, reader):
    tile = slide_of(half_glass(1024, 768), 0.46)
    pixels = tile.read(0, 0, (1024, 768), (1024, 768))
    levels = [pixels, area_means(pixels, 512, 384), area_means(pixels, 256, 192)]
    path = write_tiff(tmp_path / "slide.tiff", levels, 0.46)
    grid = PatchGrid(64, 1.0, min_tissue=0.4)
    with reader(path) as slide:
        plan = plan_patches(slide, grid)
    expected = plan_patches(tile, grid)
    assert plan.field == pytest.approx(expected.field, rel=1e-4)
    assert np.array_equal(plan.corners, expected.corners) and len(plan.corners) == 4 * 5


@pytest.mark.parametrize(("downsample", "stride"), [("4", None), ("4", 37), ("3.9996", None), ("3.9996", 37)])
def test_patches_move_to_the_pixels_of_a_level_of_their_resolution(tissue_slides, reader, downsample, stride):
    with reader(tissue_slides[downsample][0], 0.25) as slide:
        scale = np.array(slide.level_downsamples[1])
        grid = PatchGrid(64, 0.25 * float(downsample), stride=stride, min_tissue=0)
        plan = plan_patches(slide, grid)
        step = (stride or 64) * float(downsample)
        expected = [
            (x, y)
            for y in starts(slide.dimensions[1], plan.field[1], step)
            for x in starts(slide.dimensions[0], plan.field[0], step)
        ]
        assert len(plan.corners) == len(expected), "as many as without the level"
        # within a pixel of the level, and within half a pixel of level 0 of one
        assert np.abs(plan.corners - expected).max() < scale.max() + 0.5
        assert plan.corners.min() >= 0 and (plan.corners + plan.field <= slide.dimensions).all()
        far = np.floor(slide.dimensions - np.array(plan.field))
        apart = np.abs(plan.corners - np.rint(plan.corners / scale) * scale)
        assert (apart[(plan.corners < far).all(axis=1)] <= 0.5 + 1e-9).all()
        # only those that the far border keeps from moving are not its pixels
        levels = [slide.window(x, y, plan.field, (64, 64)).level for x, y in plan.corners.tolist()]
        assert (np.array(levels)[(plan.corners < far).all(axis=1)] == 1).all()


def test_no_patch_leaves_the_slide_by_moving_to_a_level():
    # the pixels of a level begin between those of level 0, half of them before and half behind
    rng = np.random.default_rng(0)
    moved_back = 0
    for _ in range(300):
        level = rng.integers(100, 400, 2)
        dimensions = level * 4 - rng.integers(-1, 2, 2)
        slide = ArrayReader(np.zeros((1, 1, 3), np.uint8), 0.2497)
        slide.level_dimensions = (tuple(dimensions.tolist()), tuple(level.tolist()))
        grid = PatchGrid(32, 1.0)
        field = slide.field((32, 32), 1.0)
        far = dimensions - field
        corners = np.array([far, far - 0.3, (0, 0), far / 2])
        moved = _on_pixels(slide, corners, field, grid)
        assert moved.min() >= 0 and (moved + field <= dimensions).all()
        assert np.abs(moved - corners).max() <= 4.1 + 0.5
        scale = np.array(slide.level_downsamples[1])
        moved_back += (np.rint(np.floor(far / scale + 1e-6) * scale) > far).any()
    assert moved_back > 10, "the far border has to be met"


def test_patches_of_a_resolution_without_a_level_stay_where_they_are(tissue_slides):
    with OpenSlideReader(tissue_slides["4"][0], 0.25) as slide:
        for mpp in (0.25, 0.5, 0.97, 1.1, 2.0):
            plan = plan_patches(slide, PatchGrid(64, mpp, min_tissue=0))
            side = 64 * mpp / 0.25
            expected = [(x, y) for y in starts(2944, side, side) for x in starts(4096, side, side)]
            assert plan.corners.tolist() == np.floor(np.array(expected) + 1e-9).astype(int).tolist()


def test_pen_over_a_slide_gives_no_patch():
    tile = tissue(1600, 800)
    pixels = tile.read(0, 0, (1600, 800), (1600, 800)).copy()
    pixels[:, 800:1200] = (20, 40, 160)
    pixels[:, 1200:] = 0
    plan = plan_patches(ArrayReader(pixels, 0.5), PatchGrid(100, 0.5, min_tissue=0.5))
    assert set(plan.corners[:, 0].tolist()) == {0, 100, 200, 300, 400, 500, 600, 700}


@pytest.mark.parametrize("mpp", [0.25, 0.49])
def test_a_slide_coarser_than_the_grid_is_refused(mpp):
    with pytest.raises(InputError, match=f"0.5 microns.*{mpp}"):
        plan_patches(tissue(200, 200), PatchGrid(32, mpp))


def test_a_slide_coarser_by_less_than_a_percent_is_cut():
    plan = plan_patches(tissue(200, 200, 0.503), PatchGrid(64, 0.5))
    assert plan.field == pytest.approx((64 * 0.5 / 0.503,) * 2) and len(plan.corners) == 9


def test_a_slide_smaller_than_a_patch_is_refused_and_one_of_its_size_is_one_patch():
    with pytest.raises(InputError, match="200 x 100"):
        plan_patches(tissue(200, 100), PatchGrid(101, 0.5))
    for grid in (PatchGrid(101, 0.5), PatchGrid(60, 1.0), PatchGrid(300, 0.5)):
        with pytest.raises(InputError, match="200 x 100.*smaller than one patch"):
            plan_patches(tissue(200, 100), grid)
    assert plan_patches(tissue(100, 100), PatchGrid(100, 0.5)).corners.tolist() == [[0, 0]]


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
