"""List the DICOM series of a folder tree, with their tags as columns."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.tables.files import walk_files
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest
from medi_monai.utils.optional import require

__all__ = ["TAGS", "list_series", "series_digest", "series_files"]

#: tags that become columns of the table of series
TAGS = (
    *("PatientID", "PatientSex", "PatientAge", "InstitutionName", "Manufacturer", "ManufacturerModelName"),
    *("MagneticFieldStrength", "Modality", "StudyDate", "SeriesDescription", "ProtocolName", "RepetitionTime"),
    *("EchoTime", "SliceThickness", "StudyInstanceUID", "SeriesInstanceUID"),
)
#: length in years of each unit of an age
AGE = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def list_series(root: str | os.PathLike, pattern: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """List the DICOM series of a folder tree, one row each.

    Args:
        root: folder of the tree.
        pattern: wildcard pattern that ``SeriesDescription`` has to match regardless of case, such as ``*FLAIR*``; None
            for all series.

    Returns:
        A table of strings, sorted by image: ``image`` (folder of the series), ``patient`` (``PatientID``), ``images``
        (number of images in the series), and :data:`TAGS`, with ``PatientAge`` in years; and notes for the user.

    Raises:
        InputError: if there is no DICOM file, or no series matches.
    """
    dicom = _pydicom()
    series: dict[tuple[str, str], dict[str, str]] = {}
    for name in walk_files(root, "", ("",))[0]:
        try:
            header = dicom.dcmread(Path(root, name), stop_before_pixels=True, specific_tags=[*TAGS, "Rows"])
        except (dicom.errors.InvalidDicomError, OSError, EOFError):
            continue
        if "Rows" not in header:
            # a DICOMDIR, a report or another object without pixels
            continue
        key = os.path.dirname(name) or ".", _text(header, "SeriesInstanceUID")
        row = series.setdefault(key, {"image": key[0], **{tag: _text(header, tag) for tag in TAGS}, "images": "0"})
        row["images"] = str(int(row["images"]) + 1)
    if not series:
        raise InputError(f"{root} contains no DICOM images")
    table = pd.DataFrame(list(series.values()), dtype="str")
    table.insert(1, "patient", table["PatientID"])
    table["PatientAge"] = table["PatientAge"].map(age_in_years)
    if pattern is None:
        return _sorted(table), []
    matches = table["SeriesDescription"].str.lower().map(lambda text: fnmatch.fnmatchcase(text, pattern.lower()))
    if not matches.any():
        known = ", ".join(sorted(set(table["SeriesDescription"]))[:12])
        raise InputError(f"no series in {root} has a SeriesDescription like {pattern!r}. There are: {known}")
    left_out = int((~matches).sum())
    notes = [f"{left_out} of {len(table)} series are not used, as their SeriesDescription is not like {pattern}"]
    return _sorted(table[matches]), notes if left_out else []


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["image", "SeriesInstanceUID"], ignore_index=True)


def age_in_years(text: str) -> str:
    """Convert a DICOM age, such as ``045Y`` or ``018M``, to years, as text; empty if it is not one."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text.strip().upper())
    return f"{int(match[1]) * AGE[match[2]]:.4g}" if match else ""


def series_files(path: str | os.PathLike, series: str = "") -> list[Path]:
    """Return the files of a DICOM series, sorted by name.

    Args:
        path: folder of the series, or one of its files.
        series: ``SeriesInstanceUID``; needed if the folder contains several series.

    Raises:
        InputError: if the folder contains no DICOM image, or not this series, or several series and none is chosen.
    """
    dicom = _pydicom()
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    by_series: dict[str, list[Path]] = {}
    about: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        try:
            tags = ["SeriesInstanceUID", "SeriesDescription", "Rows"]
            header = dicom.dcmread(file, stop_before_pixels=True, specific_tags=tags)
        except (dicom.errors.InvalidDicomError, OSError, EOFError):
            continue
        if "Rows" in header:
            uid = _text(header, "SeriesInstanceUID")
            by_series.setdefault(uid, []).append(file)
            about[uid] = _text(header, "SeriesDescription") or uid
    if series and series not in by_series:
        raise InputError(f"{folder} contains no DICOM image of the series {series}")
    if not by_series:
        raise InputError(f"{folder} contains no DICOM images")
    if not series and len(by_series) > 1:
        names = ", ".join(sorted(about.values())[:8])
        raise InputError(
            f"{folder} contains {len(by_series)} DICOM series ({names}). Use `table: {{layout: dicom, path: …, series: "
            "…}}`, name a column with the SeriesInstanceUID as `series` in `columns`, or put each series in its own "
            "folder"
        )
    return by_series[series or next(iter(by_series))]


def series_digest(root: str | os.PathLike) -> str:
    """Return a digest of the names and sizes of all files in a folder tree."""
    return json_digest([[name, os.path.getsize(Path(root, name))] for name in walk_files(root, "", ("",))[0]])


def _pydicom() -> Any:
    return require("pydicom", "to read DICOM")


def _text(header: Any, tag: str) -> str:
    value = header.get(tag)
    return "" if value is None else " ".join(str(value).split())
