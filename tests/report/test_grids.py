import numpy as np
import pytest

from medi_monai.report import labeled_grid

GRAY = 238
ROWS, COLUMNS = ["lung", "kidney"], ["Aspen", "Birch", "Elm"]


def patches(count, size=8, seed=0):
    return list(np.random.default_rng(seed).integers(0, 200, (count, size, size, 3), dtype=np.uint8))


def places_of(patch, page, factor):
    """Every (y, x) at which an enlarged patch lies on the page."""
    block = np.kron(patch, np.ones((factor, factor, 1), np.uint8))
    height, width = block.shape[:2]
    starts = np.argwhere((page[: 1 - height or None, : 1 - width or None] == block[0, 0]).all(axis=-1))
    return [(y, x) for y, x in starts.tolist() if np.array_equal(page[y : y + height, x : x + width], block)]


@pytest.fixture(scope="module")
def cells():
    """Five patches for every cell but the last, which has none."""
    pairs = [(row, column) for row in ROWS for column in COLUMNS][:-1]
    return {pair: patches(5, seed=place) for place, pair in enumerate(pairs)}


@pytest.fixture(scope="module")
def page(cells):
    return labeled_grid(cells, ROWS, COLUMNS, cell=(2, 2), cell_size=32)


def gray_columns(page):
    """The x of every column of pixels that crosses a cell without patches."""
    return np.flatnonzero((page == GRAY).all(axis=-1).sum(axis=0) >= 32)


def corner(page, cells, row, column):
    ((y, x),) = places_of(cells[row, column][0], page, 2)
    return y, x


