import gzip
import io
import os

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_table
from medi_monai.utils.tables import for_spreadsheet, from_spreadsheet, read_table

COLUMNS = {"image": ["a.png", "b.png"], "center": ["Köln", "A, B"], "site": ["01", "NA"]}


def text_of(separator, columns=COLUMNS):
    out = io.StringIO()
    pd.DataFrame(columns).to_csv(out, sep=separator, index=False)
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.TSV", "a.txt", "a.CSV", "table"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_the_one_that_all_rows_agree_in(tmp_path, name, separator):
    (tmp_path / name).write_text(text_of(separator), encoding="utf-8")
    assert read_table(tmp_path / name).to_dict("list") == COLUMNS


def test_a_line_of_excel_names_the_separator(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\n" + text_of(";"), encoding="utf-8")
    assert read_table(tmp_path / "a.csv").to_dict("list") == COLUMNS


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_utf_8_and_utf_16_are_recognized(tmp_path, encoding, mark):
    text = ("\ufeff" if mark else "") + text_of("\t")
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_table(tmp_path / "a.txt").to_dict("list") == COLUMNS


def test_another_encoding_is_read_where_it_is_named(tmp_path):
    (tmp_path / "a.csv").write_text(text_of(";"), encoding="cp1252")
    assert read_table(tmp_path / "a.csv", "cp1252").to_dict("list") == COLUMNS
    with pytest.raises(InputError, match="unknown encoding 'latin one'"):
        read_table(tmp_path / "a.csv", "latin one")
    with pytest.raises(InputError, match="not in the encoding ascii"):
        read_table(tmp_path / "a.csv", "ascii")


def test_compressed_text_is_read(tmp_path):
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(text_of("\t").encode()))
    assert read_table(tmp_path / "a.tsv.gz").to_dict("list") == COLUMNS


def test_names_of_columns_lose_blanks_and_what_cannot_be_seen(tmp_path):
    (tmp_path / "a.csv").write_text(" image,cen\u200bter,Gro\u0308ße ,\na,b,c,\n", encoding="utf-8")
    assert list(read_table(tmp_path / "a.csv")) == ["image", "center", "Größe", "Unnamed: 3"]


def test_whole_numbers_of_parquet_are_whole_whatever_gaps_are_among_them(tmp_path):
    big = 2**60 + 1
    columns = {
        "id": pyarrow.array([1001, None, 1003]),
        "float id": pyarrow.array([1001.0, None, 1003.0]),
        "mpp": pyarrow.array([0.5, 1.0, None]),
        "huge": pyarrow.array([big, None, 1]),
        "inexact": pyarrow.array([2.0**60, 1.0, 2.0]),
        "bytes": pyarrow.array([b"K\xc3\xb6ln", None, b"01"]),
        "flag": pyarrow.array([True, False, None]),
        "text": pyarrow.array(["1001.0", "nan", None]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").to_dict("list") == {
        "id": ["1001", "", "1003"],
        "float id": ["1001", "", "1003"],
        "mpp": ["0.5", "1.0", ""],
        "huge": [str(big), "", "1"],
        "inexact": [str(2.0**60), "1.0", "2.0"],
        "bytes": ["Köln", "", "01"],
        "flag": ["True", "False", ""],
        "text": ["1001.0", "nan", ""],
    }
    twice = pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["site", "site"])
    pyarrow.parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(InputError, match="'site' more than once"):
        read_table(tmp_path / "b.parquet")


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(InputError, match="not a regular file"):
        read_table(tmp_path / "a.csv")


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6), st.sampled_from(["a.csv", "a.tsv", "a.parquet"]))
def test_what_is_written_is_read_again(tmp_path_factory, rows, name):
    table = pd.DataFrame(rows, columns=["image", "center", "note"], dtype="str")
    path = tmp_path_factory.mktemp("t") / name
    write_table(path, table)
    assert read_table(path).values.tolist() == table.values.tolist()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_tables_keep_na_leading_zeros_commas_and_line_breaks(tmp_path, name):
    cells = {"site": ["NA", "01", "", "nan"], "note": ['a "b", c', "d\ne", " f ", "é"], "x": ["1.0", "1", "N/A", "-"]}
    write_table(tmp_path / name, pd.DataFrame(cells))
    assert read_table(tmp_path / name).to_dict("list") == cells


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_numbers_and_gaps_become_strings(tmp_path, name):
    write_table(tmp_path / name, pd.DataFrame({"age": [61, 7], "mpp": [0.25, None], "sex": [None, "female"]}))
    assert read_table(tmp_path / name).to_dict("list") == {
        "age": ["61", "7"],
        "mpp": ["0.25", ""],
        "sex": ["", "female"],
    }


