import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort import SplitScheme, assign_splits
from medi_monai.cohort.demo.cohort import demo_slide_table
from medi_monai.cohort.splits import combination_holdout, subpopulation_holdout
from medi_monai.utils.errors import InputError

COLUMNS = ("tumor", "center")
RECORDED_HOLDOUT = [
    ("DEMO-GLAND", "Birch"),
    ("DEMO-GLAND", "Cedar"),
    ("DEMO-SMALL", "Birch"),
    ("DEMO-SMALL", "Fir"),
    ("DEMO-SMALL", "Maple"),
    ("DEMO-SOLID", "Aspen"),
    ("DEMO-SOLID", "Hazel"),
    ("DEMO-SOLID", "Oak"),
    ("DEMO-SPINDLE", "Cedar"),
    ("DEMO-SPINDLE", "Fir"),
]
RECORDED_DIGEST = "7ba770923b8ca124"


def cohort_of(combinations, patients_each=4, slides_each=2, columns=COLUMNS):
    """Patients with one combination each, and several slides."""
    rows = []
    for combination in combinations:
        for patient in range(patients_each):
            name = "-".join((*combination, str(patient)))
            rows += [
                {"patient": name, "slide": f"{name}-{s}", **dict(zip(columns, combination))} for s in range(slides_each)
            ]
    return pd.DataFrame(rows)


def grid(*sizes):
    """Every combination of so many values of each column."""
    return list(
        itertools.product(*([f"{'tcr'[column]}{value}" for value in range(size)] for column, size in enumerate(sizes)))
    )


def sparse_grid(seed):
    """A part of the combinations of 5 x 8 values, where every value has three or more of them."""
    rng = np.random.default_rng(seed)
    combinations = grid(5, 8)
    for combination in rng.permutation(len(combinations))[:14]:
        left = [other for other in combinations if other != grid(5, 8)[combination]]
        if all(partners(left, column, value) >= 3 for column in (0, 1) for value in {item[column] for item in left}):
            combinations = left
    return combinations


def partners(combinations, column, value):
    return sum(combination[column] == value for combination in combinations)


def combinations_in(rows, split, *names, columns=COLUMNS):
    return set(rows.loc[split.isin(names), list(columns)].itertuples(index=False, name=None))


