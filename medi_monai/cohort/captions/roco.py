"""ROCO and ROCOv2: figures of open-access articles on radiology, with their captions.

ROCO: O. Pelka et al., "Radiology Objects in COntext (ROCO): A Multimodal Image Dataset", LABELS 2018. As distributed
with images, each split is a folder ``train``, ``validation`` or ``test`` with a table ``radiology…data.csv`` (``id,
name, caption``) and the images in ``radiology/images``. ROCOv2: J. Rückert et al., "ROCOv2: Radiology Objects in
COntext Version 2", Scientific Data 2024: tables ``train_captions.csv`` … (``ID, Caption``), each with its images in a
folder next to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from medi_monai.utils.errors import InputError

__all__ = ["RocoTable", "article_of", "find_roco"]

#: name of a split in the tables of ROCO and of ROCOv2, and its name here
SPLITS = (("train", "train", "train"), ("val", "valid", "val"), ("test", "test", "holdout"))
FOLDERS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class RocoTable:
    """One table of ROCO or ROCOv2.

    Args:
        table: path of the table, relative to the data set's folder.
        image: pattern of the image paths, with column names in braces.
        caption: column of captions.
        name: column of image names.
        split: split of all rows of this table; empty if it is the only table and is still to be split.
    """

    table: str
    image: str
    caption: str
    name: str
    split: str = ""


def find_roco(root: str | os.PathLike, path: str = ".") -> list[RocoTable]:
    """Find the tables of a data set in either layout.

    Args:
        root: the data set's folder.
        path: a single table, or the folder of all tables, relative to ``root``.

    Raises:
        InputError: if no table is found, or if tables of both layouts are found.
    """
    where = Path(root, path)
    tables = list(_tables_in(Path(root), where.parent if where.is_file() else where))
    if where.is_file():
        named = [table for table in tables if Path(root, table.table).resolve() == where.resolve()]
        tables = named or [_read_table(Path(root), where)]
    if not tables:
        raise InputError(
            f"{where} contains no table of ROCO (train/radiologytraindata.csv) or of ROCOv2 (train_captions.csv); name "
            "its folder with `path` in `table`, or check dataset_dir"
        )
    if len({table.caption for table in tables}) > 1:
        raise InputError(f"{where} contains tables of both ROCO and ROCOv2; name one folder with `path` in `table`")
    if len(tables) == 1:
        only = tables[0]
        return [RocoTable(only.table, only.image, only.caption, only.name)]
    return tables


def _tables_in(root: Path, folder: Path) -> Iterator[RocoTable]:
    for first, second, split in SPLITS:
        # the path may be the folder of one split of ROCO, or the folder of all splits
        candidates = [base / f"radiology{first}data.csv" for base in (folder / FOLDERS[first], folder)]
        for table in [table for table in candidates if table.is_file()][:1]:
            yield _first_version(root, table, split)
        table = folder / f"{second}_captions.csv"
        if table.is_file():
            yield _second_version(root, table, second, split)


def _read_table(root: Path, table: Path) -> RocoTable:
    stem = table.name.removesuffix(".csv").removesuffix("_captions")
    second = next((name for _, name, _ in SPLITS if stem.endswith(name)), None)
    header = pd.read_csv(table, nrows=0).columns
    if {"name", "caption"} <= set(header):
        return _first_version(root, table, "")
    if {"ID", "Caption"} <= set(header) and second is not None:
        return _second_version(root, table, second, "")
    raise InputError(
        f"{table} is not a table of ROCO (id, name, caption) or ROCOv2 (ID, Caption; named train, valid or test); "
        f"its columns are {', '.join(map(repr, header))}"
    )


def _first_version(root: Path, table: Path, split: str) -> RocoTable:
    base = _from(root, table.parent)
    return RocoTable(_from(root, table), _join(base, "radiology/images/{name}"), "caption", "name", split)


def _second_version(root: Path, table: Path, name: str, split: str) -> RocoTable:
    # depending on the program, the image archives unpack into one folder or into two nested ones
    choices = (f"{name}", f"{name}_images/{name}", f"{name}_images")
    folder = next((choice for choice in choices if (table.parent / choice).is_dir()), name)
    return RocoTable(_from(root, table), _join(_from(root, table.parent), folder, "{ID}.jpg"), "Caption", "ID", split)


def _from(root: Path, path: Path) -> str:
    try:
        return PurePosixPath(path.relative_to(root)).as_posix()
    except ValueError:
        return str(path)


def _join(*names: str) -> str:
    return "/".join(name for name in names if name not in ("", "."))


def article_of(names: pd.Series) -> pd.Series:
    """Return the article that each image of ROCO is from: ``PMC4083729`` for ``PMC4083729_AMHSR-4-14-g002.jpg``.

    Figures of an article often show the same patient, so an article is treated as a patient. Names that do not begin
    with an article, as in ROCOv2, are returned unchanged.
    """
    return names.str.extract(r"^(PMC\d+)", expand=False).fillna(names).astype("str")
