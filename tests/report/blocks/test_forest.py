import re

import pytest

from medi_monai.report.blocks.forest import Forest, ForestCell, ForestColumn, ForestRow
from medi_monai.report.page import Page
from medi_monai.results import Figure


def row(title, value, ci95=None, **changes):
    return ForestRow(title, "#123456", [ForestCell(Figure(value, ci95), f"{title} text")], **changes)


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        ([(0.5, (0.41, 0.59)), (0.7, None)], 0.25),
        ([(0.3, None)], None),
        ([(-0.03, (-0.2, 0.14))], 0.0),
        ([(None, None)], None),
    ],
)
def test_the_axis_holds_all_values_and_its_places_are_linear(values, mark):
    cells = [ForestCell(Figure(*value)) for value in values]
    column = ForestColumn.of("accuracy", cells, mark)
    shown = [place for cell in cells for place in cell.values()] + ([] if mark is None else [mark])
    assert all(column.ticks[0] <= value <= column.ticks[-1] for value in shown)
    assert 2 <= len(column.ticks) <= 7
    low, high = column.ticks[0], column.ticks[-1]
    assert [column.place(low + share * (high - low)) for share in (0, 0.25, 1)] == [0, 25, 100]


def test_families_keep_the_order_of_their_first_rows():
    rows = [row("a", 1.0), row("b", 1.0, family="x"), row("c", 1.0, family="y"), row("d", 1.0, family="x")]
    families = Forest([ForestColumn.of("accuracy", [])], rows).families()
    assert [(name, [row.title for row in members]) for name, members in families] == [
        ("", ["a"]),
        ("x", ["b", "d"]),
        ("y", ["c"]),
    ]


def test_points_intervals_and_trainings_are_where_their_values_are():
    cell = ForestCell(Figure(0.6, (0.4, 0.8)), "0.60", strong=True, trainings=(0.5, 0.7))
    column = ForestColumn("accuracy, 95% interval", 0.2, (0.0, 0.5, 1.0))
    undefined = ForestRow("none", "#000", [ForestCell(Figure(None), "–")], reference=True)
    page = Page("t").forest(Forest([column], [ForestRow("a <b>", "#123456", [cell]), undefined]), "caption").html()
    assert 'class="span" style="left: 40.0%; width: 40.0%; --arm: #123456"' in page
    assert 'class="point" style="left: 60.0%' in page and "a &lt;b&gt;" in page and "<b>0.60</b>" in page
    assert re.findall(r'class="training" style="left: ([0-9.]+)%', page) == ["50.0", "70.0"]
    assert page.count('class="mark" style="left: 20.0%"') == 2 and 'class="span dashed"' not in page
    assert page.count('class="point"') == 1, "what is undefined is not drawn"
    dashed = Page("t").forest(Forest([column], [row("r", 0.5, (0.1, 0.9), reference=True)])).html()
    assert 'class="span dashed"' in dashed