@pytest.mark.parametrize("seed", range(4))
def test_no_patient_is_in_two_splits(seed):
    rows = cohort_of(sparse_grid(seed), patients_each=5)
    split = assign_splits(rows, SplitScheme(COLUMNS, seed=seed))
    assert set(split) == {"train", "val", "holdout"}
    assert (split.groupby(rows["patient"]).nunique() == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_held_out_combinations_are_in_no_other_split(seed):
    rows = cohort_of(sparse_grid(seed))
    split = assign_splits(rows, SplitScheme(COLUMNS, seed=seed))
    held = combinations_in(rows, split, "holdout")
    assert held and not held & combinations_in(rows, split, "train", "val")
    assert combinations_in(rows, split, "val") <= combinations_in(rows, split, "train")


def test_splits_do_not_depend_on_the_order_of_rows_or_their_index():
    rows = cohort_of(sparse_grid(0))
    scheme = SplitScheme(COLUMNS, seed=3)
    expected = assign_splits(rows, scheme)
    for seed in range(3):
        shuffled = rows.sample(frac=1, random_state=seed)
        pd.testing.assert_series_equal(assign_splits(shuffled, scheme).sort_index(), expected)
    renamed = rows.set_axis([f"row {number}" for number in rows.index])
    assert assign_splits(renamed, scheme).to_dict() == dict(zip(renamed.index, expected))


def test_splits_depend_on_the_seed_alone():
    rows = cohort_of(sparse_grid(1))
    np.random.seed(1)
    first = assign_splits(rows, SplitScheme(COLUMNS, seed=5))
    np.random.seed(2)
    assert assign_splits(rows, SplitScheme(COLUMNS, seed=5)).equals(first)
    schemes = [SplitScheme(COLUMNS, fraction=0.3, val_fraction=0, seed=seed) for seed in range(4)]
    assert len({frozenset(combination_holdout(rows, scheme)) for scheme in schemes}) == 4
    schemes = [SplitScheme(COLUMNS, fraction=0, val_fraction=0.3, seed=seed) for seed in range(4)]
    assert len({tuple(assign_splits(rows, scheme)) for scheme in schemes}) == 4


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("sizes", [(4, 8), (5, 5), (3, 3, 4)])
def test_the_fraction_is_met_and_every_value_keeps_two_combinations_in_training(sizes, fraction):
    columns = ("tumor", "center", "race")[: len(sizes)]
    combinations = grid(*sizes)
    rows = cohort_of(combinations, patients_each=2, slides_each=1, columns=columns)
    for seed in range(5):
        split = assign_splits(rows, SplitScheme(columns, fraction=fraction, seed=seed))
        held = combinations_in(rows, split, "holdout", columns=columns)
        trained = combinations_in(rows, split, "train", columns=columns)
        assert len(held) == pytest.approx(fraction * len(combinations), abs=0.5)
        assert held | trained == set(combinations)
        for column in range(len(sizes)):
            for value in {combination[column] for combination in combinations}:
                assert partners(trained, column, value) >= 2


@pytest.mark.parametrize("seed", range(6))
def test_values_of_an_incomplete_table_keep_two_combinations_as_well(seed):
    combinations = sparse_grid(seed)
    rows = cohort_of(combinations, patients_each=1, slides_each=1)
    split = assign_splits(rows, SplitScheme(COLUMNS, fraction=0.3, seed=seed))
    trained = combinations_in(rows, split, "train")
    assert len(combinations) - len(trained) == round(0.3 * len(combinations))
    for column in (0, 1):
        assert min(partners(trained, column, value) for value in {item[column] for item in combinations}) >= 2


def test_combinations_are_held_out_of_every_class_alike():
    rows = cohort_of(grid(4, 8), patients_each=1)
    for seed in range(5):
        held = combination_holdout(rows, SplitScheme(COLUMNS, fraction=0.3, seed=seed))
        counts = [partners(held, 0, f"t{tumor}") for tumor in range(4)]
        assert sum(counts) == 10 and max(counts) - min(counts) <= 1


@pytest.mark.parametrize("wanted", range(7))
def test_a_fraction_is_refused_exactly_where_no_choice_of_combinations_would_do(wanted):
    combinations = grid(3, 3)
    values = [(column, value) for column in (0, 1) for value in {item[column] for item in combinations}]
    possible = any(
        all(partners(set(combinations) - set(held), column, value) >= 2 for column, value in values)
        for held in itertools.combinations(combinations, wanted)
    )
    rows = cohort_of(combinations)
    for seed in range(5):
        scheme = SplitScheme(COLUMNS, "combination_holdout", fraction=wanted / 9, seed=seed)
        if possible:
            assert len(combination_holdout(rows, scheme)) == wanted
        else:
            with pytest.raises(InputError, match=r"3 of \d combinations of \['tumor', 'center'\].*at most 0.33"):
                assign_splits(rows, scheme)


def test_rows_outside_the_holdout_of_patients_in_it_are_excluded():
    rows = cohort_of(grid(4, 6))
    scheme = SplitScheme(COLUMNS, fraction=0.2, val_fraction=0.5, seed=1)
    held = sorted(combination_holdout(rows, scheme))
    seen = sorted(set(grid(4, 6)) - set(held))
    both = [
        {"patient": "both", "slide": f"both-{s}", "tumor": t, "center": c}
        for s, (t, c) in enumerate([held[0], seen[0]])
    ]
    rows = pd.concat([rows, pd.DataFrame(both)], ignore_index=True)
    split = assign_splits(rows, scheme)
    assert split[rows["patient"] == "both"].tolist() == ["holdout", "excluded"]
    assert (split[rows["patient"] != "both"] != "excluded").all()
    held_patients = set(rows.loc[split == "holdout", "patient"])
    assert not held_patients & set(rows.loc[split.isin(["train", "val"]), "patient"])


def test_fraction_zero_holds_nothing_out():
    rows = cohort_of(grid(2, 2))
    assert set(assign_splits(rows, SplitScheme(COLUMNS, fraction=0, val_fraction=0))) == {"train"}
    assert set(assign_splits(rows, SplitScheme(COLUMNS, fraction=0))) == {"train", "val"}


def test_the_label_alone_holds_nothing_out_but_keeps_validation_patients():
    rows = cohort_of([("t0",), ("t1",)], patients_each=10, columns=("tumor",))
    split = assign_splits(rows, SplitScheme(["tumor"], fraction=0.3, val_fraction=0.2))
    patients = pd.crosstab(rows["tumor"], split, values=rows["patient"], aggfunc="nunique")
    assert patients.to_dict("list") == {"train": [8, 8], "val": [2, 2]}


@pytest.mark.parametrize(("patients", "fraction", "expected"), [(20, 0.15, 3), (10, 0.3, 3), (3, 0.15, 1), (2, 0.5, 0)])
def test_validation_takes_its_fraction_of_every_combinations_patients(patients, fraction, expected):
    rows = cohort_of(grid(3, 3), patients_each=patients)
    split = assign_splits(rows, SplitScheme(COLUMNS, fraction=0.2, val_fraction=fraction))
    trained = combinations_in(rows, split, "train")
    assert len(trained) == 7
    for tumor, center in trained:
        chosen = rows[(rows["tumor"] == tumor) & (rows["center"] == center) & (split == "val")]
        assert chosen["patient"].nunique() == expected


def shared_patients():
    """24 patients at four centers, each with three of four labels: holding out a pair takes their other rows along."""
    rows = [(f"p{p}", f"l{(p + k) % 4}", f"c{p % 4}") for p in range(24) for k in range(3)]
    return pd.DataFrame(rows, columns=["patient", "label", "center"])


@pytest.mark.parametrize("seed", range(12))
def test_every_value_keeps_two_combinations_or_the_split_is_refused(seed):
    rows = shared_patients()
    try:
        split = assign_splits(rows, SplitScheme(["label", "center"], "combination_holdout", 0.2, 0, seed))
    except InputError as error:
        assert "keeps fewer than 2 combinations" in str(error)
        return
    left = rows[split == "train"].drop_duplicates(["label", "center"])
    assert all(
        (left[column].value_counts().reindex(rows[column].unique()) >= 2).all() for column in ("label", "center")
    )


@pytest.mark.parametrize("val_fraction", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_validation_leaves_every_combination_a_patient_in_training(seed, val_fraction):
    rows = shared_patients()
    split = assign_splits(rows, SplitScheme(["label", "center"], fraction=0, val_fraction=val_fraction, seed=seed))
    combinations = rows[["label", "center"]].drop_duplicates()
    assert len(rows.loc[split == "train", ["label", "center"]].drop_duplicates()) == len(combinations)
    assert (split == "val").any()


def test_the_demo_cohort_is_split_as_ever():
    rows = demo_slide_table().rename(columns={"case_submitter_id": "patient"})
    scheme = SplitScheme(["project_id", "center"])
    split = assign_splits(rows, scheme)
    # recorded: users' cohorts and the figures of the documentation rest on it
    assert sorted(combination_holdout(rows, scheme)) == RECORDED_HOLDOUT
    assert hashlib.sha256(",".join(split).encode()).hexdigest()[:16] == RECORDED_DIGEST


def test_a_value_with_one_or_two_combinations_keeps_them_and_the_others_are_held_out():
    small = [("t0", "alone"), ("t0", "two"), ("t1", "two")]
    rows = cohort_of(grid(4, 8) + small)
    for seed in range(5):
        split = assign_splits(rows, SplitScheme(COLUMNS, fraction=0.3, seed=seed))
        assert set(small) <= combinations_in(rows, split, "train")
        assert len(combinations_in(rows, split, "holdout")) == round(0.3 * 35)


def test_a_fraction_that_cannot_be_spared_says_how_many_values_are_too_small():
    rows = cohort_of([(f"t{tumor}", f"c{tumor}{center}") for tumor in range(3) for center in range(4)])
    small = "0 of 3 values of 'tumor', 12 of 12 values of 'center' have 2 or fewer. No fraction is possible"
    with pytest.raises(InputError, match=small):
        assign_splits(rows, SplitScheme(COLUMNS, "combination_holdout"))


def test_a_missing_value_is_of_no_combination_and_trains_only_where_it_cannot_be_a_held_out_one():
    complete = grid(4, 6)
    scheme = SplitScheme(COLUMNS, fraction=0.2, seed=2)
    held = combination_holdout(cohort_of(complete), scheme)
    never_held = cohort_of([("t9", "c0"), ("t9", "c1"), ("t9", "")])
    rows = pd.concat([cohort_of([*complete, ("t0", ""), ("t1", "")]), never_held], ignore_index=True)
    assert {key[0] for key in held} == {"t0", "t1", "t2", "t3"}
    split = assign_splits(rows, scheme)
    empty = rows["center"] == ""
    assert set(split[empty & (rows["tumor"] != "t9")]) == {"excluded"}
    assert set(split[empty & (rows["tumor"] == "t9")]) <= {"train", "val"}
    assert all("" not in key for key in combination_holdout(rows, scheme))


ATTRIBUTES = ("label", "center", "race")


def own_combinations(rows):
    by_label = {}
    for row in rows.itertuples():
        by_label.setdefault(row.label, set())
        if row.center and row.race:
            by_label[row.label].add((row.center, row.race))
    return by_label


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_fraction_of_every_class_is_held_out_and_something_of_it_trains(random_table, seed, missing):
    rows = random_table(seed, missing)
    fraction = [0.05, 0.3, 0.6, 0.95][seed % 4]
    scheme = SplitScheme(ATTRIBUTES, "subpopulation_holdout", fraction=fraction, seed=seed)
    observed = own_combinations(rows)
    split = assign_splits(rows, scheme)
    held = own_combinations(rows[split == "holdout"])
    trained = own_combinations(rows[split == "train"])
    assert set(held) == set(trained) == set(observed)
    for label, combinations in observed.items():
        assert len(held[label]) == min(max(1, round(fraction * len(combinations))), len(combinations) - 1)
        assert held[label] | trained[label] == combinations and not held[label] & trained[label]


def test_the_choice_within_a_class_depends_on_that_class_alone(random_table):
    rows = random_table(0)
    scheme = SplitScheme(ATTRIBUTES, "subpopulation_holdout")
    everything = subpopulation_holdout(rows, scheme)
    alone = subpopulation_holdout(rows[rows["label"] == "t1"], scheme)
    assert alone == {key for key in everything if key[0] == "t1"}


def test_subpopulations_of_different_seeds_differ(random_table):
    rows = random_table(1)
    schemes = [SplitScheme(ATTRIBUTES, "subpopulation_holdout", seed=seed) for seed in range(5)]
    assert len({frozenset(subpopulation_holdout(rows, scheme)) for scheme in schemes}) == 5


def test_classes_with_fewer_than_two_combinations_are_named_with_their_counts():
    rows = cohort_of([*grid(2, 3), ("small", "c0"), ("none", "")])
    scheme = SplitScheme(COLUMNS, "subpopulation_holdout")
    with pytest.raises(InputError, match=r"too small: 'none' \(0 combinations\), 'small' \(1 combination\)\. Remove"):
        assign_splits(rows, scheme)
    nothing = SplitScheme(COLUMNS, "subpopulation_holdout", fraction=0, val_fraction=0)
    assert set(assign_splits(rows, nothing)) == {"train"}


def test_a_class_whose_training_goes_with_the_patients_of_the_holdout_is_named():
    rows = pd.DataFrame(
        [("p", "t0", "c0"), ("p", "t0", "c1"), ("q", "t1", "c0"), ("r", "t1", "c1")],
        columns=["patient", "tumor", "center"],
    )
    with pytest.raises(InputError, match="without them tumor 't0' keeps no combination in training"):
        assign_splits(rows, SplitScheme(COLUMNS, "subpopulation_holdout"))
