import numpy as np
import pytest

from medi_monai.wsi import ArrayReader, PatchGrid, plan_patches
from medi_monai.wsi.overview import OUTLINE, PATCH, draw_plan

GLASS, TISSUE = (243, 241, 244), (190, 130, 175)


@pytest.fixture(scope="module")
def slide():
    """1,600 x 800 pixels of 0.5 microns; tissue from x 400 to 1200 and y 200 to 600."""
    pixels = np.broadcast_to(np.uint8(GLASS), (800, 1600, 3)).copy()
    pixels[200:600, 400:1200] = TISSUE
    return ArrayReader(pixels, 0.5)


@pytest.fixture(scope="module")
def plan(slide):
    return plan_patches(slide, PatchGrid(200, 0.5))


def pixels_of(image, color):
    """(columns, rows) of the pixels of one color."""
    rows, columns = np.nonzero((np.asarray(image) == color).all(axis=2))
    return columns, rows


@pytest.mark.parametrize("side", [64, 100, 512])
def test_the_longest_side_and_the_shape(plan, slide, side):
    image = draw_plan(plan, slide.dimensions, plan.corners, side)
    assert image.size == (side, side // 2) and image.mode == "RGB"


def test_the_outline_is_where_the_tissue_ends(plan, slide):
    columns, rows = pixels_of(draw_plan(plan, slide.dimensions, plan.corners[:0], 800), OUTLINE)
    # half the size of the slide, and the mask has 8 microns: 8 pixels of the picture
    assert (columns.min(), columns.max() + 1) == pytest.approx((200, 600), abs=12)
    assert (rows.min(), rows.max() + 1) == pytest.approx((100, 300), abs=12)
    inside = (columns > 220) & (columns < 580) & (rows > 120) & (rows < 280)
    assert not inside.any(), "an outline, not an area"


def test_every_patch_is_a_frame_at_its_place(plan, slide):
    for corner in plan.corners:
        columns, rows = pixels_of(draw_plan(plan, slide.dimensions, corner[None], 800), PATCH)
        assert (columns.min(), rows.min()) == pytest.approx(corner / 2, abs=1)
        assert (columns.max(), rows.max()) == pytest.approx((corner + 200) / 2 - 1, abs=1)
        on_frame = (columns == columns.min()) | (columns == columns.max()) | (rows == rows.min()) | (rows == rows.max())
        assert on_frame.all()
    assert len(plan.corners) == 8


def test_only_the_patches_given_are_drawn_and_the_plan_stays(plan, slide):
    before = plan.thumbnail.copy()
    assert len(pixels_of(draw_plan(plan, slide.dimensions, plan.corners[:0]), PATCH)[0]) == 0
    first, all_ = (draw_plan(plan, slide.dimensions, plan.corners[:count]) for count in (1, 8))
    assert 0 < len(pixels_of(first, PATCH)[0]) < len(pixels_of(all_, PATCH)[0])
    assert np.array_equal(plan.thumbnail, before)


def test_a_slide_without_tissue_and_one_that_is_thin_are_drawn():
    for shape in ((300, 400), (64, 4000), (4000, 64)):
        slide = ArrayReader(np.broadcast_to(np.uint8(GLASS), (*shape, 3)), 0.5)
        plan = plan_patches(slide, PatchGrid(64, 0.5))
        image = draw_plan(plan, slide.dimensions, plan.corners, 128)
        assert max(image.size) == 128 and min(image.size) >= 1
        assert len(pixels_of(image, OUTLINE)[0]) == 0
