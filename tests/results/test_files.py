import json
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from medi_monai.results import FORMAT, Figure, Finding, plain, read_results, read_schema, write_results
from medi_monai.results.files import SCHEMAS
from medi_monai.utils.errors import InputError


@dataclass(frozen=True)
class Two:
    share: Figure
    findings: tuple[Finding, ...]


def test_dataclasses_arrays_and_paths_become_json():
    content = plain(
        {"a": Two(Figure(0.5, (0.4, 0.6), 9), (Finding("note", "Fine."),)), 1: np.arange(2), "p": Path("x")}
    )
    assert content == json.loads(json.dumps(content))
    assert content["a"]["share"] == {"value": 0.5, "ci95": [0.4, 0.6], "n": 9}
    assert content["a"]["findings"] == [{"level": "note", "text": "Fine.", "figures": {}, "name": ""}]
    assert content["1"] == [0, 1] and content["p"] == "x"


def test_what_is_written_is_read_again(tmp_path):
    written = write_results(tmp_path / "x.json", Two(Figure(None, None, 0), ()))
    assert written == read_results(tmp_path / "x.json")
    assert list(written) == ["format", "share", "findings"]


@pytest.mark.parametrize("content", [{"format": FORMAT + 1}, {}, []])
def test_another_format_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"format {FORMAT}"):
        read_results(tmp_path / "x.json")


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(read_schema(name))


def test_an_unknown_schema_is_an_input_error():
    with pytest.raises(InputError, match="metrics"):
        read_schema("metric")
