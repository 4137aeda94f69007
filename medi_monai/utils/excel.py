"""Read sheets of Excel files as rows of text, with the optional package openpyxl."""

from __future__ import annotations

import io
import os
import re
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.optional import is_installed, require

__all__ = ["read_excel"]

#: matches number formats with leading zeros, as for patients 007 and 012
PADDED = re.compile(r"0{2,}")


def read_excel(path: str | os.PathLike, sheet: str | None = None) -> list[list[str]]:
    """Read the rows of a sheet as text, header first, without empty rows.

    Args:
        path: ``.xlsx`` or ``.xlsm`` file.
        sheet: name of the sheet; by default the only visible sheet that is not empty.

    Raises:
        InputError: if openpyxl is missing, or for an unreadable file, an unknown sheet, several sheets without a
            choice, merged cells, or formulas without stored results.
    """
    if not is_installed("openpyxl"):
        raise InputError(
            f'{path} is an Excel file, and reading it needs openpyxl: pip install "medi_monai[excel]", or save the '
            "sheet as CSV (UTF-8)"
        )
    openpyxl = require("openpyxl", f"to read {path}")
    try:
        # load from bytes, because openpyxl refuses a file name that ends with .csv
        content = Path(path).read_bytes()
        book = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    except Exception as error:
        # damaged files raise errors of zipfile, of XML or of openpyxl
        raise InputError(
            f"{path} is a zip archive and not a readable Excel file ({type(error).__name__}: {error}); save the table "
            "as .xlsx or CSV"
        ) from error
    chosen = _sheet(book, sheet, path)
    for cells in chosen.merged_cells.ranges:
        raise InputError(
            f"{path}, sheet {chosen.title!r}: the cells {cells.coord} are merged, so that all but the first are empty; "
            "unmerge them and fill each"
        )
    rows = [[_text(cell) for cell in row] for row in chosen.iter_rows()]
    if any(not any(column[1:]) for column in zip(*rows)):
        # formulas without stored results would look like missing data
        formulas = openpyxl.load_workbook(io.BytesIO(content))[chosen.title]
        _check_results(formulas, rows, path)
    rows = [row for row in rows if any(row)]
    width = max((number + 1 for row in rows for number, text in enumerate(row) if text), default=0)
    if not rows:
        raise InputError(f"the table {path} is empty: it needs a header and at least one row")
    return [row[:width] for row in rows]


def _sheet(book: Any, name: str | None, path: str | os.PathLike) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if name is not None:
        if name not in sheets:
            raise unknown_value("sheet", name, sheets, f"These are the sheets of {path}.")
        return sheets[name]
    filled = [sheet for sheet in sheets.values() if sheet.sheet_state == "visible" and _is_filled(sheet)]
    if len(filled) > 1:
        named = ", ".join(repr(sheet.title) for sheet in filled)
        raise InputError(
            f"{path} has several sheets, {named}: choose one, as table: "
            f"{{path: {os.path.basename(path)}, sheet: {filled[0].title}}}"
        )
    return filled[0] if filled else book.worksheets[0]


def _is_filled(sheet: Any) -> bool:
    return any(cell.value is not None for row in sheet.iter_rows() for cell in row)


def _text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and PADDED.fullmatch(cell.number_format or ""):
        return str(value).zfill(len(cell.number_format))
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _check_results(formulas: Any, rows: list[list[str]], path: str | os.PathLike) -> None:
    for row in formulas.iter_rows():
        for cell in row:
            if cell.data_type == "f" and not rows[cell.row - 1][cell.column - 1]:
                raise InputError(
                    f"{path}, sheet {formulas.title!r}: the cell {cell.coordinate} holds a formula without its result; "
                    "open and save the file in Excel or LibreOffice, or save it as CSV"
                )
