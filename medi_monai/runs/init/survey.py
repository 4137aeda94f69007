"""Find out what a folder contains: images by kind, and tables that can be read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort.tables.dicom import list_series
from medi_monai.cohort.tables.files import checked_folder, walk_files
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed, require
from medi_monai.utils.tables import TABLE_SUFFIXES, read_table
from medi_monai.wsi.readers import open_slide

__all__ = ["FoundTable", "Survey", "survey"]

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".zvi")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".jp2", ".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd")
DICOM = (".dcm", ".dicom", ".ima")
KINDS = {"volumes": VOLUMES, "dicom": DICOM, "slides": SLIDES, "pictures": PICTURES}

#: pictures with a longer side above the first number of pixels are slides, those up to the second patches, others tiles
SLIDE_SIDE, PATCH_SIDE = 4096, 1024
#: maximum number of pictures to open to find out their size
SAMPLED = 12
#: number of folder levels in which to search for tables
TABLE_DEPTH = 2
MAX_TABLES = 20
#: maximum number of columns of a table to look at; a matrix of genes may have tens of thousands
MAX_COLUMNS = 500


@dataclass(frozen=True)
class FoundTable:
    """A table: the value of the setting ``table`` that reads it, and its cells."""

    setting: str | dict[str, str]
    cells: pd.DataFrame

    @property
    def path(self) -> str:
        """Path of the table, relative to the folder."""
        return self.setting if isinstance(self.setting, str) else self.setting["path"]


@dataclass(frozen=True)
class Survey:
    """What a folder contains.

    Args:
        root: the folder.
        kind: most frequent kind of image: ``volumes``, ``dicom``, ``slides``, ``tiles`` or ``patches``.
        images: paths of the images of this kind, relative to ``root``.
        others: number of images of each other kind.
        tables: tables that can be read.
        side: most frequent length of the shorter side of pictures in pixels, or None.
        gray: whether pictures have no color, as in radiology.
        mpp: microns per pixel according to the first file, or None.
        notes: notes on tables that cannot be read or not completely.
        series: for ``dicom``, the series and their tags, from :func:`medi_monai.cohort.tables.dicom.list_series`.
    """

    root: Path
    kind: str
    images: list[str]
    others: Mapping[str, int]
    tables: list[FoundTable]
    side: int | None = None
    gray: bool = False
    mpp: float | None = None
    notes: list[str] = field(default_factory=list)
    series: pd.DataFrame = field(default_factory=pd.DataFrame)


def survey(target: Path) -> Survey:
    """Look at a folder, or at a table and the folder that contains it.

    Args:
        target: folder or table.

    Raises:
        InputError: if ``target`` does not exist, or the folder contains no image.
    """
    if not target.exists():
        raise InputError(f"{target} does not exist: give the folder of your images, or a table in it")
    root = checked_folder(target if target.is_dir() else target.parent).resolve()
    files = walk_files(root, "", ("",))[0]
    by_kind = {kind: [file for file in files if file.lower().endswith(suffixes)] for kind, suffixes in KINDS.items()}
    by_kind["dicom"] += _bare_dicom(root, files)
    if not any(by_kind.values()):
        named = ", ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
        raise InputError(f"{root} holds no image: files that end in {named}")
    kind = max(by_kind, key=lambda name: len(by_kind[name]))
    notes: list[str] = []
    tables = _tables(root, files if target.is_dir() else [target.name], notes)
    images, side, mpp, gray = by_kind[kind], None, None, False
    series = pd.DataFrame()
    others = {name: len(paths) for name, paths in by_kind.items() if name != kind and paths}
    if kind == "dicom" and _is_slide(root / images[0]):
        kind = "slides"
    elif kind == "dicom":
        series = list_series(root)[0]
    if kind == "pictures":
        side, longest, gray = _pictures(root, images)
        kind = "slides" if longest > SLIDE_SIDE else "tiles" if longest > PATCH_SIDE else "patches"
    if kind in ("slides", "tiles", "patches"):
        mpp, levels = _resolution(root / images[0])
        kind = "slides" if levels > 1 else kind
    return Survey(root, kind, images, others, tables, side, gray, mpp, notes, series)


def _bare_dicom(root: Path, files: list[str]) -> list[str]:
    """Return the files without a suffix, if a sample of them is DICOM; scanners write names such as ``IM0001``."""
    bare = [name for name in files if not re.search(r"\.[A-Za-z]\w*$", name) and not name.endswith("DICOMDIR")]
    return bare if bare and all(map(_begins_as_dicom, (root / name for name in _sample(bare)))) else []


def _begins_as_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _tables(root: Path, files: list[str], notes: list[str]) -> list[FoundTable]:
    names = [name for name in files if name.lower().endswith(TABLE_SUFFIXES) and name.count("/") <= TABLE_DEPTH]
    tables = []
    for name in names[:MAX_TABLES]:
        found = _read(root, name, notes)
        # a table with one column is probably not a table, such as a readme in .txt
        tables += [_narrowed(table, notes) for table in found if len(table.cells.columns) > 1]
    return tables


def _narrowed(table: FoundTable, notes: list[str]) -> FoundTable:
    columns = len(table.cells.columns)
    if columns <= MAX_COLUMNS:
        return table
    notes.append(f"{table.path} has {columns:,} columns, of which the first {MAX_COLUMNS} were looked at")
    return FoundTable(table.setting, table.cells.iloc[:, :MAX_COLUMNS])


def _read(root: Path, name: str, notes: list[str]) -> list[FoundTable]:
    try:
        return [FoundTable(name, read_table(root / name))]
    except InputError as error:
        reason = str(error)
    if "encoding: cp1252" in reason:
        try:
            cells = read_table(root / name, "cp1252")
        except InputError:
            cells = pd.DataFrame()
        if len(cells):
            notes.append(f"{name} is not UTF-8 and is read as Windows-1252: check names with umlauts and accents")
            return [FoundTable({"path": name, "encoding": "cp1252"}, cells)]
    if "has several sheets" in reason:
        return _sheets(root, name, notes)
    if not name.lower().endswith(".txt"):
        notes.append(reason)
    return []


def _sheets(root: Path, name: str, notes: list[str]) -> list[FoundTable]:
    openpyxl = require("openpyxl", f"to read {name}")
    tables = []
    for sheet in openpyxl.load_workbook(root / name, read_only=True).sheetnames:
        try:
            tables.append(FoundTable({"path": name, "sheet": sheet}, read_table(root / name, sheet=sheet)))
        except InputError as error:
            notes.append(str(error))
    return tables


def _sample(images: list[str]) -> list[str]:
    return images[:: max(len(images) // SAMPLED, 1)][:SAMPLED]


def _pictures(root: Path, images: list[str]) -> tuple[int | None, int, bool]:
    """Return the most frequent shorter side and the median longer side in pixels, and whether all pictures are gray."""
    sizes, gray = [], True
    for name in _sample(images):
        try:
            with Image.open(root / name) as picture:
                sizes.append(picture.size)
                if max(picture.size) <= SLIDE_SIDE and picture.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
                    pixels = np.asarray(picture.convert("RGB"))
                    gray = gray and bool((pixels == pixels[..., :1]).all())
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            # skip damaged files and formats that Pillow does not support; `preparing` reports them
            continue
    if not sizes:
        return None, SLIDE_SIDE + 1, False
    shorter = Counter(min(size) for size in sizes).most_common(1)[0][0]
    longer = sorted(max(size) for size in sizes)[len(sizes) // 2]
    return shorter, longer, gray and longer <= SLIDE_SIDE


def _resolution(path: Path) -> tuple[float | None, int]:
    """Return the microns per pixel of a file, or None if it does not contain them, and its number of levels."""
    # if the file does not contain its resolution, open it with an arbitrary one to count its levels
    for mpp in (None, 1.0):
        try:
            with open_slide(path, mpp) as slide:
                return (float(slide.mpp) if mpp is None else None), len(slide.level_downsamples)
        except (InputError, OSError):
            continue
    return None, 1


def _is_slide(path: Path) -> bool:
    if not is_installed("pydicom"):
        return False
    pydicom = require("pydicom", "to read DICOM")

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality") == "SM"
    except (OSError, pydicom.errors.InvalidDicomError):
        return False
