"""What every scheme promises, checked row by row on random tables."""

import contextlib
import functools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.splits import SCHEMES, SplitScheme, assign_splits
from medi_monai.cohort.splits.assign import RULES, choose_split
from medi_monai.utils.errors import InputError

COLUMNS = ("label", "center", "race")
TABLES = [(seed, missing, several) for seed in range(4) for missing in (0.0, 0.15) for several in (0.0, 0.1)]


def scheme_of(name, seed=0, **changes):
    settings = {"fraction": 0.2, "val_fraction": 0.3, "seed": seed, "num_folds": 3, **changes}
    return SplitScheme(COLUMNS, name, **settings)


#: the centers that a scheme is about, where they are others than the names of the random tables
CENTERS = {
    # codes that belong to one class
    "medi_2025": lambda rows: rows["label"] + "-" + rows["center"],
}
#: schemes that hold out the same rows whatever the seed
SAME_FOR_ALL_SEEDS = ("medi_2025",)


def rows_for(name, table):
    """A table that suits a scheme, with the order of the file."""
    rows = table.assign(row=range(len(table)))
    return rows.assign(center=CENTERS[name](rows)) if name in CENTERS else rows


@pytest.fixture(scope="module")
def tables(random_table):
    """A function from a scheme's name to random tables with their splits; a scheme may refuse some, but not most."""

    @functools.cache
    def split_all(name):
        done = []
        for seed, missing, several in TABLES:
            rows, scheme = rows_for(name, random_table(seed, missing, several, patients=90)), scheme_of(name, seed)
            with contextlib.suppress(InputError):
                done.append((rows, assign_splits(rows, scheme), scheme))
        assert len(done) >= len(TABLES) / 2
        return done

    return split_all


def combinations(rows):
    return set(rows[list(COLUMNS)].itertuples(index=False, name=None))


def test_every_scheme_has_a_rule_and_a_row_in_the_docs():
    docs = (Path(__file__).parents[3] / "docs" / "your_data.md").read_text(encoding="utf-8")
    assert list(RULES) == list(SCHEMES), "give each scheme a rule in RULES of assign.py"
    for name in SCHEMES:
        assert f"| `{name}` |" in docs, f"add {name} to the table of splits in docs/your_data.md"
        assert f"``{name}``" in SplitScheme.__doc__, f"describe {name} in the docstring of SplitScheme"


@pytest.mark.parametrize("name", SCHEMES)
def test_no_patient_is_in_two_splits(name, tables):
    for rows, split, _ in tables(name):
        sides = {}
        for patient, side in zip(rows["patient"], split):
            if side != "excluded":
                sides.setdefault(patient, set()).add(side)
        assert all(len(splits_of_patient) == 1 for splits_of_patient in sides.values())
        assert set().union(*sides.values()) == {"train", "val", "holdout"}


@pytest.mark.parametrize("name", SCHEMES)
def test_rows_are_excluded_for_their_patient_or_a_missing_value_alone(name, tables):
    for rows, split, _ in tables(name):
        held_patients = set(rows.loc[split == "holdout", "patient"])
        for row in rows[split == "excluded"].itertuples():
            assert row.patient in held_patients or "" in (row.center, row.race)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_order_of_rows_and_their_index_do_not_matter(name, tables):
    for rows, split, scheme in tables(name):
        shuffled = rows.sample(frac=1, random_state=1)
        pd.testing.assert_series_equal(assign_splits(shuffled, scheme).sort_index(), split)
        same_index = rows.set_axis(np.zeros(len(rows), int))
        assert assign_splits(same_index, scheme).tolist() == split.tolist()


@pytest.mark.parametrize("name", SCHEMES)
def test_patches_get_the_split_of_their_slide(name, tables):
    for rows, split, scheme in tables(name):
        patches = rows.loc[rows.index.repeat(3)]
        assert assign_splits(patches, scheme).tolist() == split.repeat(3).tolist()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_seed_gives_one_split_and_other_seeds_others(name, random_table):
    rows = rows_for(name, random_table(1, patients=90))
    splits = []
    for seed in range(4):
        np.random.seed(seed)
        splits += [assign_splits(rows, scheme_of(name, seed)), assign_splits(rows, scheme_of(name, seed))]
    assert all(first.equals(second) for first, second in zip(splits[::2], splits[1::2]))
    assert len({tuple(split) for split in splits}) == 4
    without_validation = {tuple(assign_splits(rows, scheme_of(name, seed, val_fraction=0))) for seed in range(4)}
    assert len(without_validation) == (1 if name in SAME_FOR_ALL_SEEDS else 4)


@pytest.mark.parametrize("name", SCHEMES)
def test_validation_leaves_every_combination_a_patient_in_training(name, tables):
    for rows, split, scheme in tables(name):
        trained, validated = (combinations(rows[split == side]) for side in ("train", "val"))
        assert validated and validated <= trained
        without = assign_splits(rows, scheme_of(name, scheme.seed, val_fraction=0))
        assert split.replace("val", "train").equals(without)


