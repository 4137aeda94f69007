import pandas as pd
import pytest

from medi_monai.cohort.splits.patients import keep_apart, observed_combinations, quoted, validation_patients


def units(*rows):
    return pd.DataFrame(rows, columns=["patient", "label", "center"])


def test_other_rows_of_held_out_patients_and_uncertain_rows_are_excluded():
    table = units(("p", "a", "x"), ("p", "a", "y"), ("q", "a", ""), ("r", "a", "y"), ("s", "a", "x"))
    held, uncertain = (table["center"] == value for value in ("x", ""))
    split = keep_apart(table, held.to_numpy(), uncertain.to_numpy())
    assert split.tolist() == ["holdout", "excluded", "excluded", "train", "holdout"]


def test_combinations_are_sorted_and_complete():
    table = units(("p", "b", "x"), ("q", "a", "y"), ("r", "a", ""), ("s", "b", "x"))
    assert observed_combinations(table, ["label", "center"]) == [("a", "y"), ("b", "x")]


@pytest.mark.parametrize(("patients", "fraction", "expected"), [(2, 0.9, 0), (3, 0.1, 1), (20, 0.15, 3), (10, 0, 0)])
def test_validation_takes_its_fraction_of_three_patients_or_more(patients, fraction, expected):
    table = units(*((f"p{number}", "a", "x") for number in range(patients)))
    assert len(validation_patients(table, ["label", "center"], fraction, seed=0)) == expected


@pytest.mark.parametrize("seed", range(10))
def test_no_combination_of_shared_patients_is_emptied(seed):
    # every patient has two of four combinations, so that each choice counts twice
    table = units(*((f"p{p}", f"l{(p + k) % 4}", "x") for p in range(12) for k in range(2)))
    chosen = validation_patients(table, ["label", "center"], 0.9, seed)
    left = table[~table["patient"].isin(chosen)]
    assert chosen and set(left["label"]) == {"l0", "l1", "l2", "l3"}


def test_values_are_named_by_count_and_cut_off():
    assert quoted({"b": 2, "a": 2, "c": 1}, "patient") == "'c' (1 patient), 'a' (2 patients), 'b' (2 patients)"
    assert quoted({f"c{number}": number for number in range(5)}, "center", most=2) == (
        "'c0' (0 centers), 'c1' (1 center) and 3 more"
    )
