import html
import re

import numpy as np
import pytest

from medi_monai.report.blocks.gallery import Gallery
from medi_monai.report.page import Page


def images(count, size):
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def gallery(size=32, mpp=1.0, **more):
    cells = {("Real", 0): images(2, size), ("Real", 1): images(1, size), ("MeDi", 0): images(1, size)}
    return Gallery(["Real", "MeDi"], [["Gland <b>", "Aspen"], ["Solid", "Elm"]], cells, mpp=mpp, **more)


@pytest.mark.parametrize(("size", "tile"), [(32, 96), (40, 120), (64, 128), (96, 96), (128, 128), (256, 192)])
def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_reduced(size, tile):
    assert gallery(size).tile == tile


def test_neighbors_of_one_group_share_a_heading():
    shown = Gallery(["Real"], [["a"]] * 4, {}, groups=["new", "new", "known", "new"])
    assert shown.spans() == [("new", 2), ("known", 1), ("new", 1)] and Gallery([], [], {}).spans() == []


def test_rows_columns_notes_and_the_scale_bar_are_on_the_page():
    source = Page("T").gallery(gallery(groups=["new", "known"], notes={"MeDi": "generated"}), "At random.").html()
    assert source.count("<img") == 4 and source.count('class="none"') == 1, "a cell without images has a dash"
    assert 'alt="Real, Gland &lt;b&gt; · Aspen"' in source and "<small>generated</small>" in source
    assert "--tile: 96px" in source and "At random." in source
    # 10 of 32 micrometers
    (width,) = re.findall(r'class="scale"><i style="width: ([\d.]+)%', source)
    assert float(width) == 31.25 and "10\xa0µm" in html.unescape(source)


def test_without_a_resolution_or_images_there_is_no_bar():
    assert 'class="scale"' not in Page("T").gallery(gallery(mpp=None)).html()
    assert 'class="scale"' not in Page("T").gallery(Gallery(["Real"], [["a"]], {}, mpp=1.0)).html()
