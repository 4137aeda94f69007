import json
import os

import pytest

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_json
from medi_monai.utils.records import MARKER, RESULTS, check_results, claim_results
from medi_monai.utils.run_dir import begin_run, finish_run

FILES = [
    (run, number, name) for run, folders in RESULTS.items() for number, names in enumerate(folders) for name in names
]


def content_of(folder):
    return {str(path): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


def finished(folder, run="auditing", **files):
    claim_results(folder, run)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    finish_run(run, folder, {}, {}, {}, {}, folder)


@pytest.mark.parametrize(("run", "number", "name"), FILES)
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_what_no_run_wrote_is_refused_before_anything_is_written(tmp_path, run, number, name, kind):
    folder = tmp_path / "results"
    folder.mkdir()
    (tmp_path / "mine").mkdir()
    if kind == "file":
        (folder / name).write_text('{"mean": 3}')
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        os.symlink(tmp_path / ("mine" if kind == "link" else "nowhere"), folder / name)
    before = content_of(tmp_path) if "link" not in kind else None
    folders = [folder] if number == 0 else [tmp_path / "output", folder]
    says = "symbolic link" if "link" in kind else "was not written by medi_monai"
    with pytest.raises(InputError, match=f"{name} .*{says}.*choose another folder"):
        begin_run(*folders, run=run)
    assert os.listdir(folder) == [name] and not (tmp_path / "output").exists()
    assert before is None or content_of(tmp_path) == before


def test_a_run_goes_on_in_its_own_folder(tmp_path):
    check_results(tmp_path, "auditing")
    assert os.listdir(tmp_path) == []
    claim_results(tmp_path, "auditing")
    # stopped before its summary
    (tmp_path / "audit.json").write_text("half of a run")
    claim_results(tmp_path, "auditing")
    finish_run("auditing", tmp_path, {}, {}, {}, {}, tmp_path)
    check_results(tmp_path, "auditing")


def test_what_was_changed_since_is_the_users(tmp_path):
    finished(tmp_path, audit__json="{}", audit__html="page")
    check_results(tmp_path, "auditing")
    (tmp_path / "audit.html").write_text("page with my notes")
    with pytest.raises(InputError, match="audit.html was changed after auditing wrote it"):
        check_results(tmp_path, "auditing")
    (tmp_path / "audit.html").unlink()
    check_results(tmp_path, "auditing")
    (tmp_path / "summary.json").write_text('{"mean": 3}')
    with pytest.raises(InputError, match="summary.json was not written by medi_monai"):
        check_results(tmp_path, "auditing")
    (tmp_path / "summary.json").write_text("no JSON")
    with pytest.raises(InputError, match="summary.json was not written by medi_monai"):
        begin_run(tmp_path, run="auditing")


def test_a_folder_of_an_earlier_version_is_known_by_its_summary(tmp_path):
    finished(tmp_path, audit__json="{}")
    summary = json.loads((tmp_path / "summary.json").read_text())
    del summary["files"]
    write_json(tmp_path / "summary.json", summary)
    (tmp_path / MARKER).unlink()
    check_results(tmp_path, "auditing")


def test_the_folder_of_a_model_of_an_earlier_version_is_known_by_its_record(tmp_path):
    for name in ("model.pt", "schema.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="model.pt was not written by medi_monai"):
        check_results(tmp_path, "training", 1)
    write_json(tmp_path / "model.json", {"objective": "v", "schema": ""})
    check_results(tmp_path, "training", 1)
    check_results(tmp_path, "aligning", 1)


def test_a_damaged_marker_is_named(tmp_path):
    claim_results(tmp_path, "auditing")
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(InputError, match=MARKER):
        check_results(tmp_path, "auditing")


def test_the_folder_of_the_data_is_refused_also_through_a_link(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    os.symlink(data, tmp_path / "link")
    for folder in (data, tmp_path / "link", tmp_path / "data" / ".." / "data"):
        with pytest.raises(InputError, match="is the folder of the data"):
            begin_run(folder, run="sampling", data=data)
    assert os.listdir(data) == []
    begin_run(tmp_path / "results", run="sampling", data=data)


@pytest.mark.parametrize("table", ["cohort.csv", "cohort.parquet"])
def test_a_cohort_is_no_folder_for_other_results(tmp_path, table):
    (tmp_path / table).touch()
    with pytest.raises(InputError, match="holds a cohort, and evaluation would write among its files"):
        begin_run(tmp_path, run="evaluation")
    begin_run(tmp_path, run="preparing")


def test_a_folder_within_the_results_of_another_run_is_refused(tmp_path):
    outer = tmp_path / "sampling"
    finished(outer, "sampling")
    (outer / "images").mkdir()
    (outer / "earlier-1").mkdir()
    for inner in ("images/mine", "images", "earlier-1", "earlier-1/images/deep"):
        with pytest.raises(InputError, match="lies within the results of another run"):
            begin_run(outer / inner, run="evaluation")
    begin_run(outer / "evaluation", run="evaluation")