def test_tab_separated_tables_with_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfsite\tcenter\n01\tA, B\nNA\t\n")
    assert read_table(tmp_path / "a.tsv").to_dict("list") == {"site": ["01", "NA"], "center": ["A, B", ""]}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"image,label\n", "no row"),
        ("a.csv", b'image,label\n"x,y\n', "cannot read"),
        ("a.csv", b"image,label\n1,2\n3,4,5\n", "cannot read"),
        ("a.csv", "image,label\na,Südstadt\n".encode("latin-1"), "line 2.*'a,Südstadt'.*encoding: cp1252.*UTF-8"),
        ("a.csv", bytes(range(256)) * 4, "is not text, Parquet or Excel"),
        ("a.csv", b"site,center,site \n1,2,3\n", r"'site' more than once \(columns 1 and 3\)"),
        ("a.csv", b"site,si\xe2\x80\x8bte\n1,2\n", "'site' more than once"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old or encrypted Excel file"),
        ("a.xlsx", b"PK\x03\x04 and no more", "not a readable Excel file"),
        ("a.parquet", b"PAR1 is not enough", "cannot read"),
    ],
)
def test_an_unusable_table_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_one_column_is_a_table_whatever_its_cells_hold(tmp_path):
    (tmp_path / "a.csv").write_text('"image, of a slide"\na;b\n')
    assert read_table(tmp_path / "a.csv").to_dict("list") == {"image, of a slide": ["a;b"]}


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet"])
def test_a_missing_table_is_named(tmp_path, name):
    with pytest.raises(InputError, match=name):
        read_table(tmp_path / name)


def test_wide_tables_are_read_up_to_a_limit(tmp_path, monkeypatch):
    # names that together are longer than what the separator is recognized from
    names = [f"gene_with_a_long_name_{number}" for number in range(12_000)]
    (tmp_path / "wide.csv").write_text(",".join(names) + "\n" + ",".join(map(str, range(12_000))) + "\n")
    table = read_table(tmp_path / "wide.csv")
    assert list(table) == names and table.iloc[0].tolist() == [str(number) for number in range(12_000)]
    monkeypatch.setattr("medi_monai.utils.tables.MAX_COLUMNS", 3)
    for name, sign in (("t.csv", ","), ("t.txt", ";"), ("sep.csv", ",")):
        start = "sep=,\n" if name == "sep.csv" else ""
        (tmp_path / name).write_text(f"{start}a{sign}b{sign}c\n1{sign}2{sign}3\n")
        assert read_table(tmp_path / name).shape == (1, 3)
        (tmp_path / name).write_text(f"{start}a{sign}b{sign}c{sign}d\n1{sign}2{sign}3{sign}4\n")
        with pytest.raises(InputError, match="has 4 columns, more than 3: is it transposed"):
            read_table(tmp_path / name)
    pd.DataFrame([[1] * 4], columns=list("abcd")).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="has 4 columns, more than 3"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "text",
    ["Study 4\n\nSubject,Site,Sex\na,b,c\n", "Study 4,,\n,,\nSubject,Site,Sex\na,b,c\n", ";;\n;Study;\nS;D;H\n1;2;3\n"],
)
def test_a_title_above_the_header_is_named(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match="delete the rows above the header"):
        read_table(tmp_path / "t.csv")
    # a column without a name, as that of row numbers, is none
    (tmp_path / "t.csv").write_text(",image\n0,a\n")
    assert list(read_table(tmp_path / "t.csv")) == ["Unnamed: 0", "image"]


def test_no_cell_of_a_table_for_people_is_a_formula():
    cells = ["=1+1", "+49 30", "-x", "@SUM(1)", "\tx", "\r=1", "-0.5", "+3", "1e-3", "", "a=1", "'=1"]
    table = pd.DataFrame({"=HYPERLINK(1)": cells, "count": range(len(cells)), "share": [None, *[-0.5] * 11]})
    shown = for_spreadsheet(table)
    assert shown["'=HYPERLINK(1)"].tolist() == [*(f"'{cell}" for cell in cells[:6]), *cells[6:]]
    assert shown[["count", "share"]].equals(table[["count", "share"]]) and table.columns[0] == "=HYPERLINK(1)"
    text = shown[["'=HYPERLINK(1)"]].iloc[:-1]
    assert from_spreadsheet(text)["'=HYPERLINK(1)"].tolist() == cells[:-1]
