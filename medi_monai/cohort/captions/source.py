"""Where a captioned cohort comes from: a table of whole pictures with captions, or with columns to compose them of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.captions.roco import RocoTable, article_of, find_roco
from medi_monai.cohort.captions.templates import CaptionTemplates
from medi_monai.cohort.source import DEMO_BALANCED, ImageTable
from medi_monai.cohort.splits.patients import keep_apart
from medi_monai.cohort.table import SPLITS
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.cohort.tables.layouts import LAYOUTS, TableSpec
from medi_monai.cohort.tables.patterns import pattern_fields
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["CAPTION_COLUMN", "CaptionTable"]

CAPTION_COLUMN = "caption"

ROLES = ("image", "slide", "patient", "caption", "split")
#: other names of splits, as data sets that come split have them
SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "test": "holdout"}

ROCO = "roco"


@dataclass(frozen=True)
class CaptionTable:
    """A table with one row per picture, and the folder of the pictures.

    Args:
        root: folder that image paths start from (``dataset_dir``); ``None`` is the demo's brain cohort and
            ``demo_balanced`` its reference with as many women as men; either is made on first use.
        table: path of the table from ``root``, or tables as :class:`medi_monai.cohort.ImageTable` takes them; or
            ``{layout: roco, path: …}``: ROCO or ROCOv2, one of its tables or the folder of all, which come split.
        attributes: columns to carry into the cohort, of the table or of ``mapping``; those of templates come along.
        columns: which column plays which role: ``patient`` (``patient`` by default; ``null`` where every picture is
            of another), ``slide`` (the image's path by default), ``caption``, ``split`` (for a table that comes
            split) name a column; ``image`` is a pattern of columns in braces, ``{image}`` by default.
        templates: captions are composed by these instead of read: :class:`CaptionTemplates`, a list of templates, or
            ``{templates: …, words: …, seed: …}``. With words alone captions are read, and these name values in them.
        mapping: what becomes of columns on their way to attributes and templates, as
            :mod:`medi_monai.cohort.tables.mapping` describes it.
        missing: strings that mean missing data in any column, besides :data:`medi_monai.schema.MISSING_STRINGS`.

    Raises:
        InputError: for a setting that is unknown or contradicts another; nothing is read for that.
    """

    root: str | os.PathLike | None = None
    table: str | Mapping[str, Any] = "slices.csv"
    attributes: Sequence[str] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    templates: Any = None
    mapping: Mapping[str, Any] | None = None
    missing: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for role in self.columns:
            if role not in ROLES:
                raise unknown_value("role in `columns`", role, ROLES)
        if isinstance(self.attributes, str) or isinstance(self.missing, str):
            raise InputError("attributes and missing must be lists of strings")
        if isinstance(self.table, Mapping) and self.table.get("layout") not in (None, ROCO, *LAYOUTS):
            raise unknown_value("layout of `table`", self.table["layout"], (*LAYOUTS, ROCO))
        if self.templates is not None:
            object.__setattr__(self, "templates", CaptionTemplates.from_setting(self.templates))
        has_captions = self.is_roco or bool(self.columns.get("caption"))
        if has_captions == self.composes:
            conflict = "both are given" if has_captions else "neither is"
            raise InputError(
                f"captions come from a column (columns: {{caption: …}}, or ROCO's) or from `templates`, and {conflict}"
            )
        if self.is_roco and (self.columns or self.attributes or self.mapping):
            raise InputError("the layout roco has fixed columns: remove `columns`, `attributes` and `mapping`")
        for name in ("caption", "split"):
            if name in self.attributes:
                raise InputError(f"the attribute {name!r} has the name of a built-in column; rename it")
        if not self.is_roco:
            self._image_table(Path("."))

    @property
    def composes(self) -> bool:
        """Whether captions are composed, and not read."""
        return self.templates is not None and self.templates.composes

    @property
    def is_roco(self) -> bool:
        """Whether the layout is ROCO's or ROCOv2's."""
        return isinstance(self.table, Mapping) and self.table.get("layout") == ROCO

    @property
    def metadata(self) -> tuple[str, ...]:
        """The attributes, and the columns that captions are composed of: of these, prompts may be made again."""
        composed = self.templates.columns if self.templates is not None else ()
        return tuple(dict.fromkeys([*self.attributes, *composed]))

    @property
    def folder(self) -> Path:
        """The root as a path; the demo's pictures are made here if they are meant and lack."""
        if self.root is None or str(self.root) == DEMO_BALANCED:
            # drawing pictures is for those alone who have none
            from medi_monai.cohort.demo.brain_cohort import brain_dataset

            return brain_dataset(balanced=self.root is not None)
        return Path(self.root)

    @property
    def table_name(self) -> str:
        """The table or the folder of tables, for messages."""
        return self._roco_path if self.is_roco else TableSpec.from_setting(self.table).path

    @property
    def comes_split(self) -> bool:
        """Whether rows have a split of their own."""
        if not self.is_roco:
            return bool(self.columns.get("split"))
        return any(table.split for table in self._roco_tables())

    def settings(self) -> dict:
        """All that decides what :meth:`rows` returns, as JSON, with the digests of all tables' content."""
        return {
            "root": str(self._checked_folder().resolve()),
            "tables": {source.table_name: source.settings() for source, _ in self._sources()},
            "attributes": list(self.attributes),
            "columns": dict(self.columns),
            "templates": self.templates.settings() if self.templates is not None else None,
        }

    def rows(self, check_files: bool = True) -> pd.DataFrame:
        """The table as cohort columns, ordered by image; what its user should know is printed.

        Args:
            check_files: whether to look for every image.

        Returns:
            Strings: ``image`` (path from the root), ``slide``, ``patient``, ``mpp`` (empty), :attr:`metadata`,
            ``caption`` (blanks and line ends made one blank each), ``split`` (empty where the table has none), with
            the empty string where data are missing. ``row`` is the place in its table, from 0. ``problem`` says why a
            row cannot be used: as of :class:`medi_monai.cohort.ImageTable`, and where there is no caption, no template
            that fits, or a value that does not suit one.

        Raises:
            InputError: as :meth:`medi_monai.cohort.ImageTable.rows`, and for a column that a template names and the
                table lacks, or a split of another name.
        """
        if self.templates is not None and not self.is_roco:
            self._check_templates()
        tables = []
        for source, roco in self._sources():
            rows = source.rows(check_files)
            tables.append(self._of_table(rows) if roco is None else _of_roco(rows, roco))
        rows = pd.concat(tables, ignore_index=True).sort_values("image", kind="stable", ignore_index=True)
        rows["caption"] = rows["caption"].str.replace(r"\s+", " ", regex=True).str.strip()
        for text, lacks in (("no caption", rows["caption"] == ""), ("no patient", rows["patient"] == "")):
            rows["problem"] = rows["problem"].mask((rows["problem"] == "") & lacks, text)
        if self.comes_split:
            rows["split"] = _one_side(rows, self.table_name)
        columns = ["image", "slide", "patient", "mpp", *self.metadata, "caption", "split"]
        return rows[[*columns, "row", "problem"]]

    def files_without_row(self, rows: pd.DataFrame) -> list[tuple[str, str]]:
        """As :meth:`medi_monai.cohort.ImageTable.files_without_row`."""
        files = [item for source, _ in self._sources() for item in source.files_without_row(rows)]
        return sorted(set(files))

    @property
    def _roco_path(self) -> str:
        return str(dict(self.table).get("path") or ".") if isinstance(self.table, Mapping) else ""

    def _roco_tables(self) -> list[RocoTable]:
        return find_roco(self._checked_folder(), self._roco_path)

    def _sources(self) -> list[tuple[ImageTable, RocoTable | None]]:
        """The tables to read, each as an :class:`ImageTable`, which knows patterns, files and mapping."""
        folder = self._checked_folder()
        if not self.is_roco:
            return [(self._image_table(folder), None)]
        return [(_roco_table(folder, table, self.missing), table) for table in self._roco_tables()]

    def _checked_folder(self) -> Path:
        if not self.folder.is_dir():
            raise InputError(f"dataset_dir {self.root} is not a folder")
        return self.folder

    @property
    def _roles(self) -> dict[str, str | None]:
        # a picture without a column of its own for these is its own slide, or its own patient
        image_column = pattern_fields(self.columns.get("image") or "{image}")[0]
        patient = self.columns.get("patient", "patient")
        return {
            "image": self.columns.get("image"),
            "slide": self.columns.get("slide") or image_column,
            "patient": patient or image_column,
        }

    def _image_table(self, folder: Path) -> ImageTable:
        # without captions to read, the column of the image's name stands in for them: it is there in any case
        caption = self.columns.get("caption") or str(self._roles["slide"])
        mapping = {**(self.mapping or {}), CAPTION_COLUMN: {"column": caption}}
        more: list[str] = []
        if self.columns.get("split"):
            mapping[_SPLIT] = {"column": self.columns["split"]}
            more.append(_SPLIT)
        return ImageTable(
            folder,
            self.table,
            CAPTION_COLUMN,
            (*self.metadata, *more),
            self._roles,
            mapping=mapping,
            missing=self.missing,
            unit="tiles",
        )

    def _check_templates(self) -> None:
        mapped = set(self.mapping or {})
        spec = TableSpec.from_setting(self.table)
        table = spec.read(self._checked_folder(), {}).table
        self.templates.check_columns([*table.columns, *mapped], f"the columns of {spec.path}")
        for note in self.templates.notes(table.drop(columns=list(mapped & set(table.columns)))):
            print(f"{self.table_name}: {note}", flush=True)

    def _of_table(self, rows: pd.DataFrame) -> pd.DataFrame:
        if not self.columns.get("slide"):
            rows["slide"] = rows["image"]
        if self.columns.get("patient", "patient") is None:
            rows["patient"] = rows["image"]
        rows["split"] = _split_names(rows[_SPLIT], self.table_name) if _SPLIT in rows else ""
        if self.composes:
            rows["caption"], problem = self.templates.fill(rows, "image", self.missing or ())
            rows["problem"] = rows["problem"].mask(rows["problem"] == "", problem)
        return rows