def test_patches_are_enlarged_by_a_whole_factor_and_fill_their_cell_row_by_row(page, cells):
    assert page.dtype == np.uint8 and page.ndim == 3
    for row, column in cells:
        y, x = corner(page, cells, row, column)
        for place, patch in enumerate(cells[row, column][:4]):
            assert places_of(patch, page, 2) == [(y + 18 * (place // 2), x + 18 * (place % 2))], "with a gap of 2"


def test_patches_beyond_a_cells_capacity_are_not_shown(page, cells):
    fitting = {pair: images[:4] for pair, images in cells.items()}
    assert np.array_equal(page, labeled_grid(fitting, ROWS, COLUMNS, cell=(2, 2), cell_size=32))


def test_cells_stand_in_the_order_of_rows_and_columns_without_overlap(page, cells):
    corners = {pair: corner(page, cells, *pair) for pair in cells}
    for row in ROWS:
        assert len({corners[row, column][0] for column in COLUMNS if (row, column) in corners}) == 1
    lefts = [corners["lung", column][1] for column in COLUMNS]
    assert np.diff(lefts).min() >= 32
    for column in COLUMNS[:2]:
        assert corners["kidney", column][1] == corners["lung", column][1]
        assert corners["kidney", column][0] >= corners["lung", column][0] + 32


def test_a_cell_without_patches_is_gray(page, cells):
    y, x = corner(page, cells, "kidney", "Aspen")[0], corner(page, cells, "lung", "Elm")[1]
    assert (page[y : y + 34, x : x + 34] == GRAY).all()


def test_a_cell_with_fewer_patches_is_gray_where_they_lack():
    (one,) = patches(1)
    page = labeled_grid({("r", "c"): [one]}, ["r"], ["c"], cell=(2, 2), cell_size=32)
    ((y, x),) = places_of(one, page, 2)
    assert (page[y : y + 16, x + 16 : x + 34] == GRAY).all() and (page[y + 16 : y + 34, x : x + 34] == GRAY).all()


@pytest.mark.parametrize(
    ("size", "cell", "cell_size", "factor"),
    [(10, (1, 1), 96, 10), (32, (2, 2), 96, 2), (64, (2, 1), 96, 1), (9, (1, 3), 27, 3)],
)
def test_the_factor_is_the_least_that_reaches_the_cells_size(size, cell, cell_size, factor):
    (patch,) = patches(1, size)
    page = labeled_grid({("r", "c"): [patch]}, ["r"], ["c"], cell=cell, cell_size=cell_size)
    assert len(places_of(patch, page, factor)) == 1


def test_without_any_patch_there_are_labels_and_gray_cells():
    page = labeled_grid({}, ROWS, COLUMNS, cell=(1, 1), cell_size=32)
    assert (page == GRAY).all(axis=-1).sum() >= 6 * 32 * 32
    assert page.min() < 100, "the labels are written"


def test_a_long_column_label_is_wrapped_above_its_column_and_not_cut(cells):
    long, short = (labeled_grid({}, ["r"], [label, "next"], cell_size=64) for label in ("cent" * 12, "c"))
    gray = gray_columns(short)
    columns = np.split(gray, np.flatnonzero(np.diff(gray) > 1) + 1)
    assert len(columns) == 2 and len(long) > len(short)
    # below the label, and in the next column, nothing changes
    below = long[len(long) - len(short) :]
    assert np.array_equal(below[:, columns[1][0] :], short[:, columns[1][0] :])
    assert np.array_equal(below[40:], short[40:])
    header = long[: len(long) - 70]
    ink = (header < 100).all(axis=-1)
    assert ink[:, columns[0]].any() and not ink[:, columns[1][0] :][: len(long) - len(short)].any()


def test_a_title_wider_than_the_grid_is_wrapped():
    one, three = (labeled_grid({}, ["r"], ["c"], title=title, cell_size=64) for title in ("One", "Three words " * 6))
    assert one.shape[1] == three.shape[1] and len(three) > len(one) + 40
    assert np.array_equal(three[len(three) - len(one) + 40 :], one[40:])


def test_the_scale_bar_has_its_length_and_stands_below_the_grid(cells):
    plain = labeled_grid({("r", "c"): patches(1, 32)}, ["r"], ["c"], cell=(1, 1), cell_size=96)
    page = labeled_grid({("r", "c"): patches(1, 32)}, ["r"], ["c"], cell=(1, 1), cell_size=96, mpp=1.0)
    assert np.array_equal(page[: len(plain)], plain)
    below = (page[len(plain) :] < 100).all(axis=-1)
    # 10 of 32 micrometers, enlarged by 3
    assert below[4:7].sum(axis=1).tolist() == [30, 30, 30] and below[10:].any()


def test_long_row_labels_widen_the_margin_and_lie_in_it():
    def margin(label):
        page = labeled_grid({}, [label], ["c"], cell_size=64)
        return page, gray_columns(page)[0]

    (_, narrow), (page, wide) = margin("a"), margin("DEMO-SPINDLE carcinoma")
    assert wide > narrow + 50
    ink = (page < 100).all(axis=-1)[40:].any(axis=0)
    assert ink[:wide].any() and not ink[wide:].any() and not ink[0]


def test_a_title_is_a_line_above_and_changes_nothing_below():
    plain, titled = (labeled_grid({}, ROWS, COLUMNS, title=title) for title in ("", "Samples at step 500"))
    added = len(titled) - len(plain)
    assert added > 0 and (titled[:added] < 100).any()
    assert np.array_equal(titled[added + 6 :], plain[6:])


@pytest.mark.parametrize(
    "name", ["lung\nupper lobe", "a\r\nb", "a\vb\fc", "x" * 100_000, "\0", "\u2028", "", "$\\frac{", "🫁"]
)
def test_names_from_data_do_not_stop_a_picture(name, cells):
    image = labeled_grid({(name, name): cells["lung", "Aspen"]}, [name], [name], title=name, cell=(1, 1), cell_size=32)
    assert image.shape[0] < 1000 and image.shape[1] < 1000
    assert places_of(cells["lung", "Aspen"][0], image, 4)


def test_a_line_break_in_a_name_is_shown_as_a_blank(cells):
    pictures = [
        labeled_grid({(name, "A"): cells["lung", "Aspen"]}, [name], ["A"], cell=(1, 1), cell_size=32)
        for name in ("lung\nupper", "lung upper")
    ]
    assert np.array_equal(*pictures)
