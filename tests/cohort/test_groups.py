import numpy as np
import pandas as pd
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from medi_monai.cohort.groups import (
    codes_of,
    combination_codes,
    group_weights,
    half_of_patients,
    rows_by_group,
    spread_rows,
    stable_order,
)


def test_codes_are_those_of_a_dictionary_and_known_names_come_first():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.choice(["x", "y", "zz"], 200), "b": rng.choice([1, 2, 10], 200)})
    codes, names = codes_of(table, ["a", "b"], [("q", "9"), ("y", "10")])
    assert names[:2] == [("q", "9"), ("y", "10")] and names[2:] == sorted(names[2:]) and len(set(names)) == len(names)
    assert [names[code] for code in codes] == [(row.a, str(row.b)) for row in table.itertuples()]
    assert codes_of(table, [])[1] == [()] and not codes_of(table, [])[0].any()


def test_a_missing_cell_is_a_value_of_its_own_for_any_type_of_column():
    for column in (pd.Series(["a", None, "b", np.nan]), pd.Series([1.0, np.nan, 2.0, np.nan])):
        codes, names = codes_of(pd.DataFrame({"v": column}), ["v"])
        assert names[0] == ("",) and codes.tolist() == [1, 0, 2, 0]
    assert codes_of(pd.DataFrame({"v": pd.Series([], dtype="str")}), ["v"])[1] == []


def test_groups_weigh_alike_as_in_scikit_learn():
    groups = np.random.default_rng(1).choice([0, 3, 4, 9], 300, p=[0.7, 0.2, 0.09, 0.01])
    np.testing.assert_allclose(group_weights(groups), compute_sample_weight("balanced", groups))


@pytest.mark.parametrize(("count", "expected"), [(8, [3, 2, 3]), (30, [14, 2, 14]), (500, [80, 2, 18]), (0, [0, 0, 0])])
def test_rows_are_spread_as_evenly_as_groups_allow(count, expected):
    groups = np.repeat([0, 1, 2], [80, 2, 18])
    rows = spread_rows(groups, count, np.random.default_rng(0))
    assert len(np.unique(rows)) == len(rows) == sum(expected)
    assert np.bincount(groups[rows], minlength=3).tolist() == expected


def test_what_is_left_over_goes_to_random_groups():
    groups = np.repeat(np.arange(4), 10)
    counts = {tuple(np.bincount(groups[spread_rows(groups, 6, np.random.default_rng(s))])) for s in range(40)}
    assert len(counts) == 6 and all(sorted(sizes) == [1, 1, 2, 2] for sizes in counts)


def test_rows_are_ordered_by_image_and_position():
    assert stable_order(pd.DataFrame({"image": ["b", "c", "a"]})).tolist() == [2, 0, 1]
    # patches of one slide
    slides = pd.DataFrame({"image": list("babab"), "x": list("99821"), "y": ["10", "9", "9", "9", "9"]})
    assert stable_order(slides).tolist() == [3, 1, 4, 2, 0]
    assert stable_order(pd.DataFrame({"x": [2, 1]})).tolist() == [0, 1]


def test_combinations_of_several_tables_have_one_list():
    rng = np.random.default_rng(0)
    tables = [pd.DataFrame({"a": rng.choice(list("xyz"), n), "b": rng.choice([1, 2], n)}) for n in (50, 1, 0)]
    codes, names = combination_codes(tables, ["a", "b"])
    assert names == sorted(names) and [len(own) for own in codes] == [50, 1, 0]
    for own, table in zip(codes, tables):
        assert [names[code] for code in own] == list(zip(table["a"], table["b"].astype(str)))


def test_rows_by_group_are_those_of_a_loop():
    groups = np.random.default_rng(0).choice([0, 1, 3], 50)
    shuffled = np.random.default_rng(1).permutation(50)
    for order in (None, shuffled):
        rows = rows_by_group(groups, 6, order)
        assert len(rows) == 6
        for code in range(6):
            expected = [row for row in (range(50) if order is None else order) if groups[row] == code]
            assert rows[code].tolist() == expected
    assert len(rows_by_group(groups)) == 4 and rows_by_group(np.empty(0, int)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_half_of_the_patients_is_a_half_of_every_group_and_no_patient_is_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(30), 4)
    groups = np.repeat(np.repeat([0, 1, 2, 3], [10, 2, 1, 17]), 4)
    first = half_of_patients(patients, groups, rng)
    table = pd.DataFrame({"patient": patients, "group": groups, "first": first})
    assert (table.groupby("patient")["first"].nunique() == 1).all()
    taken = table.drop_duplicates("patient").groupby("group")["first"].sum()
    assert taken[0] == 5 and taken[1] == 1 and taken[2] in (0, 1) and taken[3] in (8, 9)
    # patients of several groups
    shared = half_of_patients(patients, np.tile([0, 1, 2, 3], 30), rng)
    assert (pd.Series(shared).groupby(patients).nunique() == 1).all() and shared.sum() == 60
