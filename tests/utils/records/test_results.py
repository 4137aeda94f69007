import os

import pytest

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, write_json
from medi_monai.utils.records import RESULTS, check_results, check_unchanged, claim_results, was_changed
from medi_monai.utils.run_dir import begin_run, finish_run, set_aside
from medi_monai.utils.written import FILE_LIST

FILES = [
    (run, number, name) for run, folders in RESULTS.items() for number, names in enumerate(folders) for name in names
]


def content_of(folder):
    return {str(path): path.is_dir() or path.read_bytes() for path in folder.rglob("*")}


def write(path, text):
    """As runs write."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def finished(folder, run="auditing", **files):
    claim_results(folder, run)
    for name, text in files.items():
        write(folder / name.replace("__", "."), text)
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
    write(tmp_path / "audit.json", "half of a run")
    claim_results(tmp_path, "auditing")
    finish_run("auditing", tmp_path, {}, {}, {}, {}, tmp_path)
    check_results(tmp_path, "auditing")


def test_what_was_changed_since_is_the_users(tmp_path):
    finished(tmp_path, audit__json="{}", audit__html="page")
    check_results(tmp_path, "auditing")
    (tmp_path / "audit.html").write_text("page with my notes")
    with pytest.raises(InputError, match="audit.html was changed after a run wrote it"):
        check_results(tmp_path, "auditing")
    (tmp_path / "audit.html").unlink()
    check_results(tmp_path, "auditing")
    for text in ('{"mean": 3}', "no JSON"):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(InputError, match="summary.json was changed after a run wrote it"):
            begin_run(tmp_path, run="auditing")


def test_a_folder_of_an_earlier_version_is_known_by_its_summary(tmp_path):
    finished(tmp_path, audit__json="{}")
    (tmp_path / FILE_LIST).unlink()
    check_results(tmp_path, "auditing")
    claim_results(tmp_path, "auditing")
    (tmp_path / "audit.json").write_text("{1}")
    with pytest.raises(InputError, match="audit.json was changed"):
        check_results(tmp_path, "auditing")


def test_the_folder_of_a_model_of_an_earlier_version_is_known_by_its_record(tmp_path):
    for name in ("model.pt", "schema.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="model.pt was not written by medi_monai"):
        check_results(tmp_path, "training", 1)
    write_json(tmp_path / "model.json", {"objective": "v", "schema": ""})
    check_results(tmp_path, "training", 1)
    check_results(tmp_path, "aligning", 1)


def test_lines_of_the_list_that_are_damaged_name_no_file(tmp_path):
    finished(tmp_path, audit__json="{}")
    listed = (tmp_path / FILE_LIST).read_bytes()
    (tmp_path / FILE_LIST).write_bytes(b"\xff\n[1]\n" + listed[:-5])
    with pytest.raises(InputError, match="summary.json was not written by medi_monai"):
        check_results(tmp_path, "auditing")
    (tmp_path / "summary.json").unlink()
    # the line after one that was cut off is whole
    write(tmp_path / "summary.json", "{}")
    check_results(tmp_path, "auditing")


FOLDERS = [
    ("training", "samples", "step_00000100.png"),
    ("aligning", "samples", "before_and_after.png"),
    ("sampling", "images", "LUAD_Aspen/00000.png"),
    ("resampling", "images", "LUAD_Aspen/00000.png"),
    ("probing", "repeats", "01234567/main_0.json"),
    ("experiment", "stages", "training_medi.json"),
]


# a stage may have any name
@pytest.mark.parametrize(("run", "name", "inside"), FOLDERS[:-1])
def test_files_of_the_user_in_a_folder_of_results_stay(tmp_path, run, name, inside, capsys):
    claim_results(tmp_path, run)
    write(tmp_path / name / inside, "of the run")
    mine = {"grid.png": "a", "summary.json": "b", "000123.png": "c", "mine/notes.txt": "d", ".hidden": "e"}
    for path, text in mine.items():
        (tmp_path / name / path).parent.mkdir(exist_ok=True)
        (tmp_path / name / path).write_text(text)
    check_results(tmp_path, run)
    set_aside(tmp_path, [tmp_path / name])
    assert {path: (tmp_path / name / path).read_text() for path in mine} == mine
    assert (tmp_path / "earlier-1" / name / inside).read_text() == "of the run"
    assert len([path for path in (tmp_path / "earlier-1").rglob("*") if path.is_file()]) == 1
    assert not (tmp_path / name / inside).exists()
    said = capsys.readouterr().out
    assert "left in place what no run wrote" in said and all(str(tmp_path / name / path) in said for path in mine)


@pytest.mark.parametrize(("run", "name", "inside"), FOLDERS)
@pytest.mark.parametrize("how", ["mine", "changed", "a link"])
def test_a_file_of_the_user_in_the_place_of_one_of_ours_is_refused(tmp_path, run, name, inside, how):
    claim_results(tmp_path, run)
    path = tmp_path / name / inside
    if how == "changed":
        write(path, "of the run")
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "a link":
        os.symlink(tmp_path / "nowhere", path)
    else:
        path.write_text("mine")
    says = {"mine": "was not written by", "changed": "was changed after a run", "a link": "is a symbolic link"}[how]
    before = content_of(tmp_path) if how != "a link" else None
    with pytest.raises(InputError, match=f"{inside} {says}.*{run} would take its place.*choose another folder"):
        begin_run(tmp_path, run=run)
    assert before is None or content_of(tmp_path) == before


def test_the_folder_of_the_data_is_refused_also_through_a_link(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    os.symlink(data, tmp_path / "link")
    for folder in (data, tmp_path / "link", tmp_path / "data" / ".." / "data"):
        with pytest.raises(InputError, match="is the folder of the data"):
            begin_run(folder, run="sampling", data=data)
    assert os.listdir(data) == []
    begin_run(tmp_path / "results", run="sampling", data=data)


def test_within_the_data_a_folder_has_to_be_new_empty_or_of_runs(tmp_path):
    data = tmp_path / "data"
    (data / "slides").mkdir(parents=True)
    (data / "slides" / "a.svs").touch()
    (data / "empty").mkdir()
    os.symlink(data / "slides", tmp_path / "link")
    for folder in (data / "slides", tmp_path / "link", data / "empty" / ".." / "slides"):
        with pytest.raises(InputError, match="lies within the folder of the data, .*holds files that no run wrote"):
            begin_run(folder, run="training", data=data)
    for folder in (data / "new", data / "empty", data / "slides" / "new"):
        begin_run(folder, run="auditing", data=data)
        finished(folder, audit__json="{}")
        begin_run(folder, run="auditing", data=data)
    assert sorted(os.listdir(data / "slides")) == ["a.svs", "new"]


@pytest.mark.parametrize("table", ["cohort.csv", "cohort.parquet"])
def test_within_a_cohort_a_folder_is_not_among_its_files(tmp_path, table):
    (tmp_path / "patches").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / table).touch()
    for inner in ("patches", "patches/new", "features/mine"):
        with pytest.raises(InputError, match="lies among the files of the cohort"):
            begin_run(tmp_path / inner, run="evaluation")
    with pytest.raises(InputError, match="holds files that no run wrote"):
        begin_run(tmp_path / "notes", run="evaluation")
    begin_run(tmp_path / "evaluation", run="evaluation")


@pytest.mark.parametrize("model", ["samples", "samples/models"])
def test_the_folder_of_a_model_is_not_within_the_results_beside_it(tmp_path, model):
    with pytest.raises(InputError, match="lies within .*samples, which training writes and moves"):
        begin_run(tmp_path, tmp_path / model, run="training")
    assert os.listdir(tmp_path) == []
    begin_run(tmp_path, tmp_path, run="training")
    begin_run(tmp_path, tmp_path / "models", run="training")


def test_a_link_to_a_folder_on_another_disk_is_a_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "results")
    begin_run(tmp_path / "results", run="auditing")
    finished(tmp_path / "results", audit__json="{}")
    assert (tmp_path / "disk" / "audit.json").is_file() and (tmp_path / "results").is_symlink()
    set_aside(tmp_path / "results", [tmp_path / "results" / "audit.json"])
    assert (tmp_path / "disk" / "earlier-1" / "audit.json").is_file()
    os.symlink(tmp_path / "gone", tmp_path / "dangling")
    with pytest.raises(InputError, match="dangling.*Choose another folder"):
        begin_run(tmp_path / "dangling", run="auditing")


@pytest.mark.parametrize("table", ["cohort.csv", "cohort.parquet"])
def test_a_cohort_is_no_folder_for_other_results(tmp_path, table):
    (tmp_path / table).touch()
    with pytest.raises(InputError, match="holds a cohort, and evaluation would write among its files"):
        begin_run(tmp_path, run="evaluation")
    with pytest.raises(InputError, match=f"{table} was not written by medi_monai"):
        begin_run(tmp_path, run="preparing")


def test_a_folder_of_a_run_may_hold_a_text_model_before_its_own_run_begins(tmp_path):
    claim_results(tmp_path, "experiment")
    write_json(tmp_path / "models" / "clip" / "pairs.json", {})
    check_results(tmp_path / "models", "training", 1)
    with pytest.raises(InputError, match="lies within the results of another run"):
        write_json(tmp_path / "stages" / "training.json", {})
        check_results(tmp_path / "stages", "training", 1)


def test_a_folder_within_the_results_of_another_run_is_refused(tmp_path):
    outer = tmp_path / "sampling"
    finished(outer, "sampling")
    (outer / "images").mkdir()
    (outer / "earlier-1").mkdir()
    for inner in ("images/mine", "images", "earlier-1", "earlier-1/images/deep"):
        with pytest.raises(InputError, match="lies within the results of another run"):
            begin_run(outer / inner, run="evaluation")
    begin_run(outer / "evaluation", run="evaluation")


def test_a_record_that_was_changed_since_is_not_believed(tmp_path):
    path = tmp_path / "sampling.json"
    for folder_is_listed in (False, True):
        if folder_is_listed:
            path.unlink()
            claim_results(tmp_path, "sampling")
        write(path, '{"seed": 0}')
        assert not was_changed(path)
        path.write_text('{"seed": 1}')
        assert was_changed(path) == folder_is_listed
    with pytest.raises(InputError, match="sampling.json was changed after a run wrote it.*restore it, or repeat"):
        check_unchanged(path)
    write(path, '{"seed": 0}')
    for other in (path, tmp_path / "notes.json", tmp_path / "gone" / "x.json"):
        check_unchanged(other)
