import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medi_monai.cohort.plans import TrainingCounts
from medi_monai.results.training import TrainingRecord

COLUMNS = ["tumor", "center", "sex"]
ROWS = st.lists(st.tuples(*(st.sampled_from(values) for values in ("ABC", "XY", ["f", "m", ""]))), min_size=1)


def counted(table, row, columns):
    return int(np.all([table[name] == row[name] for name in columns], axis=0).sum())


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_evidence_equals_a_count_of_the_training_rows(rows):
    table = pd.DataFrame(rows, columns=COLUMNS, dtype="str")
    counts = TrainingCounts(TrainingRecord.of(table, COLUMNS, ""))
    plan = pd.DataFrame(list(itertools.product("ABC", "XYZ", ["f", "m", ""])), columns=COLUMNS).assign(count=2)
    for row, evidence in zip(plan.to_dict("records"), counts.of(plan).to_dict("records")):
        values = [counted(table, row, [name]) for name in COLUMNS]
        pairs = [counted(table, row, pair) for pair in itertools.combinations(COLUMNS, 2)]
        whole = counted(table, row, COLUMNS)
        expected = "combination" if whole else "pairs" if all(pairs) else "values" if all(values) else "no"
        assert evidence == {"seen": expected, "training_patches": whole, "rarest_value_patches": min(values)}
    assert counts.lacking("sex") == int((table["sex"] == "").sum()) and counts.lacking("age") is None


@pytest.mark.parametrize("left", [[], ["sex"], ["tumor", "sex"], COLUMNS])
def test_columns_that_the_model_chooses_do_not_count(left):
    table = pd.DataFrame([("A", "X", "f"), ("A", "X", "m"), ("B", "Y", "f")], columns=COLUMNS)
    counts = TrainingCounts(TrainingRecord.of(table, COLUMNS, ""))
    plan = pd.DataFrame({"tumor": ["B"], "center": ["X"], "sex": ["f"], "age": ["40..60"], "count": [1]})
    for way in (plan.drop(columns=left), plan.assign(**dict.fromkeys(left))):
        evidence = counts.of(way).to_dict("records")[0]
        expected = {0: ("values", 0, 1), 1: ("values", 0, 1), 2: ("combination", 2, 2), 3: ("combination", 3, 3)}
        assert tuple(evidence.values()) == expected[len(left)]


def test_a_mixture_is_as_rare_as_the_rarest_of_its_values():
    table = pd.DataFrame([("A", "X", "f")] * 3 + [("B", "Y", "f")], columns=COLUMNS)
    counts = TrainingCounts(TrainingRecord.of(table, COLUMNS, ""))
    plan = pd.DataFrame([("A", "X:50+Y:50", "f"), ("A", "X:50+Z:50", "f"), ("A", "X", "f")], columns=COLUMNS)
    mixtures = {("center", "X:50+Y:50"): ["X", "Y"], ("center", "X:50+Z:50"): ["X", "Z"]}
    evidence = counts.of(plan, mixtures)
    assert evidence.to_numpy().tolist() == [["values", 0, 1], ["no", 0, 0], ["combination", 3, 3]]
