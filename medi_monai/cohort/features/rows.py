"""Rows of a table of metadata, and the columns by which features are matched to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits.given import GIVEN_SPLIT, one_side, split_names
from medi_monai.cohort.tables.layouts import TableSpec
from medi_monai.cohort.tables.repeats import REPEATS
from medi_monai.cohort.tables.roles import check_columns
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import listed, number_in, plural

__all__ = ["ROLES", "Level", "RowKeys", "metadata_rows", "sole_rows"]

#: roles of columns, with their default
ROLES = {"slide": "slide", "patient": "patient", "x": None, "y": None, "split": None}
#: roles in overlays of other runs, which features do not need
UNUSED = ("image", "mpp")


class Level(Enum):
    """What a row of the table is, and by what features are matched to it."""

    SLIDES = "slides"
    PATIENTS = "patients"
    PATCHES = "patches"
    #: features and metadata are in the same rows
    ROWS = "rows"


@dataclass(frozen=True)
class RowKeys:
    """Columns by which features are matched to rows.

    Args:
        level: what a row is.
        columns: column of the table for each role; None if there is none.
    """

    level: Level
    columns: Mapping[str, str | None]

    @classmethod
    def of(cls, metadata: Mapping[str, Any], features: Path) -> RowKeys:
        """Tell from ``columns`` what a row is, or from features that are in the same file as the metadata.

        Raises:
            InputError: for unknown or contradictory roles.
        """
        given = metadata["columns"]
        check_columns(given, (*ROLES, *UNUSED))
        named = {role: name and str(name) for role, name in given.items() if role not in UNUSED}
        columns: dict[str, str | None] = {**ROLES, **named}
        table = TableSpec.from_setting(metadata["table"])
        if features.is_file() and (Path(metadata["dataset_dir"] or ".") / table.path).resolve() == features.resolve():
            return cls(Level.ROWS, columns)
        if (columns["x"] is None) != (columns["y"] is None):
            raise InputError(f"columns = {dict(given)}: a table of patches has both x and y, other tables have neither")
        if columns["slide"] is None:
            if columns["x"] is not None or columns["patient"] is None:
                raise InputError(
                    f"columns = {dict(given)}: name the column of the slide, to which features are matched"
                )
            return cls(Level.PATIENTS, columns)
        return cls(Level.SLIDES if columns["x"] is None else Level.PATCHES, columns)

    @property
    def column(self) -> str:
        """Column of the rows that features are matched to by name."""
        return "patient" if self.columns["slide"] is None else "slide"

    @property
    def key_columns(self) -> list[str]:
        """Columns of a Parquet table of features: that of the name, and of the coordinates for a table of patches."""
        roles = (self.column, *(("x", "y") if self.level == Level.PATCHES else ()))
        return [str(self.columns[role]) for role in roles]

    @property
    def pattern(self) -> str:
        """What names a row, as a pattern of columns."""
        name = f"{{{self.columns[self.column]}}}"
        return name if self.level != Level.PATCHES else f"{name}@{{{self.columns['x']}}},{{{self.columns['y']}}}"


def metadata_rows(metadata: Mapping[str, Any], keys: RowKeys, on_error: str) -> tuple[pd.DataFrame, list[str]]:
    """Read the rows of the table that can be used.

    Args:
        metadata: see :func:`~medi_monai.cohort.features.table.read_feature_cohort`.
        keys: columns by which features are matched.
        on_error: ``stop`` or ``skip``.

    Returns:
        Rows with ``slide``, ``patient``, label and attributes, ``row`` (position in the table), for a table of patches
        numbers ``x`` and ``y``, and ``split`` if ``columns`` names a column of the split; and a note if rows were left
        out.

    Raises:
        InputError: for a table that cannot be read, or an unknown name of a split; for rows that cannot be used, unless
            they are skipped.
    """
    attributes = [name for name in metadata["attributes"] if name != metadata["label"]]
    given = keys.columns["split"]
    mapping = {**(metadata["mapping"] or {}), **({GIVEN_SPLIT: {"column": given}} if given else {})}
    source = ImageTable(
        root=metadata["dataset_dir"] or ".",
        table=metadata["table"],
        label=metadata["label"],
        attributes=[*attributes, *([GIVEN_SPLIT] if given else [])],
        columns={"image": keys.pattern, "slide": keys.columns["slide"], "patient": keys.columns["patient"]},
        mapping=mapping or None,
        missing=metadata["missing"],
        unit="patches",
    )
    # in a table that also holds the features, rows may have the same metadata
    same = keys.level == Level.ROWS
    rows = source.rows(check_files=False, volumes=same).sort_values("row", ignore_index=True)
    problems = rows["problem"].mask((rows["problem"] == REPEATS) & same, "")
    if keys.level == Level.PATCHES:
        places = rows["image"].str.extract(r"@([^@,]*),([^@,]*)$")
        for number, axis in enumerate("xy"):
            rows[axis] = [number_in(cell) if isinstance(cell, str) else None for cell in places[number]]
            problems = problems.mask((problems == "") & rows[axis].isna(), f"{keys.columns[axis]} is not a number")
    wrong, notes = rows[problems != ""], []
    if len(wrong):
        number = wrong.index[0]
        text = f"{source.table_name}, row {rows['row'][number] + 1} ({rows['image'][number]}): {problems[number]}"
        others = f"; {plural(len(wrong), 'row has', 'rows have')} some problem"
        if on_error == "stop" or len(wrong) == len(rows):
            raise InputError(f"{text}{others}. To leave such rows out: --on_error skip")
        notes.append(f"{plural(len(wrong), 'row')} of the table left out, such as {text}.")
        print(f"note: {notes[0]}", flush=True)
    kept = ["slide", "patient", metadata["label"], *attributes, "row", *(name for name in "xy" if name in rows)]
    usable = rows.loc[problems == ""].reset_index(drop=True)
    if not given:
        return usable[kept], notes
    usable["split"] = split_names(usable[GIVEN_SPLIT], source.table_name)
    usable["split"] = one_side(usable, source.table_name)
    return usable[[*kept, "split"]], notes


def sole_rows(rows: pd.DataFrame, name: str, kind: str) -> pd.DataFrame:
    """Return the metadata of a slide or patient, one row, whose patches or slides are averaged.

    Args:
        rows: rows of the slide or patient.
        name: its name.
        kind: ``slide`` or ``patient``.

    Raises:
        InputError: if its rows differ.
    """
    own = rows.columns.difference(["row", "x", "y", "image", "weight", *(["slide"] if kind == "patient" else [])])
    differing = [str(column) for column in own if rows[column].nunique() > 1]
    if differing:
        raise InputError(
            f"the rows of the {kind} {name!r} differ in {listed(differing)}, so its features cannot be averaged: set "
            f"--pooling {'none' if kind == 'slide' else 'none or slides'}, or correct the table"
        )
    return rows.iloc[:1]
