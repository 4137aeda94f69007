import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medi_monai.results import FORMAT, Figure, Finding, plain, read_results, read_schema, write_results, write_run
from medi_monai.results.files import SCHEMAS
from medi_monai.results.typed import Result
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path
from medi_monai.utils.written import start_list


@dataclass(frozen=True)
class Two(Result):
    share: Figure
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Value(Result):
    value: int
    settings: Mapping[str, int]
    digests: Mapping[str, str]


def test_dataclasses_arrays_and_paths_become_json():
    content = plain(
        {"a": Two(Figure(0.5, (0.4, 0.6), 9), (Finding("note", "Fine."),)), 1: np.arange(2), "p": Path("x")}
    )
    assert content == json.loads(json.dumps(content))
    assert content["a"]["share"] == {"value": 0.5, "ci95": [0.4, 0.6], "n": 9}
    assert content["a"]["findings"] == [{"level": "note", "text": "Fine.", "figures": {}, "name": ""}]
    assert content["1"] == [0, 1] and content["p"] == "x"


def test_what_is_written_is_read_again(tmp_path):
    results = Two(Figure(None, None, 0), (Finding("ok", "Fine.", {"a": Figure(1.0)}),))
    written = write_results(tmp_path / "x.json", results)
    assert written == read_results(tmp_path / "x.json", Two) and written.share == results.share
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["format", "share", "findings"]
    with pytest.raises(InputError, match="x.json is not of the type Value"):
        read_results(tmp_path / "x.json", Value)


def test_figures_that_were_changed_since_are_not_believed(tmp_path):
    start_list(tmp_path)
    write_results(tmp_path / "x.json", Two(Figure(0.25), ()))
    assert read_results(tmp_path / "x.json", Two).share == Figure(0.25)
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace("0.25", "0.75"))
    with pytest.raises(InputError, match="x.json was changed after a run wrote it"):
        read_results(tmp_path / "x.json", Two)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [({"format": FORMAT + 1}, "update medi_monai"), ({}, "repeat the run"), ([], "repeat the run")],
)
def test_another_format_is_refused(tmp_path, content, remedy):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"format {FORMAT}: {remedy}"):
        read_results(tmp_path / "x.json", Two)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(read_schema(name))


def test_an_unknown_schema_is_an_input_error():
    with pytest.raises(InputError, match="metrics"):
        read_schema("metric")


def write_page(results, path):
    with atomic_path(path) as temporary:
        temporary.write_text(f"value {results.value}")


def test_a_run_leaves_its_files_and_moves_those_of_an_earlier_one(tmp_path, capsys):
    def write(value):
        return write_run(
            "evaluation",
            tmp_path,
            "metrics",
            Value(value, {"k": 1}, {}),
            {"metrics.csv": pd.DataFrame({"value": [value]}), "pairs.npz": {"a": np.full(2, value)}},
            write_page,
            {"images": 3},
            {"value": value},
        )

    write(1)
    results = write(2)
    assert results == read_results(tmp_path / "metrics.json", Value) and results.value == 2
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["figures"] == {"value": 2} and summary["made"] == {"images": 3} and summary["settings"] == {"k": 1}
    for folder, value in ((tmp_path, 2), (tmp_path / "earlier-1", 1)):
        assert pd.read_csv(folder / "metrics.csv")["value"].tolist() == [value]
        assert np.load(folder / "pairs.npz")["a"].tolist() == [value, value]
        assert (folder / "report.html").read_text() == f"value {value}"
    assert capsys.readouterr().out.splitlines()[-1].endswith("report.html")
