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
