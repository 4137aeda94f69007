"""Plans that reach a target, cross attributes, and keep limits, against counts over every combination."""

import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medi_monai.cohort.plans import PlanLimits, TargetShares, make_plan
from medi_monai.utils.errors import InputError

COLUMNS = ["tumor", "center"]
CELLS = list(itertools.product("AB", "XYZ"))
TABLES = st.lists(st.sampled_from(CELLS), min_size=1, max_size=40).map(
    lambda rows: pd.DataFrame([*rows, ("A", "X"), ("B", "Y"), ("B", "Z")], columns=COLUMNS)
)


def sizes(table, columns=COLUMNS):
    return Counter(table[list(columns)].itertuples(index=False, name=None))


def planned(plan, columns=COLUMNS):
    counts = Counter()
    for row in plan.to_dict("records"):
        counts[tuple(row[name] for name in columns)] += row["count"]
    return counts


@settings(max_examples=80, deadline=None)
@given(TABLES, st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_real_and_planned_images_have_the_joint_shares_with_as_few_images_as_possible(table, weights):
    shares = {cell: weight / sum(weights) for cell, weight in zip(CELLS, weights)}
    real = sizes(table)
    smallest = max(np.ceil(real[cell] / shares[cell] - 1e-9) for cell in CELLS)
    assume(smallest > len(table))
    plan = planned(make_plan(table, COLUMNS, "target", target=TargetShares(tuple(COLUMNS), shares)))
    assert len(table) + sum(plan.values()) == smallest
    assert all(abs(real[cell] + plan[cell] - shares[cell] * smallest) < 1 for cell in CELLS)


@settings(max_examples=80, deadline=None)
@given(TABLES, st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(1, 60) | st.none())
def test_a_target_of_one_column_is_reached_with_the_others_level(table, weights, budget):
    shares = {(center,): weight / sum(weights) for center, weight in zip("XYZ", weights)}
    real, marginal = sizes(table), sizes(table, ["center"])
    target = TargetShares(("center",), shares)
    smallest = max(int(np.ceil(marginal[key] / shares[key] - 1e-9)) for key in shares) - len(table)
    assume(smallest > 0)
    plan = planned(make_plan(table, COLUMNS, "target", limits=PlanLimits(max_images=budget), target=target))
    wanted = smallest if budget is None else min(smallest, budget)
    assert sum(plan.values()) == wanted
    for center in "XYZ":
        added = [plan[label, center] for label in "AB"]
        if wanted == smallest:
            assert abs(marginal[center,] + sum(added) - shares[center,] * (smallest + len(table))) < 1
        levels = [real[label, center] + plan[label, center] for label in "AB"]
        # a class is filled only as far as it is behind the other
        assert all(
            count == 0 or level <= max(levels) and level - 1 <= min(levels) for count, level in zip(added, levels)
        )


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_a_uniform_target_is_a_balance(table):
    target = TargetShares(tuple(COLUMNS), dict.fromkeys(CELLS, 1 / 6))
    assume(len({sizes(table)[cell] for cell in CELLS}) > 1)
    assert make_plan(table, COLUMNS, "target", target=target).equals(make_plan(table, COLUMNS, "balance"))


@settings(max_examples=80, deadline=None)
@given(
    TABLES, st.sampled_from(["observed", "unseen", "all", "union", "balance"]), st.integers(0, 4), st.integers(0, 6),
    st.integers(1, 30) | st.none(), st.integers(1, 9),
)  # fmt: skip
def test_counts_keep_the_limits_and_differ_from_the_plain_plan_by_them_alone(table, kind, low, more, budget, each):
    try:
        plain = planned(make_plan(table, COLUMNS, kind, each))
        limits = PlanLimits(low, low + more or None, budget)
        plan = planned(make_plan(table, COLUMNS, kind, each, limits))
    except InputError as error:
        assert "is empty" in str(error) or "is more than max_plan_images" in str(error)
        return
    cells = set(plain) if kind != "balance" else set(CELLS)
    assert set(plan) <= cells and all(plan[cell] <= (limits.max_per_combination or 10**9) for cell in cells)
    if budget is None:
        assert plan == +Counter(
            {cell: int(np.clip(plain[cell], low, limits.max_per_combination or 10**9)) for cell in cells}
        )
    else:
        assert all(plan[cell] >= low for cell in cells)
        unlimited = planned(make_plan(table, COLUMNS, kind, each, PlanLimits(low, low + more or None)))
        assert sum(plan.values()) == min(budget, sum(unlimited.values()))
        if kind != "balance" and sum(plan.values()) == budget:
            assert max(plan[cell] for cell in cells) - min(plan[cell] for cell in cells) <= 1


def test_a_union_crosses_labels_with_attributes_that_occur_together():
    rows = [("A", "X", "f"), ("A", "Y", "m"), ("B", "Z", "f"), ("B", "", "m")]
    table = pd.DataFrame(rows, columns=["tumor", "center", "sex"])
    plan = make_plan(table, list(table.columns), "union", 2)
    expected = [(tumor, *rest, 2) for tumor in "AB" for rest in [("X", "f"), ("Y", "m"), ("Z", "f")]]
    assert list(plan.itertuples(index=False, name=None)) == expected
    assert len(make_plan(table, list(table.columns), "all", 2)) == 12


def test_no_center_with_too_few_patches_is_extrapolated_to():
    rows = [("A", "X")] * 5 + [("B", "Y")] * 4 + [("A", "Z")] * 1 + [("C", "X")] * 2
    table = pd.DataFrame(rows, columns=COLUMNS)
    plan = make_plan(table, COLUMNS, "unseen", 1, PlanLimits(min_training_patches=3))
    assert plan[COLUMNS].to_numpy().tolist() == [["A", "Y"], ["B", "X"]]
    with pytest.raises(InputError, match="min_training_patches = 9: each of the 5 combinations has a value with fewer"):
        make_plan(table, COLUMNS, "unseen", 1, PlanLimits(min_training_patches=9))


def test_values_without_a_row_are_planned_where_they_are_named():
    table = pd.DataFrame([("A", "40..60")] * 3 + [("B", "40..60")], columns=["tumor", "age"])
    bins = {"age": ["40..60", "60..80"]}
    plan = make_plan(table, ["tumor", "age"], "balance", values=bins)
    assert planned(plan, ["tumor", "age"]) == {("A", "60..80"): 3, ("B", "40..60"): 2, ("B", "60..80"): 3}


def test_impossible_limits_and_targets_are_refused():
    table = pd.DataFrame([("A", "X"), ("B", "Y")], columns=COLUMNS)
    with pytest.raises(InputError, match="min_per_combination = 5 is more than max_per_combination = 4"):
        PlanLimits(5, 4)
    with pytest.raises(InputError, match="min_per_combination = 5 of 2 combinations is more than max_plan_images = 9"):
        make_plan(table, COLUMNS, "unseen", limits=PlanLimits(5, max_images=9))
    shares = TargetShares(("center",), {("X",): 1.0, ("Y",): 0.0})
    with pytest.raises(InputError, match="gives 'Y' a share of 0, and the training table has 1 patches of it"):
        make_plan(table, COLUMNS, "target", target=shares)
    plan = make_plan(table, COLUMNS, "target", limits=PlanLimits(max_images=10), target=shares)
    assert planned(plan) == {("A", "X"): 5, ("B", "X"): 5}
    with pytest.raises(InputError, match="'target', and no other, needs the shares"):
        make_plan(table, COLUMNS, "target")


def test_a_budget_below_the_number_of_combinations_says_what_is_left_out(capsys):
    table = pd.DataFrame(CELLS, columns=COLUMNS)
    plan = make_plan(table, COLUMNS, "observed", 3, PlanLimits(max_images=4))
    assert plan["count"].tolist() == [1] * 4
    assert "max_plan_images = 4 is less than the 6 combinations of the plan: 2 of them" in capsys.readouterr().out
