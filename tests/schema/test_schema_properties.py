"""Properties of schemas over generated tables: codes, files and digests give back what was put in."""

import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medi_monai.schema import NULL, MetadataSchema, is_missing
from medi_monai.utils.errors import InputError

CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.floats(-1e6, 1e6).map(lambda number: repr(round(number, 3)))
ROWS = st.lists(st.tuples(CELLS, CELLS, NUMBERS), min_size=2, max_size=12)


def schema_of(rows):
    table = pd.DataFrame(rows, columns=["label", "site", "age"], dtype="str")
    if all(map(is_missing, table["label"])) or len(set(map(float, table["age"]))) < 2:
        return table, None
    return table, MetadataSchema.from_table(table, "label", ["site", "age"], continuous=["age"])


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_what_is_encoded_is_decoded(rows):
    table, schema = schema_of(rows)
    if schema is None:
        with pytest.raises(InputError):
            MetadataSchema.from_table(table, "label", ["site", "age"], continuous=["age"])
        return
    decoded = schema.decode(schema.encode(table))
    for name in ("label", "site"):
        assert decoded[name].tolist() == ["" if is_missing(value) else value for value in table[name]]
    low, high = table["age"].astype(float).agg(["min", "max"])
    gaps = decoded["age"].astype(float) - table["age"].astype(float)
    # codes are float32
    assert gaps.abs().max() <= 1e-6 * (high - low)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_a_file_change_nothing(rows, random):
    _, schema = schema_of(rows)
    if schema is None:
        return
    shuffled = random.sample(rows, len(rows))
    assert schema_of(shuffled)[1] == schema
    with tempfile.TemporaryDirectory() as folder:
        schema.save(Path(folder) / "schema.json")
        loaded = MetadataSchema.load(Path(folder) / "schema.json")
    assert loaded == schema and loaded.digest == schema.digest


@settings(max_examples=40, deadline=None)
@given(ROWS, CELLS)
def test_a_value_that_is_new_is_refused_or_unknown_and_never_another(rows, value):
    table, schema = schema_of(rows)
    if schema is None or value in set(table["site"]) or is_missing(value):
        return
    new = pd.DataFrame({"label": [table["label"].iloc[0]], "site": [value], "age": table["age"].iloc[:1]})
    with pytest.raises(InputError, match="site"):
        schema.encode(new)
    assert schema.encode(new, unseen="unknown")[0, 1] == -1
    assert torch.equal(schema.encode(new.drop(columns="site"), absent="null")[0, 1], torch.tensor(float(NULL)))
