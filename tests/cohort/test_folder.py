"""The folder of a cohort: one process at a time, one preparation, and a list of what is left out."""

import os
from multiprocessing import get_context

import pandas as pd
import pytest

from medi_monai.cohort import load_or_prepare, prepare
from medi_monai.cohort.folder import claimed_folder, holds_cohort, write_rejected
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json
from medi_monai.utils.tables import read_table

SETTINGS = {"cutting": {"size": 64, "format": "png"}, "seed": 0}


def test_a_folder_holds_a_cohort_once_its_table_is_there(tmp_path):
    for name in ("cohort.csv", "cohort.parquet"):
        assert not holds_cohort(tmp_path / name[7:])
        (tmp_path / name[7:]).mkdir()
        assert not holds_cohort(tmp_path / name[7:])
        (tmp_path / name[7:] / name).touch()
        assert holds_cohort(tmp_path / name[7:])


def test_the_settings_are_written_first_and_may_be_claimed_again(tmp_path):
    for _ in range(2):
        with claimed_folder(tmp_path / "a" / "b", {"seed": 0, **SETTINGS}) as root:
            assert root == tmp_path / "a" / "b" and read_json(root / "preparation.json") == SETTINGS
        (root / "patches").mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 1}, r"\(seed: was 0, now 1\)"),
        ({"cutting": {"size": 32, "format": "png"}}, r"\(cutting.size: was 64, now 32\)"),
        ({"cutting": {"size": 32}, "seed": 2}, r"\(cutting.size: was 64, now 32; seed: was 0, now 2\)"),
        ({"splits": None, "new": 3}, r"\(new: was None, now 3\)"),
    ],
)
def test_other_settings_are_refused_with_what_changed(tmp_path, changed, says):
    with claimed_folder(tmp_path, SETTINGS):
        pass
    with pytest.raises(InputError, match=says), claimed_folder(tmp_path, SETTINGS | changed):
        raise AssertionError
    assert read_json(tmp_path / "preparation.json") == SETTINGS


def test_what_is_no_cohort_of_ours_is_left_as_it_was(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and does not contain a cohort"), claimed_folder(tmp_path, SETTINGS):
        raise AssertionError
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("kind", ["file", "pipe", "table is a pipe", "other files"])
def test_a_folder_for_no_cohort_is_refused_before_anything_is_read(tmp_path, kind):
    root = tmp_path / "cohort"
    if kind == "file":
        root.write_text("mine")
    elif kind == "pipe":
        os.mkfifo(root)
    else:
        root.mkdir()
        os.mkfifo(root / "cohort.csv") if "table" in kind else (root / "thesis.txt").write_text("mine")
    says = {"table is a pipe": "cohort.csv is a pipe", "other files": "is not empty and does not contain a cohort"}
    # reading anything of the preparation would be an AttributeError
    for read in (lambda: prepare(None, root), lambda: load_or_prepare(None, root)):
        with pytest.raises(InputError, match=says.get(kind, "is not a folder")):
            read()
    assert [path.name for path in tmp_path.rglob("*")][0] == "cohort" and len(list(tmp_path.rglob("*"))) < 3


def _follow(root, claimed, trace):
    claimed.wait(60)
    trace.put("begun")
    with claimed_folder(root, SETTINGS):
        trace.put("second")


def test_a_second_process_waits_for_the_first(tmp_path):
    context = get_context("fork")
    claimed, trace = context.Event(), context.SimpleQueue()
    other = context.Process(target=_follow, args=(tmp_path, claimed, trace), daemon=True)
    # begun before: a fork would share the lock
    other.start()
    with claimed_folder(tmp_path, SETTINGS):
        claimed.set()
        assert trace.get() == "begun"
        other.join(0.3)
        assert other.is_alive() and trace.empty()
    other.join(60)
    assert other.exitcode == 0 and trace.get() == "second"


def test_what_is_left_out_is_listed_with_its_reason(tmp_path):
    rows = pd.DataFrame({"image": ["a.png", "b.png", "NA"], "slide": ["A", "01", "NA"], "row": [0, 1, 2]})
    write_rejected(tmp_path, rows, pd.Series(["", "no tissue", "gone, or moved"]), [("c.png", "no row names it")])
    assert read_table(tmp_path / "rejected.csv").values.tolist() == [
        ["b.png", "01", "no tissue"],
        ["NA", "NA", "gone, or moved"],
        ["c.png", "", "no row names it"],
    ]
    write_rejected(tmp_path, rows, pd.Series(["", "", ""]), [])
    assert (tmp_path / "rejected.csv").read_text() == "image,slide,reason\n"
