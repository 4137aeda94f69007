"""Try a proposed overlay on the folder without reading images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from medi_monai.cohort.settings import CaptionSettings, CohortSettings, caption_preparation, patch_preparation
from medi_monai.cohort.volumes import FILE
from medi_monai.runs.init.proposal import BRAIN
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import in_order, plural

__all__ = ["Trial", "try_overlay"]

#: maximum number of reasons to list, and of values of a column to list with their counts
MAX_REASONS, MAX_VALUES = 5, 12


@dataclass(frozen=True)
class Trial:
    """Result of trying an overlay.

    Args:
        lines: notes for the user.
        works: whether ``preparing`` can run with it.
    """

    lines: list[str]
    works: bool


def try_overlay(text: str, bundle: str) -> Trial:
    """Read the rows of the cohort as a proposed overlay describes it and split them, without reading images.

    Args:
        text: overlay as YAML.
        bundle: name of the bundle that it is for.
    """
    values = yaml.safe_load(text)
    group: Any = CaptionSettings if bundle == BRAIN else CohortSettings
    known = {name: value for name, value in values.items() if name in group.model_fields}
    # the defaults refer to columns of the demo, which other tables do not have
    given = {"attribute": None, "templates": None} | known if bundle == BRAIN else known
    try:
        with redirect_stdout(io.StringIO()) as printed:
            settings = group(**given)
            made = caption_preparation(settings, None) if bundle == BRAIN else patch_preparation(settings)
            rows = made.source.rows()
            strays = made.source.files_without_row(rows)
    except InputError as error:
        return Trial([f"the overlay needs an edit first: {error}"], False)
    usable = rows[rows["problem"] == ""]
    lines = [*_counts(rows, usable, _unit(values, rows)), *_reasons(rows), *_strays(strays)]
    lines += printed.getvalue().splitlines()
    try:
        with redirect_stdout(io.StringIO()):
            made.with_splits(usable)
    except InputError as error:
        return Trial([*lines, f"cannot be split: {error}"], False)
    return Trial(lines, len(usable) > 0)


def _unit(values: dict[str, Any], rows: pd.DataFrame) -> str:
    if FILE in rows:
        return "slice" if (rows[FILE] != rows["image"]).any() else "image"
    return {"slides": "slide", "tiles": "tile"}.get(values.get("unit", ""), "patch")


def _counts(rows: pd.DataFrame, usable: pd.DataFrame, unit: str) -> list[str]:
    of_files = f" of {plural(usable[FILE].nunique(), 'volume')}" if unit == "slice" else ""
    name = "patches" if unit == "patch" else f"{unit}s"
    of_patients = plural(usable["patient"].nunique(), "patient")
    first = f"{plural(len(usable), unit, name)}{of_files} can be used, of {of_patients}"
    built_in = {
        "image",
        "slide",
        "patient",
        "mpp",
        "caption",
        "split",
        "row",
        "problem",
        *rows.filter(like=" of the row"),
    }
    return [first, *(_values(usable[column], name) for column in rows if column not in built_in)]


def _values(cells: pd.Series, unit: str) -> str:
    counts = cells[cells != ""].value_counts()
    absent = int((cells == "").sum())
    if len(counts) > MAX_VALUES:
        listed = f"{len(counts)} values, {counts.index[0]} the most frequent"
    else:
        listed = ", ".join(f"{value} {counts[value]:,}" for value in in_order(counts.index)) or "no value"
    return f"{unit} by {cells.name}: {listed}" + (f", missing {absent:,}" if absent else "")


def _reasons(rows: pd.DataFrame) -> list[str]:
    wrong = rows[rows["problem"] != ""]
    reasons = wrong["problem"].value_counts()
    lines = []
    for reason in reasons.index[:MAX_REASONS]:
        image = wrong.loc[wrong["problem"] == reason, "image"].iloc[0]
        example = f", such as {image}" if image else ""
        lines.append(f"{plural(int(reasons[reason]), 'row')} cannot be used: {reason}{example}")
    further = int(reasons[MAX_REASONS:].sum())
    return [*lines, *([f"{plural(further, 'further row')} cannot be used for other reasons"] if further else [])]


def _strays(strays: Sequence[tuple[str, str]]) -> list[str]:
    if not strays:
        return []
    path, reason = strays[0]
    return [f"{plural(len(strays), 'file')} will not be used, such as {path}: {reason}"]
