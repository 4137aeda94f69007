"""Source of a captioned cohort: a table of images with captions, or with columns to compose captions from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.captions.roco import RocoTable, article_of, find_roco
from medi_monai.cohort.captions.templates import CaptionTemplates
from medi_monai.cohort.demo import BRAIN_DEMO_NAMES, DemoCohort
from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits.given import GIVEN_SPLIT, one_side, split_names
from medi_monai.cohort.tables.files import checked_folder
from medi_monai.cohort.tables.layouts import LAYOUTS, TableSpec
from medi_monai.cohort.tables.patterns import pattern_fields
from medi_monai.cohort.tables.roles import check_columns
from medi_monai.cohort.volumes import FILE, SERIES, SLICE, VolumeRules, expand_volumes
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["CAPTION_COLUMN", "CaptionTable"]

CAPTION_COLUMN = "caption"

ROLES = ("image", "slide", "patient", "caption", "split", "slice", "series")

ROCO = "roco"


@dataclass(frozen=True)
class CaptionTable:
    """A table with one row per image, and the folder of the images.

    Args:
        root: folder to which image paths are relative (``dataset_dir``). ``None`` is the demo brain cohort, and
            ``demo_balanced`` is its reference cohort with equal numbers of women and men; both are generated on first
            use.
        table: path of the table relative to ``root``, or any table that :class:`medi_monai.cohort.ImageTable` accepts.
            ``{layout: roco, path: …}`` reads ROCO or ROCOv2 (one table, or the folder of all tables with their split).
        attributes: columns to copy to the cohort, from the table or from ``mapping``; columns of templates are added.
        columns: column for each role: ``patient`` (``patient`` by default; ``null`` if each image is of a different
            patient), ``slide`` (path of the image by default), ``caption``, and ``split`` if the table has a split.
            ``image`` is a pattern with columns in braces, ``{image}`` by default.
        templates: templates to compose captions from: :class:`CaptionTemplates`, a list of templates, or ``{templates:
            …, words: …, seed: …}``. With words but no templates, captions are read from the table, and the words
            determine which values a caption names.
        mapping: rules for attributes and columns of templates, described in
            :mod:`medi_monai.cohort.tables.mapping`.
        missing: words that mean missing data in any column; None: :data:`medi_monai.schema.MISSING_WORDS`.
        volumes: which slices of volumes (NIfTI, DICOM series, MetaImage, NRRD) become images. Alternatively, the column
            in the role ``slice`` has the index of one slice per row. The column in the role ``series`` has the
            SeriesInstanceUID, which is needed if a folder has several series.

    Raises:
        InputError: for unknown or contradictory settings; this check reads no file.
    """

    root: str | os.PathLike | None = None
    table: str | Mapping[str, Any] = "slices.csv"
    attributes: Sequence[str] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    templates: Any = None
    mapping: Mapping[str, Any] | None = None
    missing: Sequence[str] | None = None
    volumes: VolumeRules = field(default_factory=VolumeRules)

    def __post_init__(self) -> None:
        check_columns(self.columns, ROLES)
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
        """Whether captions are composed from templates rather than read."""
        return self.templates is not None and self.templates.composes

    @property
    def is_roco(self) -> bool:
        """Whether the layout is ROCO's or ROCOv2's."""
        return isinstance(self.table, Mapping) and self.table.get("layout") == ROCO

    @property
    def metadata(self) -> tuple[str, ...]:
        """Attributes, and the columns that captions are composed from, which are later needed to compose prompts."""
        composed = self.templates.columns if self.templates is not None else ()
        return tuple(dict.fromkeys([*self.attributes, *composed]))

    @property
    def folder(self) -> Path:
        """The root as a path; generates the images of a demo cohort if it is selected and does not exist."""
        demo = DemoCohort.selected_by(self.root)
        if demo is None or demo.stain_only:
            return Path(str(self.root))
        # import the generator of the demo only if it is needed
        from medi_monai.cohort.demo.brain_cohort import brain_dataset

        return brain_dataset(demo.seed, demo.balanced)

    @property
    def table_name(self) -> str:
        """Path of the table or of the folder of tables, for use in messages."""
        return self._roco_path if self.is_roco else TableSpec.from_setting(self.table).path

    @property
    def comes_split(self) -> bool:
        """Whether the table already has a split."""
        if not self.is_roco:
            return bool(self.columns.get("split"))
        return any(table.split for table in self._roco_tables())

    def settings(self) -> dict:
        """Return all settings that determine :meth:`rows`, JSON-compatible, with digests of all tables."""
        return {
            "root": str(checked_folder(self.folder, BRAIN_DEMO_NAMES).resolve()),
            "tables": {source.table_name: source.settings() for source, _ in self._sources()},
            "attributes": list(self.attributes),
            "columns": dict(self.columns),
            "templates": self.templates.settings() if self.templates is not None else None,
            "volumes": asdict(self.volumes),
        }

    def rows(self, check_files: bool = True) -> pd.DataFrame:
        """Return the table with the columns of a cohort, sorted by image; print notes for the user.

        Args:
            check_files: whether to check that each image exists.

        Returns:
            Columns of strings, with the empty string for missing data: ``image`` (path relative to the root),
            ``slide``, ``patient``, ``mpp`` (empty), :attr:`metadata`, ``caption`` (with whitespace normalized), and
            ``split`` (empty if the table has none). ``row`` is the position in the table that the row is from, counted
            from 0. ``problem`` is the reason why a row cannot be used: a problem that
            :class:`medi_monai.cohort.ImageTable` reports, no caption, no patient, no matching template, or a value that
            does not fit the template. A volume has one row per slice: ``file`` is the path of the volume, ``slice``
            identifies the slice, and ``series`` the DICOM series; for an image, ``file`` equals ``image`` and the other
            two are empty.

        Raises:
            InputError: see :meth:`medi_monai.cohort.ImageTable.rows`; also if a column of a template is missing or a
                split has an unknown name.
        """
        if self.templates is not None and not self.is_roco:
            self._check_templates()
        tables = []
        for source, roco in self._sources():
            rows = source.rows(check_files, volumes=roco is None)
            tables.append(self._rows_of_table(rows) if roco is None else _rows_of_roco(rows, roco))
        rows = pd.concat(tables, ignore_index=True).sort_values("image", kind="stable", ignore_index=True)
        rows["caption"] = rows["caption"].str.replace(r"\s+", " ", regex=True).str.strip()
        for text, lacks in (("no caption", rows["caption"] == ""), ("no patient", rows["patient"] == "")):
            rows["problem"] = rows["problem"].mask((rows["problem"] == "") & lacks, text)
        if self.comes_split:
            rows["split"] = one_side(rows, self.table_name)
        columns = ["image", "slide", "patient", "mpp", *self.metadata, "caption", "split"]
        return rows[[*columns, FILE, SLICE, SERIES, "row", "problem"]]

    def files_without_row(self, rows: pd.DataFrame) -> list[tuple[str, str]]:
        """Like :meth:`medi_monai.cohort.ImageTable.files_without_row`."""
        rows = rows.assign(image=rows[FILE])
        files = [item for source, _ in self._sources() for item in source.files_without_row(rows)]
        return sorted(set(files))

    @property
    def _roco_path(self) -> str:
        return str(dict(self.table).get("path") or ".") if isinstance(self.table, Mapping) else ""

    def _roco_tables(self) -> list[RocoTable]:
        return find_roco(checked_folder(self.folder, BRAIN_DEMO_NAMES), self._roco_path)

    def _sources(self) -> list[tuple[ImageTable, RocoTable | None]]:
        """Return the tables to read, each as an :class:`ImageTable`, which handles patterns, files and mapping."""
        folder = checked_folder(self.folder, BRAIN_DEMO_NAMES)
        if not self.is_roco:
            return [(self._image_table(folder), None)]
        return [(_roco_table(folder, table, self.missing), table) for table in self._roco_tables()]

    @property
    def _roles(self) -> dict[str, str | None]:
        # without a column for the slide or the patient, each image counts as one
        image_column = pattern_fields(self.columns.get("image") or "{image}")[0]
        patient = self.columns.get("patient", "patient")
        return {
            "image": self.columns.get("image"),
            "slide": self.columns.get("slide") or image_column,
            "patient": patient or image_column,
        }

    def _image_table(self, folder: Path) -> ImageTable:
        # if no captions are read, the column of the image name takes their place, because it always exists
        caption = self.columns.get("caption") or str(self._roles["slide"])
        mapping = {**(self.mapping or {}), CAPTION_COLUMN: {"column": caption}}
        roles = {GIVEN_SPLIT: self.columns.get("split"), SLICE: self.columns.get("slice"), SERIES: self._series_column}
        more = [name for name, column in roles.items() if column]
        mapping |= {name: {"column": roles[name]} for name in more}
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

    @property
    def _series_column(self) -> str | None:
        # the layout `dicom` has a column for the series
        is_dicom = isinstance(self.table, Mapping) and self.table.get("layout") == "dicom"
        return self.columns.get("series", "SeriesInstanceUID" if is_dicom else None)

    def _check_templates(self) -> None:
        mapped = set(self.mapping or {})
        spec = TableSpec.from_setting(self.table)
        table = spec.read(checked_folder(self.folder, BRAIN_DEMO_NAMES), {}).table
        self.templates.check_columns([*table.columns, *mapped], f"the columns of {spec.path}")
        for note in self.templates.notes(table.drop(columns=list(mapped & set(table.columns)))):
            print(f"{self.table_name}: {note}", flush=True)

    def _rows_of_table(self, rows: pd.DataFrame) -> pd.DataFrame:
        if not self.columns.get("slide"):
            rows["slide"] = rows["image"]
        if self.columns.get("patient", "patient") is None:
            rows["patient"] = rows["image"]
        rows["split"] = split_names(rows[GIVEN_SPLIT], self.table_name) if GIVEN_SPLIT in rows else ""
        for name in (SLICE, SERIES):
            rows[name] = rows.get(name, "")
        rows = expand_volumes(rows, self.folder, self.volumes)
        if self.composes:
            rows["caption"], problem = self.templates.fill(rows, "image")
            rows["problem"] = rows["problem"].mask(rows["problem"] == "", problem)
        return rows


def _roco_table(folder: Path, table: RocoTable, missing: Sequence[str] | None) -> ImageTable:
    columns = {"image": table.image, "slide": table.name, "patient": table.name}
    mapping = {CAPTION_COLUMN: {"column": table.caption}}
    return ImageTable(folder, table.table, CAPTION_COLUMN, (), columns, None, mapping, missing, "tiles")


def _rows_of_roco(rows: pd.DataFrame, table: RocoTable) -> pd.DataFrame:
    rows = rows.assign(**{FILE: rows["image"], SLICE: "", SERIES: ""})
    return rows.assign(slide=rows["image"], patient=article_of(rows["slide"]), split=table.split)
