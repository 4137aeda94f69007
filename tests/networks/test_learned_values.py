import shutil

import pandas as pd
import pytest
import torch

from medi_monai.networks.learned_values import LearnedValue, load_values, save_value, value_path, values_for_weights
from medi_monai.schema import CategoricalColumn, MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import load_tensors, save_tensors
from medi_monai.utils.records import claim_results

SCHEMA = MetadataSchema(CategoricalColumn("label", ("A", "B")), (CategoricalColumn("center", ("Ash", "Birch")),))
PLAN = pd.DataFrame({"label": ["A"], "center": ["Yew"], "count": [1]})


def value(name="Yew", **changed):
    given = {"schema": SCHEMA.digest, "weights": "1" * 64, "origin": {"patches": 40}}
    return LearnedValue("center", name, torch.arange(4.0), **{**given, **changed})


def test_a_value_is_read_as_it_was_written(tmp_path):
    claim_results(tmp_path, "adapting", 1)
    paths = [save_value(tmp_path, value(name)) for name in ("Yew", "St. Mary's / 2", "yew")]
    assert len(set(paths)) == 3 and all(path.parent == tmp_path / "values" for path in paths)
    read = {learned.value: learned for learned in load_values(tmp_path, SCHEMA)}
    assert set(read) == {"Yew", "St. Mary's / 2", "yew"}
    assert torch.equal(read["Yew"].embedding, torch.arange(4.0)) and read["Yew"].origin == {"patches": 40}
    assert read["Yew"].source == value().source != value(weights="2" * 64, name="Oak").weights


def test_no_folder_is_no_value(tmp_path):
    assert load_values(tmp_path, SCHEMA) == ()


def test_values_of_another_schema_are_left_out_and_of_other_weights_only_if_not_named(tmp_path):
    save_value(tmp_path, value())
    other = MetadataSchema(SCHEMA.label, (CategoricalColumn("center", ("Ash", "Oak")),))
    assert load_values(tmp_path, other) == ()
    values = load_values(tmp_path, SCHEMA)
    assert values_for_weights(values, "1" * 64, PLAN) == values
    assert values_for_weights(values, "2" * 64, PLAN.assign(center="Ash")) == ()
    with pytest.raises(InputError, match="'Yew' was learned for other weights"):
        values_for_weights(values, "2" * 64, PLAN)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"embedding": torch.arange(4.0) + 1}, "does not fit the digest"),
        ({"embedding": torch.tensor([0.0, float("nan"), 0.0, 0.0])}, "not finite"),
        ({"value": "Oak"}, "does not fit the digest"),
        ({"origin": {"patches": 4000}}, "does not fit the digest"),
        ({"format": 2}, "update medi_monai"),
        ({"embedding": "x"}, "does not hold the weights"),
        ({"more": 1}, "not a learned value"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    path = save_value(tmp_path, value())
    save_tensors(path, {**load_tensors(path), **change})
    with pytest.raises(InputError, match=message):
        load_values(tmp_path, SCHEMA)


def test_a_file_that_was_cut_or_exchanged_is_refused(tmp_path):
    claim_results(tmp_path, "adapting", 1)
    path = save_value(tmp_path, value())
    other = save_value(tmp_path / "other", value(origin={}))
    shutil.copy(other, path)
    with pytest.raises(InputError, match="was changed after a run wrote it"):
        load_values(tmp_path, SCHEMA)
    assert value_path(tmp_path, "center", "Yew") == path
