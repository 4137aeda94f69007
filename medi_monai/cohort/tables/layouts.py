"""Read the rows of a cohort from a plain table, GDC tables, a folder tree, or a pattern of paths."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.tables.cells import clean_table
from medi_monai.cohort.tables.dicom import list_series, series_digest
from medi_monai.cohort.tables.folders import is_pattern, list_folders
from medi_monai.cohort.tables.gdc import CASE, collapse_cases, join_cases, read_cases, read_slides
from medi_monai.cohort.tables.patterns import pattern_fields
from medi_monai.cohort.tables.tcga_ut import list_tcga_ut
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import check_regular, file_digest, json_digest
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import alike, tidy

__all__ = ["LAYOUTS", "TableContent", "TableSpec"]

LAYOUTS = ("plain", "gdc", "tcga_ut", "folders", "dicom")
#: layouts whose path is a folder
TREES = ("tcga_ut", "dicom")
#: layouts to whose rows a table of patients can be joined by the column ``patient``
JOINED = ("folders", "dicom")
#: temporary column used for the join; a name that no table has
JOIN = "patient of the join"
KEYS = ("layout", "path", "clinical", "key", "level", "encoding", "sheet", "series")


@dataclass(frozen=True)
class TableContent:
    """Contents of a table, with notes.

    Args:
        table: columns of strings, in file order.
        notes: notes for the user, one line each.
        strays: ``(path, reason)`` of files and folders of a folder tree that do not belong to the layout.
    """

    table: pd.DataFrame
    notes: Sequence[str] = ()
    strays: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class TableSpec:
    """Where the rows of a cohort come from.

    Args:
        path: CSV, TSV, Parquet or Excel table; for ``tcga_ut`` and ``dicom``, a folder; for ``folders``, a pattern of
            paths. Relative to the folder of the data set.
        layout: ``plain``, a table that is used unchanged; ``gdc``, a table for
            :func:`medi_monai.cohort.tables.read_slides`; ``tcga_ut``, a folder tree for
            :func:`medi_monai.cohort.tables.list_tcga_ut`; ``folders``, a pattern of paths instead of a table, for
            :func:`medi_monai.cohort.tables.list_folders`; ``dicom``, a folder tree of series, for
            :func:`medi_monai.cohort.tables.dicom.list_series`.
        clinical: table whose columns are joined to the rows: for ``gdc`` and ``tcga_ut``, a GDC clinical table, joined
            by case; for ``folders`` and ``dicom``, any table of patients.
        key: column of ``clinical`` with the patients (only for ``folders`` and ``dicom``).
        level: magnification folder (only for ``tcga_ut``); None if the tree has none.
        encoding: encoding of a plain table or a table of patients, if it is not UTF-8, such as ``cp1252``.
        sheet: sheet of a plain table or a table of patients, if it is an Excel file with several sheets.

    Raises:
        InputError: for an unknown layout, or an option that does not apply to the layout.
        series: pattern of the SeriesDescription, such as ``*FLAIR*`` (only for ``dicom``).
    """

    path: str
    layout: str = "plain"
    clinical: str | None = None
    key: str | None = None
    level: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    series: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise unknown_value("layout of `table`", self.layout, LAYOUTS)
        if self.clinical is not None and self.layout == "plain":
            raise InputError(
                "table: `clinical` needs the layout gdc or tcga_ut (set layout: gdc), or folders or dicom, where rows "
                "are images and the table has rows of patients"
            )
        if (self.clinical is not None and self.layout in JOINED) != (self.key is not None):
            raise InputError(
                "table: `key` is the column of patients in the table `clinical` of the layouts folders and dicom: give "
                "both, or neither"
            )
        if self.layout == "folders":
            pattern_fields(self.path)
        if self.level is not None and self.layout != "tcga_ut":
            raise InputError("table: `level` is an option of the layout tcga_ut")
        if self.series is not None and self.layout != "dicom":
            raise InputError("table: `series` is an option of the layout dicom")
        for key in ("encoding", "sheet"):
            if getattr(self, key) is not None and self.layout != "plain" and self.key is None:
                raise InputError(f"table: `{key}` is an option of plain tables, not of the layout {self.layout}")

    @classmethod
    def from_setting(cls, setting: str | os.PathLike | Mapping[str, Any]) -> TableSpec:
        """Parse the setting ``table``: a path, a pattern, or a mapping such as ``{layout: gdc, path: slide.tsv}``.

        Raises:
            InputError: for an unknown key or layout, or a key that does not apply to the layout.
        """
        if isinstance(setting, (str, os.PathLike)):
            path = os.fspath(setting)
            return cls(path, "folders" if is_pattern(path) else "plain")
        if not isinstance(setting, Mapping):
            raise InputError(f"table = {setting!r}: it must be a path, or {{layout: gdc, path: slide.tsv}}")
        for key in setting:
            if key not in KEYS:
                raise unknown_value("key of `table`", key, KEYS)
        fields = {key: str(value) for key, value in setting.items() if value is not None}
        if "path" not in fields and fields.get("layout") not in TREES:
            raise InputError(f"table = {dict(setting)!r}: `path` is missing")
        return cls(**{"path": ".", **fields})

    @property
    def lists_files(self) -> bool:
        """Whether rows are made from existing files rather than read from a table."""
        return self.layout in ("tcga_ut", "folders")

    def digest(self, root: str | os.PathLike) -> str:
        """Return a digest of the source: of the bytes of tables, or of the paths of listed files."""
        if self.layout == "folders":
            digest = json_digest(list_folders(root, self.path)[0].to_dict("list"))
        elif self.layout == "tcga_ut":
            digest = json_digest(list_tcga_ut(self.where(root), self.level)[0]["image"].tolist())
        elif self.layout == "dicom":
            digest = series_digest(self.where(root))
        else:
            digest = file_digest(self.where(root))
        return digest if self.clinical is None else json_digest([digest, file_digest(self._clinical(root))])

    def where(self, root: str | os.PathLike) -> Path:
        """Return the path of the table or folder.

        Raises:
            InputError: if it does not exist.
        """
        path = Path(root, self.path)
        check_regular(path)
        if not (path.is_dir() if self.layout in TREES else path.is_file()):
            kind = "folder" if self.layout in TREES else "table"
            found = self.path != "." and Path(self.path).exists()
            here = "It is in the current folder: --dataset_dir . finds it" if found else "Check both"
            raise InputError(f"{kind} not found: {path}. `table` is a path in dataset_dir. {here}.")
        return path

    def _clinical(self, root: str | os.PathLike) -> Path:
        path = Path(root, str(self.clinical))
        check_regular(path)
        if not path.is_file():
            raise InputError(f"clinical table not found: {path}. Set `clinical` in `table`.")
        return path

    def read(
        self,
        root: str | os.PathLike,
        needed: Mapping[str, str],
        missing: Sequence[str] | None = None,
        kept: Mapping[str, Collection[str]] | None = None,
    ) -> TableContent:
        """Read the rows and join the clinical table, if there is one.

        Args:
            root: folder of the data set.
            needed: required columns, each with the name of the setting that refers to it, for messages.
            missing: words for missing data in GDC tables and in joined tables; such cells are filled from the other
                table.
            kept: by column, words for missing data that are kept as values, because the mapping renames them.

        Raises:
            InputError: for a missing or unreadable table, or a column that no table has.
        """
        if self.layout == "folders":
            table, strays = list_folders(root, self.path)
            if self.clinical is None:
                _require(needed, table.columns, f"the pattern {self.path}")
                return TableContent(table, (), strays)
            return self._with_patients(TableContent(table, (), strays), root, needed, missing, kept)
        path = self.where(root)
        notes: list[str] = []
        strays = []
        if self.layout == "plain":
            table = read_table(path, self.encoding, self.sheet, list(needed))
            # settings may spell a column in another Unicode form than the table, whose names are in composed form (NFC)
            spelled = {tidy(name): name for name in needed if name not in table}
            table = table.rename(columns=spelled)
        elif self.layout == "gdc":
            table, notes = read_slides(path, missing, kept)
        elif self.layout == "dicom":
            table, notes = list_series(path, self.series)
            table["image"] = _below(self.path, table["image"])
        else:
            table, strays = list_tcga_ut(path, self.level)
            table["image"] = _below(self.path, table["image"])
            strays = [(_below(self.path, stray), reason) for stray, reason in strays]
        if self.clinical is None:
            _require(needed, table.columns, path)
            return TableContent(table, notes, strays)
        if self.layout == "dicom":
            return self._with_patients(TableContent(table, notes, strays), root, needed, missing, kept)
        clinical = self._clinical(root)
        cases = read_cases(clinical, needed, missing, kept)
        _require(needed, dict.fromkeys([*table.columns, *cases.columns]), f"{path} and {clinical}")
        table, more = join_cases(table, CASE if self.layout == "gdc" else "patient", cases, clinical)
        return TableContent(table, [*notes, *more], strays)

    def _with_patients(
        self,
        content: TableContent,
        root: str | os.PathLike,
        needed: Mapping[str, str],
        missing: Sequence[str] | None,
        kept: Mapping[str, Collection[str]] | None,
    ) -> TableContent:
        """Join the table of patients to the rows; values from paths or DICOM tags take precedence."""
        table, path, key = content.table, self._clinical(root), tidy(str(self.key))
        where = f"the pattern {self.path}" if self.layout == "folders" else self.where(root)
        if "patient" not in table:
            raise InputError(f"table: `clinical` is joined by patient, but {where} has no {{patient}}")
        patients = clean_table(read_table(path, self.encoding, self.sheet), missing, kept)
        patients = patients.rename(columns={tidy(name): name for name in needed if name not in patients})
        _require({key: "key"}, patients.columns, path)
        _require(needed, dict.fromkeys([*table.columns, *patients.columns]), f"{where} and {path}")
        wanted = {*(needed or patients.columns)} - {*table.columns}
        cases = collapse_cases(patients, key, wanted)
        spelled = {alike(name): name for name in cases.table.index}
        names = {
            name: name if name in cases.table.index else spelled.get(alike(name), name) for name in table["patient"]
        }
        table, notes = join_cases(table.assign(**{JOIN: table["patient"].map(names)}), JOIN, cases, path)
        return TableContent(table.drop(columns=JOIN), [*content.notes, *notes], content.strays)


def _below(folder: str, path: Any) -> Any:
    prefix = "" if folder in ("", ".") else folder.rstrip("/") + "/"
    return prefix + path


def _require(needed: Mapping[str, str], columns: Collection[str], where: object) -> None:
    for column, setting in needed.items():
        if column not in columns:
            raise unknown_value(
                "column", column, columns, f"`{setting}` expects it in {where}: name a column of that table there."
            )
