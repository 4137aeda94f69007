import json

import pytest

from medi_monai.results import plain, typed
from medi_monai.results.training import TrainingRecord
from medi_monai.utils.errors import InputError

COLUMNS = ["project_id", "center"]


def test_a_record_counts_the_combinations_of_the_training_rows_and_survives_json(tiny_cohort):
    record = TrainingRecord.of(tiny_cohort.split("train").table, [*COLUMNS, "center"], "digest")
    expected = {}
    for row in tiny_cohort.table.to_dict("records"):
        if row["split"] == "train":
            key = row["project_id"], row["center"]
            expected[key] = expected.get(key, 0) + 1
    assert dict(record.combinations) == expected and record.columns == tuple(COLUMNS)
    assert ("A", "South") not in expected and len(expected) == 8
    assert typed(TrainingRecord, json.loads(json.dumps(plain(record)))) == record
    assert record.of_columns(["center", "project_id"]) == {(center, label) for label, center in expected}
    assert record.of_columns(["center"]) == {("NA",), ("North",), ("South",)}
    assert record.of_columns(["project_id", "race"]) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"cohort": "", "columns": ["a"], "combinations": [[["x", "y"], 1]]},
        {"cohort": "", "columns": ["a"], "combinations": [[["x"], "many"]]},
    ],
)
def test_a_damaged_record_is_named(content):
    with pytest.raises(InputError, match=r"trained_on in sampling.json is not of the type TrainingRecord"):
        typed(TrainingRecord, content, "trained_on in sampling.json")
