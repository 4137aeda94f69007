"""Slide and clinical tables of the NCI Genomic Data Commons (GDC), joined on the case.

Three conventions for column names are unified: flat names as in ``case_submitter_id`` (exports until 2024) are kept,
and ``cases.submitter_id`` (later exports and the API) and ``Case ID`` (the sample sheet of a download) become flat.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from medi_monai.cohort.table import require_columns
from medi_monai.cohort.tables.barcodes import match_barcodes, parse_barcodes
from medi_monai.cohort.tables.cells import clean_table
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import plural

__all__ = ["Cases", "collapse_cases", "flat_names", "read_gdc", "read_slides", "read_cases", "join_cases"]

CASE, SLIDE, SITE = "case_submitter_id", "slide_submitter_id", "tissue_source_site"

#: flat names of the columns of a download's sample sheet
SAMPLE_SHEET = {"File ID": "file_id", "File Name": "file_name", "Project ID": "project_id", "Case ID": CASE}
SAMPLE_SHEET |= {"Sample ID": "sample_submitter_id", "Sample Type": "sample_type", "Tissue Type": "tissue_type"}
SAMPLE_SHEET |= {"Tumor Descriptor": "tumor_descriptor", "Preservation Method": "preservation_method"}

SINGULAR = {"diagnoses": "diagnosis", "family_histories": "family_history"}

#: maximum number of conflicting columns that a note lists
NAMED = 4


@dataclass(frozen=True)
class Cases:
    """A clinical table with one row per case.

    Args:
        table: columns of strings, indexed by case.
        conflicts: for each column with conflicts, the number of cases that have several values; their cells in
            ``table`` are empty.
        columns: all columns of the clinical table, including those that were not collapsed.
    """

    table: pd.DataFrame
    conflicts: dict[str, int]
    columns: tuple[str, ...]


def flat_names(columns: Collection[str]) -> dict[str, str]:
    """Return the flat name of each column of a GDC table.

    ``demographic.race`` becomes ``race``, ``cases.submitter_id`` becomes ``case_submitter_id``, and numbers, as in
    ``cases.0.samples.1.sample_type``, are ignored. If two flat names would be equal, both columns keep their original
    names.
    """
    flat = {column: SAMPLE_SHEET.get(column) or _flat(column) for column in columns}
    counts = Counter(flat.values())
    return {column: name if counts[name] == 1 else column for column, name in flat.items()}


def _flat(column: str) -> str:
    levels = [level for level in column.split(".") if not level.isdigit()]
    if len(levels) < 2:
        return column
    entity, name = levels[-2:]
    return f"{SINGULAR.get(entity, entity.removesuffix('s'))}_{name}" if name == "submitter_id" else name


def read_gdc(
    path: str | os.PathLike, missing: Sequence[str] | None = None, kept: Mapping[str, Collection[str]] | None = None
) -> pd.DataFrame:
    """Read a GDC export, with flat column names and the empty string for missing data.

    If a table has only ``sex_at_birth``, the name in newer exports, its values are also available as ``gender``.

    Args:
        path: CSV, TSV, Excel or Parquet file.
        missing: words for missing data, by default :data:`medi_monai.schema.MISSING_WORDS`; always includes ``'--``.
        kept: by column, words for missing data that are kept as values, because a mapping renames them.

    Raises:
        InputError: for an unreadable table, or one without a case column.
    """
    table = read_table(path)
    words = MISSING_WORDS if missing is None else (*missing, "'--")
    table = clean_table(table.rename(columns=flat_names(table.columns)), words, kept)
    require_columns(table, (CASE,), f"{path}, a table of the GDC (cases.submitter_id and Case ID also work)")
    if "sex_at_birth" in table and ("gender" not in table or (table["gender"] == "").all()):
        table["gender"] = table["sex_at_birth"]
    return table


def read_slides(
    path: str | os.PathLike, missing: Sequence[str] | None = None, kept: Mapping[str, Collection[str]] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Read a GDC table with one row per slide: the biospecimen export ``slide.tsv``, a sample sheet, or a joined table.

    Slide names that begin with ``TCGA-`` are parsed as barcodes, which determine ``tissue_source_site`` and ``section``
    (diagnostic or frozen). Without a slide column, slides are named by the beginning of ``file_name``: the barcode, or
    the text before the first dot. For ``missing`` and ``kept``, see :func:`read_gdc`.

    Returns:
        The table, and notes on rows in which columns and barcodes disagree.

    Raises:
        InputError: see :func:`read_gdc`; also for a table without slides, or a malformed TCGA slide barcode.
    """
    table = read_gdc(path, missing, kept)
    if SLIDE not in table and "file_name" in table:
        table[SLIDE] = match_barcodes(table["file_name"])["slide"]
        table[SLIDE] = table[SLIDE].mask(table[SLIDE] == "", table["file_name"].str.split(".").str[0])
    require_columns(table, (SLIDE,), f"{path}, a table of slides (slides.submitter_id and File Name also work)")
    is_barcode = table[SLIDE].str.startswith("TCGA-")
    barcodes = parse_barcodes(table.loc[is_barcode, SLIDE])
    notes = []
    for column, field in ((SITE, "site"), (CASE, "patient")):
        if column in table:
            notes += _disagreement(table.loc[is_barcode, [column, SLIDE]], column, barcodes[field])
    for column, field in ((SITE, "site"), ("section", "section")):
        present = table[column] if column in table else pd.Series("", index=table.index, dtype="str")
        table[column] = present.mask(is_barcode, barcodes[field].reindex(table.index, fill_value=""))
    return table, notes


