import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from medi_monai.cohort.plans import ValueRange, binned, draw_values, ranges_in
from medi_monai.utils.errors import InputError


def rows(number=3, age="40..60", **more):
    return pd.DataFrame({"label": "A", "age": age, **more, "number": range(number)})


@pytest.mark.parametrize(
    ("text", "bounds"), [("47", (47, 47)), ("40..60", (40, 60)), (" -3.5 .. 1e2 ", (-3.5, 100)), ("0...5", (0, 0.5))]
)
def test_numbers_and_ranges_are_read(text, bounds):
    span = ValueRange.parse(text, "age")
    assert (span.low, span.high) == bounds


@pytest.mark.parametrize("text", ["young", "40-60", "40..", "..60", "40..60..80", "", "nan..3"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(InputError, match="age = .* is neither a number nor a range: write a range as 40..60"):
        ValueRange.parse(text, "age")


def test_a_range_from_large_to_small_is_refused():
    with pytest.raises(InputError, match="age = '60..40': write the smaller number of a range first"):
        ranges_in(["60..40"], "age")


def test_numbers_are_drawn_uniformly_and_by_the_identity_of_an_image():
    drawn = draw_values(rows(4000), ["age"], 0)
    ages = drawn["age"].astype(float)
    assert ages.between(40, 60).all() and kstest((ages - 40) / 20, "uniform").pvalue > 0.01
    assert drawn.drop(columns="age").equals(rows(4000).drop(columns="age"))
    # neither on the rest of the plan nor on its order
    mixed = rows(4000).sample(frac=0.1, random_state=0)
    assert draw_values(mixed, ["age"], 0)["age"].equals(drawn["age"].loc[mixed.index])
    assert not draw_values(rows(), ["age"], 1)["age"].equals(drawn["age"].head(3))
    assert not draw_values(rows(age="40..61"), ["age"], 0)["age"].equals(drawn["age"].head(3))


def test_numbers_empty_cells_and_text_with_points_stay():
    cells = pd.Series(["47", "", None, "a..b", "50..50"], dtype=object)
    table = rows(5).assign(age=cells, label="1..2")
    assert draw_values(table, ["age"], 0)["age"].tolist() == ["47", "", None, "a..b", "50"]
    assert (draw_values(table, ["age"], 0)["label"] == "1..2").all()


@pytest.mark.parametrize("width", [1e-6, 0.3, 7, 1e5])
def test_a_range_of_any_width_has_a_thousand_numbers_in_it(width):
    ages = draw_values(rows(500, f"1..{1 + width!r}"), ["age"], 0)["age"].astype(float)
    assert ages.between(1, 1 + width).all() and ages.nunique() > 300


def test_patches_are_in_the_range_that_contains_their_number():
    cells = pd.Series(["39.9", "40", "60", "60.5", "80", "", "old"], name="age")
    assert binned(cells, ["60..80", "40..60"]).tolist() == ["", "40..60", "40..60", "60..80", "60..80", "", ""]
    assert binned(pd.Series(np.arange(5), name="age"), [3]).tolist() == ["", "", "", "3", ""]


def test_ranges_that_overlap_are_refused():
    with pytest.raises(InputError, match="'40..60' and '50..70' of 'age' overlap"):
        binned(pd.Series(["45"], name="age"), ["50..70", "40..60"])
