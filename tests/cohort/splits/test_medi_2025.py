import pandas as pd
import pytest

from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.utils.errors import InputError

COLUMNS = ("project", "site", "gender", "race")


def table_of(*rows):
    table = pd.DataFrame([row.split("/") for row in rows], columns=COLUMNS)
    return table.assign(patient=[f"p{number}" for number in range(len(table))])


def published_rule(rows):
    """The rule slide by slide, with keys spelled ``TSS_gender_race``."""
    keys = {}
    for row in rows.itertuples():
        key = f"{row.site}_{row.gender}_{row.race}"
        of_project = keys.setdefault(row.project, [])
        if key not in of_project:
            of_project.append(key)
    sides = []
    for row in rows.itertuples():
        own = keys[row.project]
        rank = own.index(f"{row.site}_{row.gender}_{row.race}")
        sides.append("train" if rank < int(0.7 * len(own)) else "holdout")
    both = {
        site
        for site in rows["site"]
        if {side for s, side in zip(rows["site"], sides) if s == site} == {"train", "holdout"}
    }
    return ["holdout" if site in both else side for site, side in zip(rows["site"], sides)]


@pytest.mark.parametrize("seed", range(20))
def test_random_tables_are_split_as_slide_by_slide(random_table, seed):
    rows = random_table(seed, missing=0.1, patients=80).rename(columns={"label": "project"})
    rows["gender"] = rows["slide"].str[2].map(lambda digit: "fm"[int(digit) % 2])
    rows["site"] = rows["project"] + rows["center"] + rows["patient"].str[-1].map(lambda digit: str(int(digit) // 3))
    split = assign_splits(rows, SplitScheme(COLUMNS, "medi_2025"))
    assert split.tolist() == published_rule(rows)
    assert not set(rows.loc[split == "train", "site"]) & set(rows.loc[split == "holdout", "site"])


def test_the_first_keys_in_file_order_train():
    rows = table_of("A/1/f/w", "A/2/f/w", "A/3/f/w", "A/1/f/w", "A/4/f/w")
    split = assign_splits(rows, SplitScheme(COLUMNS, "medi_2025"))
    # int(0.7 * 4) keys: rounding would give three
    assert split.tolist() == ["train", "train", "holdout", "train", "holdout"]


def test_a_site_on_both_sides_moves_to_the_holdout_in_every_project():
    rows = table_of("A/1/f/w", "A/2/f/w", "A/3/f/w", "A/1/f/b", "B/9/f/w", "B/1/f/w", "B/5/f/w", "B/6/f/w")
    split = assign_splits(rows, SplitScheme(COLUMNS, "medi_2025"))
    assert split.tolist() == ["holdout", "train", "holdout", "holdout", "train", "holdout", "holdout", "holdout"]


def test_a_column_of_places_is_the_file_order():
    rows = table_of(*(f"A/{number}/f/w" for number in range(10)))
    scheme = SplitScheme(COLUMNS, "medi_2025")
    assert assign_splits(rows, scheme).tolist() == ["train"] * 7 + ["holdout"] * 3
    assert assign_splits(rows.iloc[::-1], scheme).tolist() == ["train"] * 7 + ["holdout"] * 3
    numbered = rows.assign(row=[str(number) for number in range(10)])
    assert assign_splits(numbered.iloc[::-1], scheme).tolist() == ["holdout"] * 3 + ["train"] * 7
    for wrong in ("", "one", "1.5"):
        with pytest.raises(InputError, match=f"row '{wrong}' of the table to split.*whole numbers"):
            assign_splits(numbered.assign(row=[wrong, *numbered["row"][1:]]), scheme)


def test_a_missing_value_counts_as_a_value():
    rows = table_of("A/1/f/", "A/2/f/w", "A/3/f/w", "A//f/w")
    assert assign_splits(rows, SplitScheme(COLUMNS, "medi_2025")).tolist() == ["train", "train", "holdout", "holdout"]


def test_a_patient_at_two_sites_does_not_train_for_one_and_test_for_the_other():
    rows = table_of("A/1/f/w", "A/2/f/w", "A/3/f/w", "A/4/f/w").assign(patient=["p", "q", "p", "r"])
    split = assign_splits(rows, SplitScheme(COLUMNS, "medi_2025"))
    assert split.tolist() == ["excluded", "train", "holdout", "holdout"]


def test_classes_that_the_rule_leaves_without_training_are_named():
    rows = table_of("A/1/f/w", "A/2/f/w", "A/3/f/w", "B/4/f/w")
    with pytest.raises(InputError, match=r"no training rows of 'B' \(1 site\)\. It is meant for site codes"):
        assign_splits(rows, SplitScheme(COLUMNS, "medi_2025"))


def test_validation_is_taken_from_training_only_where_it_is_asked_for():
    rows = table_of(*(f"A/{number // 5}/f/w" for number in range(50)))
    published = assign_splits(rows, SplitScheme(COLUMNS, "medi_2025"))
    assert set(published) == {"train", "holdout"}
    asked = assign_splits(rows, SplitScheme(COLUMNS, "medi_2025", val_fraction=0.2))
    assert (asked == "val").sum() == 7 and asked.replace("val", "train").equals(published)
