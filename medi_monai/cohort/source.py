"""Source of a cohort: a table of images with metadata, and the roles of its columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.demo import DemoCohort, demo_dataset
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.cohort.tables.files import (
    A_FOLDER,
    FOREIGN,
    IMAGE_SUFFIXES,
    absent_files,
    checked_folder,
    inside_paths,
    local_paths,
    walk_files,
)
from medi_monai.cohort.tables.layouts import TableContent, TableSpec
from medi_monai.cohort.tables.mapping import ColumnRule, parse_mapping
from medi_monai.cohort.tables.patterns import fill_pattern, match_files, pattern_fields, static_folder
from medi_monai.cohort.tables.repeats import REPEATS, contradictions, repeats
from medi_monai.cohort.tables.roles import check_columns
from medi_monai.cohort.tables.spelling import look_alike_notes, spelled_on_disk
from medi_monai.schema import MISSING_WORDS, check_names, missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest
from medi_monai.utils.text import number_in, plural

__all__ = ["ROW_COLUMNS", "UNITS", "ImageTable"]

ROLES = {"image": "{image}", "slide": "slide", "patient": "patient", "mpp": None}

#: what a row of the table is: ``slides`` and ``tiles`` are cut into patches, ``patches`` are used uncut
UNITS = ("slides", "tiles", "patches")

#: ``(N,)`` bool of the rows that have a problem, and the reason, for each row or for all
Problem = tuple[pd.Series, pd.Series | str]

#: columns of :meth:`ImageTable.rows` in addition to those of a cohort
ROW_COLUMNS = ("row", "problem")


@dataclass(frozen=True)
class ImageTable:
    """A table with one row per slide, tile or patch, and the folder of its images.

    Args:
        root: folder to which image paths are relative (``dataset_dir``). ``None`` is the demo cohort,
            ``demo_balanced`` its negative control, ``demo_stain`` a demo cohort whose centers differ in staining and
            optics alone, and ``demo@1`` the demo cohort of another seed; their slides are generated on first use.
        table: path of the CSV, TSV, Excel or Parquet table, relative to ``root``; a GDC table or a TCGA-UT folder tree,
            such as ``{layout: gdc, path: slide.tsv, clinical: clinical.tsv}`` or ``{layout: tcga_ut, level: "0"}`` (see
            :class:`medi_monai.cohort.tables.TableSpec`); or, if there is no table, a pattern of the image paths, such
            as ``{diagnosis}/{center}/{patient}_*.png``.
        label: column of the class label, in the table or in ``mapping``.
        attributes: columns to copy to the cohort as metadata, from the table or from ``mapping``.
        columns: column for each role: ``slide``, ``patient`` and, if the files do not contain it, ``mpp``. ``image`` is
            a pattern with columns in braces, such as ``slides/{slide_submitter_id}.tiff``. A ``*`` in it matches any
            characters except ``/``, as in ``slides/*/{slide_submitter_id}.*.svs``. With ``slide: null``, each image
            counts as a slide; with ``patient: null``, each slide counts as a patient.
        source_mpp: microns per pixel of all images, if neither files nor table contain it.
        mapping: rules for label and attributes, described in :mod:`medi_monai.cohort.tables.mapping`; a rule takes
            precedence over a column of the same name.
        missing: words that mean missing data in any column, after rules have renamed values; None:
            :data:`medi_monai.schema.MISSING_WORDS`. An empty cell is missing in any case.
        unit: what a row is, one of :data:`UNITS`. With ``slides``, slide names must be unique; several tiles or patches
            may share one.

    Raises:
        InputError: for unknown or contradictory settings; this check reads no file.
    """

    root: str | os.PathLike | None
    table: str | Mapping[str, Any]
    label: str
    attributes: Sequence[str] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    source_mpp: float | None = None
    mapping: Mapping[str, Any] | None = None
    missing: Sequence[str] | None = None
    unit: str = "slides"

    def __post_init__(self) -> None:
        check_columns(self.columns, ROLES)
        check_names((self.label, *self.attributes))
        if self.unit not in UNITS:
            raise unknown_value("unit of the table's rows", self.unit, UNITS)
        if isinstance(self.missing, str):
            raise InputError(f"missing = {self.missing!r}: it must be a list of strings")
        parse_mapping(self.mapping)
        if TableSpec.from_setting(self.table).layout == "tcga_ut" and self.unit != "patches":
            raise InputError(f"unit = {self.unit!r}: TCGA-UT consists of patches; set unit: patches")

    @property
    def folder(self) -> Path:
        """The root as a path; generates the demo slides if they are selected and do not exist."""
        demo = DemoCohort.selected_by(self.root)
        return Path(str(self.root)) if demo is None else demo_dataset(demo)

    @property
    def table_name(self) -> str:
        """Path of the table, folder tree or pattern, for use in messages."""
        return TableSpec.from_setting(self.table).path

    def settings(self) -> dict:
        """Return all settings that determine :meth:`rows`, JSON-compatible, with digests of all tables."""
        root = checked_folder(self.folder)
        lookups = sorted({rule.lookup.table for rule in parse_mapping(self.mapping).values() if rule.lookup})
        return {
            **_with_text_keys(asdict(self)),
            "root": str(root.resolve()),
            "table_sha256": TableSpec.from_setting(self.table).digest(root),
            "lookup_sha256": {name: file_digest(root / name) for name in lookups if (root / name).is_file()},
        }

    def rows(self, check_files: bool = True, volumes: bool = False) -> pd.DataFrame:
        """Return the table with the columns of a cohort, sorted by image; print notes for the user.

        Args:
            check_files: whether to check that each image exists; each folder is listed once, which takes some seconds
                for a million files.
            volumes: whether an image may also be a folder, such as a DICOM series, and several rows may name the same
                image.

        Returns:
            Columns of strings, with the empty string for missing data: ``image`` (path relative to the root,
            normalized), ``slide``, ``patient``, ``mpp`` (may be empty), label and attributes. ``row`` is the position
            in the table, counted from 0. ``problem`` is the reason why a row cannot be used, one line, or empty: the
            path is outside the root or matches no file or several, the file is missing, several rows name the image,
            several images have this slide name (for ``slides``), the mpp is not a positive number, label, slide or
            patient is missing, or the mapping does not allow a value.

        Raises:
            InputError: for a table that is missing, empty or unreadable, a missing column, or a code that is missing
                from a table of codes.
        """
        content = self._content()
        rows, problems, notes = self._columns(content.table)
        for note in (*content.notes, *notes):
            print(f"{self.table_name}: {note}", flush=True)
        rows["image"], problem = self._images(content.table)
        named = problem == ""
        rows["image"], absent = self._located(rows["image"], named, check_files)
        rows = self._with_roles(rows)
        wrongs = (*_problems(rows, self, absent, named, volumes), *self._lacking(content.table, rows))
        for wrong, reason in (*wrongs, *problems):
            if wrong.any():
                problem = problem.mask(wrong & (problem == ""), reason)
        rows = rows.assign(row=range(len(rows)), problem=problem)
        if rows["image"].is_monotonic_increasing:
            return rows
        return rows.sort_values("image", kind="stable", ignore_index=True)

    def files_without_row(self, rows: pd.DataFrame) -> list[tuple[str, str]]:
        """Return the image files that no row of the table refers to.

        Args:
            rows: result of :meth:`rows`.

        Returns:
            ``(path, reason)``, sorted: images without a row, and broken or circular links, in the folders of the image
            pattern (or, if it begins with a column, in the folders of the rows' images); for a folder tree or pattern,
            everything that does not fit it.
        """
        spec = TableSpec.from_setting(self.table)
        if spec.lists_files:
            return list(spec.read(checked_folder(self.folder), {}).strays)
        if spec.layout == "dicom":
            # this layout lists all series, and a note says how many are not used
            return []
        named = set(rows["image"])
        stray: list[tuple[str, str]] = []
        for top, depth in self._image_folders(rows):
            files, problems = walk_files(self.folder, top, self._suffixes, depth)
            stray += [(file, "no row of the table names this file") for file in files if file not in named]
            stray += [(path, reason) for path, reason in problems if path not in named]
        # a DICOM slide is a folder of files; a row names one of its files
        dicom = {os.path.dirname(name) for name in named if name.lower().endswith(".dcm")}
        # for a DICOM series, a row names the folder
        dicom |= set(rows.loc[rows["problem"] == "", "image"])
        return sorted(item for item in stray if os.path.dirname(item[0]) not in dicom)

    @property
    def _pattern(self) -> str:
        return str(self.columns.get("image") or ROLES["image"])

    @property
    def _named(self) -> dict[str, str]:
        roles = {role: self.columns.get(role, default) for role, default in ROLES.items() if role != "image"}
        spec = TableSpec.from_setting(self.table)
        if spec.layout == "folders" and "slide" not in self.columns and "slide" not in pattern_fields(spec.path):
            roles["slide"] = None
        return {role: str(column) for role, column in roles.items() if column}

    @property
    def _words(self) -> Sequence[str]:
        return MISSING_WORDS if self.missing is None else self.missing

    def _image_folders(self, rows: pd.DataFrame) -> list[tuple[str, int | None]]:
        # if the pattern does not begin with a folder, search the folders of the rows' images: the root may contain
        # other data
        top = static_folder(self._pattern)
        if top or "*" in self._pattern:
            return [(top, None)]
        tops = rows.loc[rows["problem"] == "", "image"].str.extract("^([^/]*)/", expand=False).fillna("").unique()
        return [(str(name), None if name else 0) for name in sorted(tops)]

    @property
    def _suffixes(self) -> tuple[str, ...]:
        suffix = os.path.splitext(self._pattern)[1].lower()
        return (suffix,) if suffix in IMAGE_SUFFIXES else IMAGE_SUFFIXES

    def _rules(self) -> dict[str, ColumnRule]:
        rules = parse_mapping(self.mapping)
        names = dict.fromkeys([self.label, *self.attributes])
        return {name: rules.get(name) or ColumnRule(name, name) for name in names}

    def _content(self) -> TableContent:
        needed = dict.fromkeys([*pattern_fields(self._pattern), *self._named.values()], "columns")
        for name, rule in self._rules().items():
            setting = "label" if name == self.label else "metadata_columns"
            needed.setdefault(rule.column, setting if rule.column == name else f"mapping of {name}")
        spec = TableSpec.from_setting(self.table)
        if spec.layout == "folders" and self._named.get("patient", "") not in ("", *pattern_fields(spec.path)):
            raise InputError(
                f"table = {spec.path!r} names no {{{self._named['patient']}}}, and patients decide the split: name the "
                "part of the path that says it; if none does, set columns: {patient: null} and each image counts as a "
                "patient of its own"
            )
        kept: dict[str, set[str]] = {}
        for rule in self._rules().values():
            kept.setdefault(rule.column, set()).update(rule.names, rule.aliases)
        return spec.read(checked_folder(self.folder), needed, self.missing, kept)

    def _columns(self, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem], list[str]]:
        words = self._words
        rows = pd.DataFrame({"image": pd.Series("", index=table.index, dtype="str")})
        for role, column in self._named.items():
            rows[role] = clean_cells(table[column], words)
        if "mpp" not in rows:
            rows["mpp"] = ""
        if self.source_mpp is not None:
            rows["mpp"] = rows["mpp"].mask(rows["mpp"] == "", str(self.source_mpp))
        problems: list[Problem] = []
        notes: list[str] = []
        for name, rule in self._rules().items():
            mapped = rule.apply(table, self.folder, words)
            rows[name] = mapped.values
            problems.append((mapped.problems != "", mapped.problems))
            notes += [*mapped.notes, *_unlisted_words(mapped.values)]
        compared = {name: rows[name] for name in (*self._rules(), "patient") if name in rows}
        return rows, problems, [*notes, *look_alike_notes(compared, self.mapping)]

    def _with_roles(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Fill in slides and patients if no column has them, and return the columns in the order of a cohort."""
        if "slide" not in rows:
            rows["slide"] = rows["image"]
        if "patient" not in rows:
            rows["patient"] = rows["slide"]
            print(
                f"{self.table_name}: patients are unknown: each {'image' if 'slide' not in self._named else 'slide'} "
                "counts as a patient of its own, so that images of one patient may be in training and in the holdout",
                flush=True,
            )
        first = ["image", "slide", "patient", "mpp"]
        return rows[[*first, *rows.columns.difference(first, sort=False)]]

    def _located(self, images: pd.Series, named: pd.Series, check_files: bool) -> tuple[pd.Series, pd.Series]:
        """Return image paths as they are spelled on disk, and for each the reason why there is no file, or empty."""
        absent = pd.Series("", index=images.index, dtype="str")
        if not check_files or TableSpec.from_setting(self.table).lists_files:
            return images, absent
        absent[named] = absent_files(images[named], self.folder)
        lost = absent == "file not found"
        if not lost.any():
            return images, absent
        spelled = images.copy()
        spelled[lost], absent[lost] = spelled_on_disk(images[lost], self.folder)
        changed = spelled != images
        if changed.any():
            example = f"{ascii(images[changed].iloc[0])} is {ascii(spelled[changed].iloc[0])}"
            print(
                f"{self.table_name}: file names in {plural(int(changed.sum()), 'row')} differ from the "
                "disk in Unicode form, "
                f"case or blanks alone and are taken as meant, for example {example}",
                flush=True,
            )
        return spelled, absent

    def _lacking(self, table: pd.DataFrame, rows: pd.DataFrame) -> Iterator[Problem]:
        columns = {self.label: self._rules()[self.label].column}
        columns |= {name: self._named[name] for name in ("patient", "slide") if name in self._named}
        for name, column in columns.items():
            empty = rows[name] == ""
            cells = table[column][empty].str.strip()
            # name the word in the reason, because it may be meant as the name of a class
            words = cells[missing_cells(cells, self._words) & (cells != "")]
            reason = "means missing data; to keep it, rename it in `mapping`, or set the words in `missing`"
            texts = (f"no {name}: " + words.map(repr) + " " + reason) if len(words) else words
            yield empty, texts.reindex(rows.index, fill_value=f"no {name}")

    def _local(self, images: pd.Series) -> pd.Series:
        """Return the images with paths of another computer replaced by those of the matching files here."""
        foreign = images[images.str.match(FOREIGN)]
        if foreign.empty or "*" in self._pattern:
            return images
        local = local_paths(foreign, walk_files(self.folder, "", IMAGE_SUFFIXES)[0])
        if local:
            rows = int(foreign.isin(list(local)).sum())
            path, file = next(iter(local.items()))
            print(
                f"{self.table_name}: {plural(rows, 'row names', 'rows name')} files by paths of another computer, "
                f"which are taken by their ends: {path} is {file}",
                flush=True,
            )
        return images.map(lambda path: local.get(path, path)).astype("str")

    def _images(self, table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
        images = fill_pattern(self._pattern, table)
        problem = pd.Series("", index=images.index, dtype="str")
        for column in pattern_fields(self._pattern):
            absent = missing_cells(table[column], self._words)
            problem = problem.mask(absent, f"no {column}, which the path of the image requires")
        images = self._local(images)
        images, leaves = inside_paths(images, self.folder)
        problem = problem.mask(leaves & (problem == ""), "the path is outside the folder of the data set")
        if "*" in self._pattern:
            files = walk_files(self.folder, static_folder(self._pattern), self._suffixes)[0]
            matched, wrong = match_files(images, files)
            images, problem = matched, problem.mask(problem == "", wrong)
        return images, problem


def _problems(
    rows: pd.DataFrame, source: ImageTable, absent: pd.Series, named: pd.Series, volumes: bool
) -> Iterator[Problem]:
    repeated = named & repeats(rows)
    yield repeated, REPEATS
    if not volumes:
        clashes = contradictions(rows[named & ~repeated]).reindex(rows.index, fill_value="")
        yield clashes != "", clashes
    yield (absent != "") & ~(absent.eq(A_FOLDER) & volumes), absent
    if source.unit == "slides":
        images = rows.loc[rows["slide"] != "", ["slide", "image"]].drop_duplicates()
        several = rows["slide"].isin(images.loc[images["slide"].duplicated(), "slide"].unique())
        yield several, "slide " + rows["slide"].map(repr) + " is the name of several images"
    right = {value: value == "" or _is_resolution(value) for value in rows["mpp"].unique()}
    if not all(right.values()):
        yield (
            ~rows["mpp"].map(right).astype(bool),
            rows["mpp"].map(repr) + " microns per pixel is not a positive number, such as 0.25",
        )


def _unlisted_words(values: pd.Series) -> list[str]:
    found = [value for value in values.unique() if value.lower() in MISSING_WORDS]
    return [
        f"{values.name} has the value {value!r} in {plural(int((values == value).sum()), 'row')}: it is no "
        "missing data, for "
        "`missing` does not list it"
        for value in found
    ]


def _with_text_keys(content: Any) -> Any:
    # YAML parses some keys as numbers, which JSON cannot sort together with strings
    if isinstance(content, Mapping):
        return {str(key): _with_text_keys(value) for key, value in content.items()}
    return content


def _is_resolution(text: str) -> bool:
    return (number_in(text) or 0) > 0