@pytest.mark.parametrize("name", ["combination_holdout", "subpopulation_holdout"])
def test_no_row_in_training_has_or_may_have_a_combination_that_is_held_out(name, tables):
    for rows, split, _ in tables(name):
        held = combinations(rows[split == "holdout"])
        assert held and all("" not in combination for combination in held)
        for own in combinations(rows[split.isin(["train", "val"])]):
            for other in held:
                assert any(mine and mine != value for mine, value in zip(own, other))


@pytest.mark.parametrize("name", ["combination_holdout", "subpopulation_holdout"])
def test_no_row_is_excluded_without_need(name, tables):
    for rows, split, _ in tables(name):
        held = combinations(rows[split == "holdout"])
        held_patients = set(rows.loc[split == "holdout", "patient"])
        for row in rows[split == "excluded"].itertuples():
            own = (row.label, row.center, row.race)
            fits = any(all(not mine or mine == value for mine, value in zip(own, other)) for other in held)
            assert fits or row.patient in held_patients


@pytest.mark.parametrize("name", SCHEMES)
def test_cells_of_any_kind_count_as_text_and_null_as_missing(name, random_table):
    rows = rows_for(name, random_table(0, missing=0.1, patients=90))
    expected = assign_splits(rows, scheme_of(name))
    other = rows.astype(object).replace("", None).astype({"label": "category", "patient": "category"})
    assert assign_splits(other, scheme_of(name)).tolist() == expected.tolist()


@pytest.mark.parametrize(("column", "meaning"), [("patient", "patient"), ("label", "label")])
def test_rows_without_patient_or_label_are_counted_and_refused(column, meaning, random_table):
    rows = random_table(0)
    rows.loc[[2, 5], column] = ""
    with pytest.raises(InputError, match=rf"2 of {len(rows)} rows have no {meaning} \(column '{column}'\)"):
        assign_splits(rows, scheme_of("patient_kfold"))


def test_missing_columns_and_an_empty_table_are_refused(random_table):
    rows = random_table(0)
    with pytest.raises(InputError, match="unknown column 'center': did you mean 'centers'"):
        assign_splits(rows.rename(columns={"center": "centers"}), scheme_of("site_holdout"))
    with pytest.raises(InputError, match="no row"):
        assign_splits(rows.iloc[:0], scheme_of("site_holdout"))


@pytest.fixture(scope="module")
def patches():
    """1.6 million patches of 12,000 slides: 32 classes, 200 centers, 5 races, some of them missing."""
    rng = np.random.default_rng(0)
    patient = np.arange(12_000) * 5 // 6
    label, center, race = (rng.integers(0, count, 10_000)[patient] for count in (32, 200, 6))
    slides = pd.DataFrame(
        {
            "patient": [f"P-{number:05d}" for number in patient],
            "label": [f"class {number}" for number in label],
            "center": [f"center {number}" for number in center],
            "race": [f"race {number}" if number else "" for number in race],
        }
    )
    return slides.loc[slides.index.repeat(133)].reset_index(drop=True)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_million_patches_are_split_in_seconds(name, patches):
    rows = rows_for(name, patches)
    start = time.perf_counter()
    split = assign_splits(rows, SplitScheme(COLUMNS, name, val_fraction=0.15))
    assert time.perf_counter() - start < 20
    assert len(split) == 1_596_000 and {"train", "val", "holdout"} <= set(split.unique())


def table_of(classes, centers, patients):
    """Every class at every center, with so many patients each."""
    keys = [(label, center) for label in range(classes) for center in range(centers)]
    rows = [(f"p{a}{b}{p}", f"label {a}", f"center {b}") for a, b in keys for p in range(patients)]
    return pd.DataFrame(rows, columns=["patient", "label", "center"])


@pytest.mark.parametrize(
    ("rows", "chosen", "reasons"),
    [
        (table_of(4, 6, 4), "combination_holdout", 0),
        # LUAD and LUSC at five hospitals
        (table_of(2, 5, 6), "subpopulation_holdout", 1),
        (table_of(2, 1, 6), "patient_kfold", 2),
    ],
)
def test_the_first_scheme_that_a_cohort_allows_is_chosen_and_named(rows, chosen, reasons, capsys):
    scheme = SplitScheme(("label", "center"))
    split = assign_splits(rows, scheme)
    assert split.equals(assign_splits(rows, SplitScheme(("label", "center"), chosen)))
    assert {"train", "val", "holdout"} <= set(split)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"split: {chosen}, chosen by --split_scheme auto"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  not combination_holdout", "  not subpopulation_holdout"
    ][:reasons]  # fmt: skip
    made = choose_split(rows, scheme)
    assert made.split.equals(split) and made.scheme == chosen
    said = made.reason.split("; not ")
    assert said[0] == "the first scheme that these rows allow (--split_scheme auto)" and len(said) == 1 + reasons
    named = choose_split(rows, SplitScheme(("label", "center"), chosen))
    assert (named.scheme, named.reason) == (chosen, "")


def test_where_no_scheme_is_possible_every_reason_is_given():
    rows = pd.DataFrame({"patient": ["p", "q"], "label": ["a", "b"], "center": ["x", "x"]})
    with pytest.raises(InputError, match="no split of this cohort is possible. combination_holdout: .*patient_kfold:"):
        assign_splits(rows, SplitScheme(("label", "center")))
