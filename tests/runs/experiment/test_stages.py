"""Stages of an experiment: what is done once, what another table or another slide changes, and what it took."""

import os
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import medi_monai.runs.experiment.stages as stages
from medi_monai.runs.experiment.metadata import metadata_stages
from medi_monai.runs.experiment.resolved import resolve_stages
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import read_json

BUNDLE = Path(__file__).parents[3] / "bundles" / "pathology_medi_diffusion"
TILES = {"image": "{image}", "slide": "slide", "patient": "patient", "mpp": None}


@pytest.fixture
def data(tmp_path):
    """A table of three tiles; what is in the files does not matter here."""
    folder = tmp_path / "data"
    folder.mkdir()
    names = [f"{letter}.png" for letter in "abc"]
    for name in names:
        (folder / name).write_bytes(name.encode() * 100)
    table = pd.DataFrame({"image": names, "slide": names, "patient": names, "project_id": "T", "center": "Elm"})
    table.to_csv(folder / "tiles.csv", index=False)
    return folder


@pytest.fixture
def prepared(tmp_path, data, monkeypatch):
    """Runs the stage `preparing`, which writes its last file and does nothing; returns how often it was started."""
    started = []
    code = SimpleNamespace(value=0)
    output = tmp_path / "output"
    options = {
        "dataset_dir": str(data), "table": "tiles.csv", "columns": TILES, "unit": "tiles", "label": "project_id",
        "metadata_columns": ["center"],
    }  # fmt: skip
    stage = metadata_stages(output, 1.0)[0]

    def start(arguments, threads, log, idle, processes):
        started.append(arguments)
        if not code.value:
            stage.result.parent.mkdir(parents=True, exist_ok=True)
            stage.result.write_text("{}")
        return SimpleNamespace(join=lambda: None, exitcode=code.value)

    monkeypatch.setattr(stages, "start_bundle", start)

    def prepare(**changed):
        (resolved,) = resolve_stages(BUNDLE, output, [stage], {**options, **changed}, {})
        run = stages.StageRun(BUNDLE, output, resolved)
        if not run.done():
            run.start()
            run.end()
        return len(started)

    prepare.code, prepare.record = code, output / "stages" / "preparing.json"
    return prepare


def test_a_stage_is_done_once_and_again_with_other_options(prepared):
    assert [prepared(), prepared(), prepared(image_size=16), prepared(image_size=16)] == [1, 1, 2, 2]


def other_row(data):
    table = pd.read_csv(data / "tiles.csv")
    table.assign(center=["Elm", "Elm", "Oak"]).to_csv(data / "tiles.csv", index=False)


def other_pixels(data):
    # as many bytes as before
    (data / "b.png").write_bytes(b"B.png" * 100)


def no_file(data):
    (data / "c.png").unlink()


@pytest.mark.parametrize("change", [other_row, other_pixels, no_file])
def test_another_table_or_file_under_the_same_name_does_not_go_unnoticed(prepared, data, change):
    prepared()
    change(data)
    with pytest.raises(InputError, match="have changed since .* was created; choose another --output_dir"):
        prepared()


def test_patches_count_by_their_content_as_well(prepared, data):
    assert [prepared(unit="patches"), prepared(unit="patches")] == [1, 1]
    other_pixels(data)
    with pytest.raises(InputError, match="have changed since"):
        prepared(unit="patches")


def test_a_file_that_was_touched_is_the_same(prepared, data):
    prepared()
    os.utime(data / "a.png", (1, 1))
    assert prepared() == 1


def test_what_is_done_stands_where_the_data_set_is_not_here(prepared, data, capsys):
    prepared()
    data.rename(data.with_name("elsewhere"))
    assert prepared() == 1 and "is not available, and assumed unchanged" in capsys.readouterr().out


def test_images_may_change_until_the_stage_is_done(prepared, data):
    prepared.code.value = 1
    with pytest.raises(RunStopped, match="ended with 1"):
        prepared()
    other_pixels(data)
    prepared.code.value = 0
    assert [prepared(), prepared()] == [2, 2]


def test_the_time_of_an_interrupted_stage_counts_and_a_rerun_keeps_it(prepared, monkeypatch):
    clock = iter([0.0, 10.0, 100.0, 105.0])
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    prepared.code.value = 1
    with pytest.raises(RunStopped):
        prepared()
    prepared.code.value = 0
    prepared()
    prepared()
    assert read_json(prepared.record)["seconds"] == 15.0