def _disagreement(rows: pd.DataFrame, column: str, barcode: pd.Series) -> list[str]:
    wrong = rows[rows[column] != barcode]
    if wrong.empty:
        return []
    first = wrong.iloc[0]
    used = "the barcode is used" if column == SITE else "the column is used"
    return [
        f"{column} and barcode disagree in {plural(len(wrong), 'row')}, first {first[SLIDE]} with "
        f"{first[column]!r}; {used}"
    ]


def read_cases(
    path: str | os.PathLike,
    columns: Collection[str] | None = None,
    missing: Sequence[str] | None = None,
    kept: Mapping[str, Collection[str]] | None = None,
) -> Cases:
    """Read a GDC clinical table and collapse its rows (per diagnosis, treatment and follow-up) to one per case.

    Empty cells are ignored. If a column has several values for a case, values from rows whose
    ``diagnosis_is_primary_disease`` is true take precedence; if several remain, the cell is left empty, because a wrong
    value would go unnoticed. The order of the rows does not matter.

    Args:
        path: CSV, TSV, Excel or Parquet file.
        columns: flat names of the columns to collapse, by default all; names that the table lacks are ignored.
        missing: words for missing data; see :func:`read_gdc`.
        kept: by column, words that are kept as values; see :func:`read_gdc`.

    Raises:
        InputError: see :func:`read_gdc`.
    """
    table = read_gdc(path, missing, kept)
    primary = table.get("diagnosis_is_primary_disease", pd.Series("", index=table.index)).str.lower() == "true"
    return collapse_cases(table, CASE, columns, primary)


def collapse_cases(
    table: pd.DataFrame, key: str, columns: Collection[str] | None = None, primary: pd.Series | None = None
) -> Cases:
    """Collapse a table to one row per case; a cell is empty if the rows of the case have different values.

    Args:
        table: columns of strings, with the empty string for missing data.
        key: column of the case; rows without one are ignored.
        columns: columns to collapse; by default all.
        primary: ``(N,)`` bool, rows whose values take precedence; by default none.
    """
    primary = pd.Series(False, index=table.index) if primary is None else primary
    table, primary = table[table[key] != ""], primary[table[key] != ""]
    attributes = [name for name in table.columns if name != key and (columns is None or name in columns)]
    cases = pd.DataFrame(index=pd.Index(table[key].unique(), name=key))
    values, conflicts = {}, {}
    for column in attributes:
        values[column], count = _collapsed(table[key], table[column], primary)
        if count:
            conflicts[column] = count
    return Cases(cases.assign(**values).fillna(""), conflicts, tuple(table.columns))


def _collapsed(cases: pd.Series, cells: pd.Series, primary: pd.Series) -> tuple[pd.Series, int]:
    values = pd.DataFrame({"case": cases, "value": cells, "primary": primary})[cells != ""].drop_duplicates()
    values = values[values["primary"] | ~values.groupby("case")["primary"].transform("any")]
    several = values["case"].duplicated(keep=False)
    return values[~several].set_index("case")["value"], values.loc[several, "case"].nunique()


def join_cases(table: pd.DataFrame, key: str, cases: Cases, where: object) -> tuple[pd.DataFrame, list[str]]:
    """Add the columns of a clinical table to the rows of its cases.

    If both tables have a column, the values in ``table`` are kept, and its empty cells are filled from the clinical
    table.

    Args:
        table: one row per slide or patch.
        key: case column of ``table``.
        cases: clinical table, from :func:`read_cases`.
        where: path of the clinical table, for messages.

    Returns:
        A new table with the rows of ``table`` in their order, and notes on missing cases and conflicting values.

    Raises:
        InputError: if the clinical table has none of the table's cases.
    """
    known = table[key].isin(cases.table.index)
    if not known.any():
        raise InputError(
            f"{where} has none of the {table[key].nunique():,} cases of the table, first {table[key].iloc[0]!r}; it "
            f"has {len(cases.table):,} others, first {next(iter(cases.table.index), '')!r}"
        )
    notes = [] if known.all() else [_lacking(table.loc[~known, key], where)]
    joined = {}
    for column in cases.table.columns:
        cells = cases.table[column].reindex(table[key]).fillna("").set_axis(table.index)
        joined[column] = table[column].mask(table[column] == "", cells) if column in table else cells
    if cases.conflicts:
        named = sorted(cases.conflicts, key=lambda column: (-cases.conflicts[column], column))
        shown = ", ".join(f"{column} ({cases.conflicts[column]:,} cases)" for column in named[:NAMED])
        more = f" and {len(named) - NAMED} more columns" if len(named) > NAMED else ""
        notes.append(f"{where} has several values for one case, treated as missing: {shown}{more}")
    return table.assign(**joined), notes


def _lacking(cases: pd.Series, where: object) -> str:
    return f"{where} lacks {cases.nunique():,} cases, first {cases.iloc[0]!r}: their clinical columns are left empty"
