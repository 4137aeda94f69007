import json
import os
import unicodedata

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medi_monai.cohort import ImageTable
from medi_monai.cohort.tables import parse_mapping
from medi_monai.cohort.tables.files import scan_folder, walk_files
from medi_monai.cohort.tables.patterns import match_files
from medi_monai.cohort.tables.spelling import look_alike_notes, spelled_on_disk
from medi_monai.utils.errors import InputError

NFC, NFD = "Köln", unicodedata.normalize("NFD", "Köln")


def located(root, *paths):
    spelled, reasons = spelled_on_disk(pd.Series(paths, dtype="str"), root)
    return list(zip(spelled, reasons))


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def test_files_are_found_whatever_their_unicode_form_case_and_blanks(tmp_path):
    touch(tmp_path, f"{NFD}/Tile 1.PNG", "plain.png", "a\u200bb.png")
    assert located(tmp_path, f"{NFC}/tile 1.png", " plain.png ", "ab.png", f"{NFC.upper()}/tile  1.png") == [
        (f"{NFD}/Tile 1.PNG", ""),
        ("plain.png", ""),
        ("a\u200bb.png", ""),
        (f"{NFD}/Tile 1.PNG", ""),
    ]


def test_of_two_that_look_alike_none_is_taken(tmp_path):
    touch(tmp_path, "A.png", "a.PNG", "x/b.png", "X/B.png")
    (path, reason), (mine, none) = located(tmp_path, "a.png", "x/B.png")
    assert path == "a.png" and reason == "file not found; 2 files have names that look like it: 'A.png', 'a.PNG'"
    assert (mine, none) == ("x/b.png", "")  # the folder of that very name goes first


def test_identifiers_that_became_floats_are_named(tmp_path):
    touch(tmp_path, "tiles/1001.png")
    (_, reason), (_, other) = located(tmp_path, "tiles/1001.0.png", "tiles/1002.0.png")
    assert reason.startswith("file not found, but there is tiles/1001.png: an identifier of the table has become a num")
    assert other == "file not found"


def test_patterns_with_stars_match_alike_names_where_none_is_exact():
    files = [f"slides/u1/{NFD}.x.svs", "slides/u2/A.y.svs", "slides/u3/a.z.svs"]
    paths, problems = match_files(pd.Series([f"slides/*/{NFC}.*.svs", "slides/*/A.*.svs", "slides/*/B.*.svs"]), files)
    assert paths.tolist() == [files[0], files[1], "slides/*/B.*.svs"]
    assert problems.tolist() == ["", "", "no file matches slides/*/B.*.svs"]


def test_rows_name_files_as_the_disk_spells_them_and_twins_are_told(tmp_path, capsys):
    touch(tmp_path, f"{NFD}_0.png", "b.png")
    cells = {"image": [f"{NFC}_0.png", f"{NFD}_0.png", "b.png"], "slide": list("abc"), "patient": ["p", "q", "Q"]}
    pd.DataFrame({**cells, "tumor": ["LUAD", "luad", "LUAD"]}).to_csv(tmp_path / "t.csv", index=False)
    source = ImageTable(tmp_path, "t.csv", "tumor", unit="tiles")
    rows = source.rows()
    assert set(rows["image"]) == {f"{NFD}_0.png", "b.png"}
    assert sorted(rows["problem"]) == [
        "",
        *["several rows of the table name this image, with different slide, patient, tumor"] * 2,
    ]
    assert source.files_without_row(rows) == []
    out = capsys.readouterr().out
    assert "file names in 1 row differ from the disk" in out and "'K\\xf6ln_0.png' is 'Ko\\u0308ln_0.png'" in out
    assert 'tumor has values that look alike: "LUAD" and "luad". If they are the same, merge them' in out
    assert 'patient has values that look alike: "q" and "Q".' in out


def test_a_column_may_be_spelled_in_another_unicode_form(tmp_path):
    cells = {"image": ["a.png"], "slide": ["s"], "patient": ["p"], NFC: ["x"]}
    pd.DataFrame(cells).to_csv(tmp_path / "t.csv", index=False)
    rows = ImageTable(tmp_path, "t.csv", NFD, unit="tiles").rows(check_files=False)
    assert rows[NFD].tolist() == ["x"]


VALUES = st.lists(st.text("aAö\u0308 o0171\u200b", min_size=1, max_size=4).map(str.strip), min_size=1, max_size=12)


@given(VALUES)
def test_the_line_of_a_note_merges_what_looks_alike(values):
    column = pd.Series(values, name="center", dtype="str")
    notes = look_alike_notes({"center": column}, None)
    for note in notes:
        line = note.split("overlay: ")[1]
        mapping = yaml.safe_load(line)["mapping"]
        merged = parse_mapping(mapping)["center"].apply(pd.DataFrame({"center": column})).values
        assert look_alike_notes({"center": merged}, None) == []


def test_a_column_with_a_rule_gets_an_addition_to_it():
    (note,) = look_alike_notes({"center": pd.Series([NFC, NFC, NFD])}, {"center": {"column": "site"}})
    assert note.endswith('add to the rule of \'center\' in `mapping`: merge: {"Köln": ["Ko\\u0308ln"]}')
    assert json.loads('"Ko\\u0308ln"') == NFD


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
def test_names_that_are_not_utf_8_are_left_out_and_written_out(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / os.fsdecode(b"M\xfcller.png")).write_bytes(b"")
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    assert [entry.path for entry in scan_folder(tmp_path, "")] == ["M\\xfcller.png", "\\xff", "a.png"]
    reason = "its name is not UTF-8: rename it"
    assert walk_files(tmp_path) == (["a.png"], [("M\\xfcller.png", reason), ("\\xff", reason)])


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
def test_a_folder_whose_path_is_not_utf_8_is_refused_before_work(tmp_path):
    (tmp_path / os.fsdecode(b"M\xfcller")).mkdir()
    with pytest.raises(InputError, match=r"M\\xfcller: its path is not UTF-8; rename it"):
        ImageTable(tmp_path / os.fsdecode(b"M\xfcller"), "t.csv", "tumor").rows()
