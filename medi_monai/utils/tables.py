"""Read tables from text with various encodings and separators, Excel and Parquet, with every cell as a string."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd

from medi_monai.utils.errors import InputError
from medi_monai.utils.excel import read_excel
from medi_monai.utils.files import check_regular
from medi_monai.utils.text import number_in, tidy

__all__ = ["TABLE_SUFFIXES", "for_spreadsheet", "from_spreadsheet", "read_parquet", "read_table"]

#: suffixes of table files
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".xlsx", ".xlsm")

#: separators to expect by suffix
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
#: separators to try, in this order
CANDIDATES = "\t,;|"
#: number of leading bytes from which separator and encoding are detected, and number of records in them that have to
#: agree
HEAD, RECORDS = 256 * 1024, 50
#: if a separator does not occur in a file, its whole header is a single field
csv.field_size_limit(max(csv.field_size_limit(), HEAD))
#: maximum number of columns of a table, which take seconds to read; and maximum number of bytes of a header to look at
MAX_COLUMNS, MAX_HEADER = 100_000, 16 * 1024**2

TITLE = "a title stands above the header, delete the rows above the header"

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZIP, PARQUET, OLD_EXCEL = b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0"

#: largest whole number that is exact in a column of floats
EXACT = 2**53


def read_table(
    path: str | os.PathLike,
    encoding: str | None = None,
    sheet: str | None = None,
    columns: Collection[str] | None = None,
) -> pd.DataFrame:
    """Read a table with every cell as a string, so that ``NA`` remains a value and ``01`` keeps its zero.

    The file format is detected from the bytes, not the name: Parquet, Excel, or text in UTF-8 or UTF-16. The separator
    is that of the suffix (``.csv``, ``.tsv``) or one that gives all rows the same number of fields (tab, comma,
    semicolon or vertical bar). Surrounding whitespace and invisible characters are removed from column names. Whole
    numbers that Parquet stores as floats, as in columns with missing values, are returned without ``.0``.

    Args:
        path: file to read; text may be compressed with gzip, bzip2 or xz.
        encoding: encoding of text that is not UTF-8, such as ``cp1252``.
        sheet: sheet of an Excel file that has several.
        columns: columns that are needed, to read no others of a Parquet file (if it has all of them), which may have
            thousands of features; other formats are read whole.

    Raises:
        InputError: if the file is missing, unreadable, or has no rows or too many columns, or if two columns have the
            same name.
    """
    path = Path(path)
    check_regular(path)
    if not path.is_file():
        if path.exists():
            raise InputError(f"the table {path} is not a regular file")
        raise InputError(f"table not found: {path}. Check `table` and dataset_dir.")
    try:
        table = _read(path, encoding, sheet, columns)
    except InputError:
        raise
    except pd.errors.EmptyDataError:
        raise InputError(f"the table {path} is empty: it needs a header and at least one row") from None
    except UnicodeError as error:
        raise InputError(f"the table {path} is not in the encoding {encoding or 'UTF-8'} ({error})") from error
    except (pd.errors.ParserError, OSError, EOFError, ValueError, csv.Error, lzma.LZMAError) as error:
        raise InputError(f"cannot read the table {path}: {error}") from error
    if table.empty:
        raise InputError(f"the table {path} has a header but no rows")
    return table


def _read(path: Path, encoding: str | None, sheet: str | None, columns: Collection[str] | None = None) -> pd.DataFrame:
    with open(path, "rb") as file:
        magic = file.read(8)
    if sheet is not None and not magic.startswith(ZIP):
        raise InputError(f"the table {path} is not an Excel file, so it has no `sheet`")
    if magic.startswith(PARQUET) or (path.suffix.lower() == ".parquet" and magic):
        return _read_parquet(path, columns)
    if magic.startswith(OLD_EXCEL):
        raise InputError(f"{path} is an old or encrypted Excel file; save it without a password as .xlsx, or as CSV")
    if magic.startswith(ZIP):
        rows = read_excel(path, sheet)
        names = _checked_names(rows[0], path)
        named = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
        return pd.DataFrame(rows[1:], columns=named, dtype="str")
    opened = next((opener for start, opener in COMPRESSIONS.items() if magic.startswith(start)), open)
    return _read_text(path, lambda: opened(path, "rb"), encoding)


def read_parquet(path: str | os.PathLike, **options: Any) -> pd.DataFrame:
    """Read a Parquet file in this thread only, because Arrow waits forever for threads that the system does not allow.

    Args:
        path: file to read.
        options: options of ``pandas.read_parquet``.
    """
    return pd.read_parquet(path, use_threads=False, pre_buffer=False, **options)


def _read_parquet(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(path).names
    _check_width(len(names), path)
    _checked_names(names, path)
    # with nullable types, whole numbers remain integers in columns with missing values
    wanted = [name for name in names if tidy(str(name)) in (columns or ()) or name in (columns or ())]
    options = {"columns": wanted} if columns and len(wanted) == len(set(columns)) else {}
    frame = read_parquet(path, dtype_backend="numpy_nullable", **options)
    table = pd.DataFrame({tidy(str(name)): _as_text(frame[name]) for name in frame.columns}, index=frame.index)
    return table.reset_index(drop=True)


def _as_text(cells: pd.Series) -> pd.Series:
    known = cells[cells.notna()]
    if pd.api.types.is_float_dtype(cells.dtype):
        numbers = known.astype("float64")
        if (numbers == numbers.round()).all() and (numbers.abs() < EXACT).all():
            known = numbers.astype("int64")
    elif cells.dtype == object and known.map(lambda cell: isinstance(cell, bytes)).any():
        # some programs write strings as bytes
        known = known.map(lambda cell: cell.decode("utf-8") if isinstance(cell, bytes) else cell)
    return known.astype(object).map(str).reindex(cells.index, fill_value="").astype("str")


def _read_text(path: Path, opened: Callable[[], IO[bytes]], encoding: str | None) -> pd.DataFrame:
    with opened() as file:
        head = file.read(HEAD)
        whole = len(head) < HEAD
    encoding = encoding or _encoding(path, head, opened)
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise InputError(f"unknown encoding {encoding!r}; use a name such as cp1252, latin-1 or utf-16") from None
    separator, names, skipped = _layout(path, decoder.decode(head), whole)
    with opened() as file:
        header = [file.readline(MAX_HEADER) for _ in range(skipped + 1)][-1]
    _check_width(header.decode(encoding, "ignore").count(separator) + 1, path)
    with opened() as file:
        table = pd.read_csv(
            file,
            sep=separator,
            encoding=encoding,
            skiprows=skipped,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
        )
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"some rows of {path} have more fields than the header. If {TITLE}")
    if len(names) == len(table.columns):
        table.columns = [name or column for name, column in zip(names, table.columns)]
    return table


def _check_width(columns: int, path: Path) -> None:
    if columns > MAX_COLUMNS:
        raise InputError(
            f"{path} has {columns:,} columns, more than {MAX_COLUMNS:,}: is it transposed? Otherwise keep the "
            "columns that name images, patients, classes and attributes in a table of their own"
        )


def _encoding(path: Path, head: bytes, opened: Callable[[], IO[bytes]]) -> str:
    for mark, name in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return name
    if b"\0" in head:
        # in UTF-16 without a byte order mark, every other byte of Latin letters is zero
        for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            letters, zeros = head[1 - offset :: 2], head[offset::2]
            if 0 not in letters and zeros.count(0) > 0.7 * len(zeros):
                return name
        raise InputError(f"the table {path} is not text, Parquet or Excel; save it as CSV in UTF-8")
    with opened() as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(_not_utf8(path, number, line, error.start)) from None
    return "utf-8"


def _not_utf8(path: Path, number: int, line: bytes, position: int) -> str:
    around = line[max(position - 12, 0) : position + 12].decode("cp1252", "replace").strip()
    return (
        f"the table {path} is not UTF-8: line {number}, byte {position + 1}. If it reads {around!r} there, it is "
        f"Windows-1252 (Latin-1): write table: {{path: {path.name}, encoding: cp1252}}; or save it as UTF-8"
    )


def _layout(path: Path, text: str, whole: bool) -> tuple[str, list[str], int]:
    """Return the separator, the column names, and the number of lines before the header."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not whole and len(lines) > 1:
        lines.pop()
    promised = SEPARATORS.get(_suffix(path))
    first = lines[0].strip().strip('"') if lines else ""
    skipped = 0
    if first.lower().startswith("sep=") and len(first) == 5:
        # skip the line `sep=`, which is an extension of Excel
        promised, skipped, lines = first[4], 1, lines[1:]
    candidates = [promised, *CANDIDATES] if promised else list(CANDIDATES)
    widths = {sign: _widths(lines, sign) for sign in dict.fromkeys(candidates)}
    agreed = [sign for sign in widths if len(set(widths[sign])) == 1 and widths[sign][0] > 1]
    if promised in agreed or not agreed:
        separator = promised or max(widths, key=lambda sign: widths[sign][0] if widths[sign] else 0)
    else:
        separator = max(agreed, key=lambda sign: widths[sign][0])
    return separator, _checked_names(next(_records(lines, separator), []), path), skipped


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in (".gz", ".bz2", ".xz")), "")


