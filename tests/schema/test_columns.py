import math

import numpy as np
import pandas as pd
import pytest

from medi_monai.schema import NULL, UNKNOWN, CategoricalColumn, ContinuousColumn, is_missing, missing_cells
from medi_monai.utils.errors import InputError


@pytest.mark.parametrize("value", [None, math.nan, np.float64("nan"), "", "  "])
def test_cells_without_data_are_missing(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", ["NA", "na", "01", "0", 0, 0.0, False, "unknown primary", "none", "Not Reported"])
def test_cells_with_data_are_not_missing(value):
    assert not is_missing(value)


@pytest.mark.parametrize("dtype", ["str", object])
def test_missing_cells_of_a_column_are_those_of_each_cell_alone(dtype):
    cells = ["NA", "01", "", "  ", "'--", "Not Reported", " unknown ", "unknown primary", "None", "0", None, math.nan]
    cells += [0, False, 0.0, 2.5] if dtype is object else []
    column = pd.Series(cells, index=range(5, 5 + len(cells)), dtype=dtype)
    mask = missing_cells(column)
    assert mask.index.tolist() == column.index.tolist() and mask.dtype == bool
    assert mask.tolist() == [is_missing(cell) for cell in cells]


def test_further_strings_that_mean_missing_count_in_any_case():
    column = pd.Series(["NA", "na", " N/A ", "01", "'--"])
    assert missing_cells(column, ["n/a", "Na", "'--"]).tolist() == [True, True, True, False, True]
    assert missing_cells(column).tolist() == [False, False, False, False, False]
    assert missing_cells(pd.Series([], dtype="str")).tolist() == []


def test_vocabulary_is_sorted_once_each_and_without_missing_values():
    column = CategoricalColumn.from_values("site", ["B7", "NA", "", "01", " ", "NA", None, "A2", "none"])
    assert column.values == ("01", "A2", "B7", "NA", "none")


def test_numbers_and_their_strings_are_the_same_category():
    column = CategoricalColumn.from_values("grade", [3, 2, "3"])
    assert column.values == ("2", "3")
    assert column.encode(3) == column.encode("3") == 1


def test_codes_are_places_in_the_vocabulary_and_decode_inverts_them():
    column = CategoricalColumn("site", ("NA", "01", "B7"))
    assert [column.encode(value) for value in ("NA", "01", "B7")] == [0, 1, 2]
    assert [column.decode(code) for code in (0, 1.0, 2)] == ["NA", "01", "B7"]


@pytest.mark.parametrize("column", [CategoricalColumn("a", ("x",)), ContinuousColumn("a", 0, 1)])
def test_null_and_unknown_differ_from_each_other_and_from_every_value(column):
    assert column.encode(" ") == UNKNOWN == -1
    assert column.encode("x", null=True) == NULL == -2
    assert column.decode(UNKNOWN) == "" and column.decode(NULL) is None


def test_leading_zeros_count():
    with pytest.raises(InputError, match="'1'"):
        CategoricalColumn("site", ("01", "NA")).encode("1")


def test_an_unseen_value_names_attribute_value_and_nearest():
    with pytest.raises(InputError) as caught:
        CategoricalColumn("center", ("Aspen", "Birch", "Maple")).encode("Mapel")
    message = str(caught.value)
    assert "'center'" in message and "'Mapel'" in message and "did you mean 'Maple'" in message


def test_a_vocabulary_with_a_value_twice_is_refused():
    with pytest.raises(InputError, match="duplicate value"):
        CategoricalColumn("grade", ("1", 1))


@pytest.mark.parametrize("code", [-3, 2, 0.5])
def test_a_code_outside_the_vocabulary_is_refused(code):
    with pytest.raises(InputError, match="'center'"):
        CategoricalColumn("center", ("Aspen", "Birch")).decode(code)


def test_numbers_scale_linearly_to_the_range_seen_in_training():
    column = ContinuousColumn.from_values("age", ["50", 30, "", None, 70.0])
    assert (column.low, column.high) == (30, 70)
    assert [column.encode(age) for age in (30, "40", 50.0, 70)] == [0, 0.25, 0.5, 1]
    assert [column.decode(code) for code in (0, 0.25, 0.5, 1)] == [30, 40, 50, 70]


@pytest.mark.parametrize("age", [29.9, 71, "-5"])
def test_a_number_outside_the_range_names_attribute_value_and_range(age):
    with pytest.raises(InputError) as caught:
        ContinuousColumn("age", 30, 70).encode(age)
    assert all(text in str(caught.value) for text in ("age", str(age), "[30, 70]"))


@pytest.mark.parametrize("value", ["old", "6o", "inf", "1,5"])
def test_what_is_not_a_finite_number_is_refused_by_name(value):
    with pytest.raises(InputError, match="age"):
        ContinuousColumn("age", 30, 70).encode(value)


@pytest.mark.parametrize("values", [[], ["", None], [50, "50"]])
def test_a_range_needs_two_different_numbers(values):
    with pytest.raises(InputError, match="age"):
        ContinuousColumn.from_values("age", values)