#: name of the column of splits on its way through an :class:`ImageTable`, where ``split`` is taken
_SPLIT = "split of the table"


def _roco_table(folder: Path, table: RocoTable, missing: Sequence[str] | None) -> ImageTable:
    columns = {"image": table.image, "slide": table.name, "patient": table.name}
    mapping = {CAPTION_COLUMN: {"column": table.caption}}
    return ImageTable(folder, table.table, CAPTION_COLUMN, (), columns, None, mapping, missing, "tiles")


def _of_roco(rows: pd.DataFrame, table: RocoTable) -> pd.DataFrame:
    return rows.assign(slide=rows["image"], patient=article_of(rows["slide"]), split=table.split)


def _split_names(cells: pd.Series, where: str) -> pd.Series:
    names = clean_cells(cells).str.lower()
    names = names.map(lambda name: SPLIT_NAMES.get(name, name)).astype("str")
    for value in sorted(set(names)):
        if value not in ("", *SPLITS):
            raise unknown_value(f"split in {where}", value, (*SPLITS, *SPLIT_NAMES))
    return names


def _one_side(rows: pd.DataFrame, where: str) -> pd.Series:
    """The split of rows that come split, with no patient on two sides: what is held out stays so, the rest goes."""
    split = rows["split"].mask(rows["split"] == "", "excluded")
    for held in ("val", "holdout"):
        apart = keep_apart(rows, (split == held).to_numpy())
        split = split.mask((apart == "excluded") & split.isin(["train", "val"]), "excluded")
    moved = int(((split == "excluded") & rows["split"].isin(["train", "val"])).sum())
    if moved:
        print(
            f"{where}: {moved} rows are excluded because the table holds out other rows of their patients",
            flush=True,
        )
    return split