def _records(lines: Sequence[str], separator: str) -> Any:
    return (record for record in csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator) if record)


def _widths(lines: Sequence[str], separator: str) -> list[int]:
    records = _records(lines, separator)
    return [len(record) for _, record in zip(range(RECORDS), records)]


def _checked_names(names: Sequence[Any], path: Path) -> list[str]:
    tidied = [tidy(str(name)) for name in names]
    named = len(list(filter(None, tidied)))
    if len(tidied) > 2 and named < 2:
        raise InputError(f"the first row of {path} names {named} of {len(tidied)} columns. If {TITLE}")
    for name, count in Counter(filter(None, tidied)).items():
        if count > 1:
            positions = " and ".join(str(position) for position, other in enumerate(tidied, 1) if other == name)
            raise InputError(
                f"the header of {path} has {name!r} more than once (columns {positions}): rename one of them"
            )
    return tidied


def for_spreadsheet(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for spreadsheets: text that they would evaluate, such as ``=1+1``, gets a leading apostrophe.

    This is not used for tables that runs read again (``cohort.csv``, ``manifest.csv``).
    """
    shown = table.rename(columns=_no_formula)
    for name in shown.columns[[not pd.api.types.is_numeric_dtype(dtype) for dtype in shown.dtypes]]:
        shown[name] = shown[name].map(_no_formula)
    return shown


def from_spreadsheet(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table from which :func:`for_spreadsheet` was made."""
    return table.apply(lambda column: column.str.replace(r"^'(?=[=+\-@\t\r])", "", regex=True))


def _no_formula(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula and number_in(value) is None else value
