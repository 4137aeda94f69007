import numpy as np
import pandas as pd
import pytest
from small_captions import write_captioned

from medi_monai.cohort import Cohort
from medi_monai.cohort.selection import build_schema, captioned_cohort, training_cohort
from medi_monai.schema import UNKNOWN
from medi_monai.utils.errors import InputError


def cohort_of(ages, splits="train"):
    rows = {"image": [f"{number}.png" for number in range(len(ages))], "age": ages, "project_id": "A"}
    return Cohort(pd.DataFrame(rows).assign(split=splits), "folder")


def test_an_age_that_is_no_number_drops_that_value_and_not_the_row(capsys):
    ages = ["40", "n/k", "", "61.5", "61,5", "x"]
    cohort = cohort_of(ages, ["train", "train", "train", "train", "train", "val"])
    training = training_cohort(cohort, "project_id", continuous=["age", "absent"])
    assert training.table["age"].tolist() == ["40", "", "", "61.5", ""]
    said = capsys.readouterr().out
    assert said == (
        "age: 2 training rows of folder without a number, as if the cell were empty; the first is 'n/k' in row 2 "
        "(1.png)\n"
    )
    schema = build_schema(training.table, "project_id", ["age"], ["age"])
    assert (schema.attributes[0].low, schema.attributes[0].high) == (40.0, 61.5)
    assert schema.encode(training.table)[:, 1].tolist() == [0.0, UNKNOWN, UNKNOWN, 1.0, UNKNOWN]
    # the rows of before, and of runs that take the column as words, stay as they were
    assert cohort.table["age"].tolist() == ages
    assert training_cohort(cohort, "project_id").table["age"].tolist() == ages[:-1]


def test_permuted_attributes_keep_their_numbers_in_each_label_and_say_nothing_of_the_image():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"image": [f"{number:03d}.png" for number in range(400)]}).assign(
        project_id=rng.choice(["A", "B"], 400), center=rng.choice(["n", "s", "w"], 400), split="train"
    )
    table["scanner"] = table["center"] + rng.choice(["1", "2"], 400)
    cohort = Cohort(table, "folder")
    permuted = training_cohort(cohort, "project_id", permuted=["center", "scanner"], seed=1).table
    columns = ["project_id", "center", "scanner"]
    assert permuted[columns].value_counts().to_dict() == table[columns].value_counts().to_dict()
    # attributes are moved together, and a third of the centers agree by chance
    assert (permuted["scanner"].str[0] == permuted["center"]).all() and permuted["image"].equals(table["image"])
    assert 0.25 < (permuted["center"] == table["center"]).mean() < 0.42
    again = training_cohort(Cohort(table.iloc[::-1], "folder"), "project_id", permuted=["center", "scanner"], seed=1)
    assert again.table.sort_values("image")["center"].tolist() == permuted["center"].tolist()
    other = training_cohort(cohort, "project_id", permuted=["center", "scanner"], seed=2).table
    assert not other["center"].equals(permuted["center"])
    with pytest.raises(InputError, match="age"):
        training_cohort(cohort, "project_id", permuted=["age"])


def test_a_column_without_any_number_is_refused_with_its_first_row():
    with pytest.raises(InputError, match=r"no value of 'age' .* is a number, the first is 'old' in row 2 \(1.png\)"):
        training_cohort(cohort_of(["", "old", "young"]), "project_id", continuous=["age"])


def test_captioned_rows_of_a_split(tmp_path):
    cohort = write_captioned(tmp_path)
    assert len(captioned_cohort(cohort)) == 14 and len(captioned_cohort(cohort, "val")) == 2
    with pytest.raises(InputError, match="no image in the split .holdout."):
        captioned_cohort(cohort, "holdout")
    with pytest.raises(InputError, match="caption"):
        captioned_cohort(Cohort(cohort.table.drop(columns="caption"), cohort.root))
