import datetime

import openpyxl
import pytest

from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table


def workbook(path, rows, title="Slides", change=lambda sheet: None, **more):
    book = openpyxl.Workbook()
    book.active.title = title
    for name, content in {title: rows, **more}.items():
        sheet = book[name] if name == title else book.create_sheet(name)
        for row in content:
            sheet.append(row)
    change(book.active)
    book.save(path)
    return path


def test_cells_are_text_as_a_sheet_shows_them(tmp_path):
    def padded(sheet):
        sheet["A2"].number_format = sheet["A3"].number_format = "000"

    day = datetime.datetime(2020, 1, 31)
    rows = [["patient", "center", "mpp", "age", "day"], [7, "Köln", 0.25, 61.0, day], [12, None, "0.5", None, "NA"]]
    path = workbook(tmp_path / "a.xlsx", [[], *rows, [None] * 8], change=lambda sheet: None)
    assert read_table(path).to_dict("list") == {
        "patient": ["7", "12"],
        "center": ["Köln", ""],
        "mpp": ["0.25", "0.5"],
        "age": ["61", ""],
        "day": ["2020-01-31", "NA"],
    }
    path = workbook(tmp_path / "b.xlsx", rows, change=padded)
    assert read_table(path)["patient"].tolist() == ["007", "012"]


def test_what_a_file_is_its_bytes_say(tmp_path):
    path = workbook(tmp_path / "a.xlsx", [["image"], ["a.png"]])
    assert read_table(path.rename(tmp_path / "a.csv")).to_dict("list") == {"image": ["a.png"]}


def test_of_several_sheets_one_is_named(tmp_path):
    sheets = {"Notes": [["x"], ["y"]], "Empty": []}
    path = workbook(tmp_path / "a.xlsx", [["image"], ["a.png"]], **sheets)
    with pytest.raises(InputError, match="several sheets, 'Slides', 'Notes': choose one.*sheet: Slides}"):
        read_table(path)
    assert read_table(path, sheet="Notes").to_dict("list") == {"x": ["y"]}
    with pytest.raises(InputError, match="unknown sheet 'slides': did you mean 'Slides'"):
        read_table(path, sheet="slides")
    (tmp_path / "a.csv").write_text("image\na\n")
    with pytest.raises(InputError, match="not an Excel file, so it has no `sheet`"):
        read_table(tmp_path / "a.csv", sheet="Notes")


def test_merged_cells_and_formulas_without_a_result_are_refused(tmp_path):
    rows = [["image", "center"], ["a.png", "Köln"], ["b.png", None]]
    path = workbook(tmp_path / "a.xlsx", rows, change=lambda sheet: sheet.merge_cells("B2:B3"))
    with pytest.raises(InputError, match="the cells B2:B3 are merged.*unmerge them"):
        read_table(path)
    path = workbook(tmp_path / "b.xlsx", [["image", "age"], ["a.png", "=2020-1950"]])
    with pytest.raises(InputError, match="the cell B2 holds a formula without its result"):
        read_table(path)


def test_a_header_that_occurs_twice_and_a_sheet_without_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"'site' more than once \(columns 1 and 2\)"):
        read_table(workbook(tmp_path / "a.xlsx", [["site", "site "], [1, 2]]))
    with pytest.raises(InputError, match="header but no rows"):
        read_table(workbook(tmp_path / "b.xlsx", [["site"]]))
    with pytest.raises(InputError, match="is empty"):
        read_table(workbook(tmp_path / "c.xlsx", []))


def test_without_openpyxl_the_first_words_say_what_the_file_is(tmp_path, monkeypatch):
    path = workbook(tmp_path / "a.xlsx", [["image"], ["a.png"]])
    monkeypatch.setattr("medi_monai.utils.excel.is_installed", lambda package: False)
    with pytest.raises(InputError, match=r'^\S+a.xlsx is an Excel file.*pip install "medi_monai\[excel\]".*CSV'):
        read_table(path)
