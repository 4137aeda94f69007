"""Slide and clinical tables of the NCI Genomic Data Commons (GDC), joined on the case.

Three ways of naming columns become one, the flat one: ``case_submitter_id`` (exports until 2024),
``cases.submitter_id`` (exports since, and answers of the API) and ``Case ID`` (the sample sheet of a download).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from medi_monai.cohort.table import require_columns
from medi_monai.cohort.tables.barcodes import match_barcodes, parse_barcodes
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table

__all__ = ["Cases", "flat_names", "read_gdc", "read_slides", "read_cases", "join_cases"]

CASE, SLIDE, SITE = "case_submitter_id", "slide_submitter_id", "tissue_source_site"

#: columns of the sample sheet that comes with a download
SAMPLE_SHEET = {"File ID": "file_id", "File Name": "file_name", "Project ID": "project_id", "Case ID": CASE}
SAMPLE_SHEET |= {"Sample ID": "sample_submitter_id", "Sample Type": "sample_type", "Tissue Type": "tissue_type"}
SAMPLE_SHEET |= {"Tumor Descriptor": "tumor_descriptor", "Preservation Method": "preservation_method"}

SINGULAR = {"diagnoses": "diagnosis", "family_histories": "family_history"}

#: conflicting columns that a note names
NAMED = 4


@dataclass(frozen=True)
class Cases:
    """A clinical table with one row per case.

    Args:
        table: strings, indexed by case.
        conflicts: how many cases have several values of a column, and therefore none here; columns without are
            left out.
        columns: all columns of the clinical table, collapsed or not.
    """

    table: pd.DataFrame
    conflicts: dict[str, int]
    columns: tuple[str, ...]


def flat_names(columns: Collection[str]) -> dict[str, str]:
    """The flat name of each column of a GDC table.

    ``demographic.race`` becomes ``race``, ``cases.submitter_id`` ``case_submitter_id``, and numbers, as in
    ``cases.0.samples.1.sample_type``, do not count. Columns whose flat names would be alike keep their own.
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


def read_gdc(path: str | os.PathLike, missing: Sequence[str] | None = None) -> pd.DataFrame:
    """A GDC export with flat names and the empty string where data are missing.

    ``missing`` are the words for missing data, by default :data:`medi_monai.schema.MISSING_WORDS`; ``'--`` is one in
    any case. ``gender``, which newer exports call ``sex_at_birth``, is filled in where a table has the newer name
    alone.

    Raises:
        InputError: for a table that cannot be read or names no case.
    """
    table = read_table(path)
    words = MISSING_WORDS if missing is None else (*missing, "'--")
    table = table.rename(columns=flat_names(table.columns)).apply(clean_cells, missing=words)
    require_columns(table, (CASE,), f"{path}, a table of the GDC (cases.submitter_id and Case ID also work)")
    if "sex_at_birth" in table and ("gender" not in table or (table["gender"] == "").all()):
        table["gender"] = table["sex_at_birth"]
    return table


def read_slides(path: str | os.PathLike, missing: Sequence[str] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """A GDC table with one row per slide: the biospecimen export ``slide.tsv``, a sample sheet, or a joined table.

    Names of slides that begin with ``TCGA-`` are read as barcodes: ``tissue_source_site`` and ``section`` (diagnostic
    or frozen) come from them, whatever a column of that name says. Without a column of slides, the barcode at the
    beginning of ``file_name`` names the slide. ``missing`` is that of :func:`read_gdc`.

    Returns:
        The table, and notes on where columns and barcodes disagree.

    Raises:
        InputError: as :func:`read_gdc`; for a table without slides; for a TCGA slide whose barcode is malformed.
    """
    table = read_gdc(path, missing)
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
    used = "the barcode counts" if column == SITE else "the column counts"
    return [
        f"{column} and barcode disagree in {len(wrong):,} rows, first {first[SLIDE]} with {first[column]!r}; {used}"
    ]


def read_cases(
    path: str | os.PathLike, columns: Collection[str] | None = None, missing: Sequence[str] | None = None
) -> Cases:
    """A clinical table of the GDC with its rows per diagnosis, treatment and follow-up collapsed to one per case.

    Missing data give way to data. Where a column still has several values, those of rows whose
    ``diagnosis_is_primary_disease`` is true go first; where several are left, none is taken: a wrong value would
    pass unseen. The order of the rows does not matter.

    Args:
        path: CSV, TSV, Excel or Parquet.
        columns: those to collapse (flat names; others that the table has not do not count); all by default.
        missing: words for missing data, as for :func:`read_gdc`.

    Raises:
        InputError: as :func:`read_gdc`.
    """
    table = read_gdc(path, missing)
    table = table[table[CASE] != ""]
    primary = table.get("diagnosis_is_primary_disease", pd.Series("", index=table.index)).str.lower() == "true"
    attributes = [name for name in table.columns if name != CASE and (columns is None or name in columns)]
    cases = pd.DataFrame(index=pd.Index(table[CASE].unique(), name=CASE))
    values, conflicts = {}, {}
    for column in attributes:
        values[column], count = _collapsed(table[CASE], table[column], primary)
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

    A column that both have stays the table's own, filled from the clinical one where the table's cell is empty.

    Args:
        table: rows of slides or patches.
        key: its column of cases.
        cases: as :func:`read_cases` has it.
        where: the clinical table, for messages.

    Returns:
        A new table with the rows and the order of ``table``, and notes on what was not found or left open.

    Raises:
        InputError: if no case of the table is in the clinical one.
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
        more = f" and {len(named) - NAMED} columns more" if len(named) > NAMED else ""
        notes.append(f"{where} has several values for one case, treated as missing: {shown}{more}")
    return table.assign(**joined), notes


def _lacking(cases: pd.Series, where: object) -> str:
    return f"{where} lacks {cases.nunique():,} cases, first {cases.iloc[0]!r}: their columns stay empty"
