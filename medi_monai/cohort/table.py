"""The cohort table: one row per patch, with paths relative to its folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, write_table
from medi_monai.utils.records.fingerprints import fingerprints
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import number_in

__all__ = ["PATCH_COLUMNS", "SPLITS", "TABLE_FILES", "Cohort", "find_table", "require_columns"]

#: file names of the cohort table, for short and for long tables
TABLE_FILES = ("cohort.csv", "cohort.parquet")

#: columns that every cohort table has, besides label and attributes
PATCH_COLUMNS = ("image", "slide", "patient", "x", "y", "mpp")

#: ``val`` has other patients with the combinations of ``train``; ``holdout`` has what the split scheme holds out;
#: ``excluded`` is not used
SPLITS = ("train", "val", "holdout", "excluded")


#: longer tables are written as Parquet, which is read ten times as fast
MAX_CSV_ROWS = 200_000


@dataclass(frozen=True)
class Cohort:
    """Patches and their metadata.

    Args:
        table: one row per patch with :data:`PATCH_COLUMNS`, label, attributes and ``split``; cells are strings.
        root: folder to which the paths in ``image`` are relative.
    """

    table: pd.DataFrame
    root: Path

    @classmethod
    def read(cls, path: str | os.PathLike) -> Cohort:
        """Read ``cohort.csv`` or ``cohort.parquet``, given its path or its folder."""
        path = Path(path)
        if path.is_dir():
            table_path = find_table(path)
            if table_path is None:
                raise InputError(f"{path} contains no {' or '.join(TABLE_FILES)}; run `preparing` first")
            path = table_path
        table = read_table(path)
        require_columns(table, ("image", "slide", "patient", "split"), path)
        for value in sorted(set(table["split"])):
            if value not in SPLITS:
                raise unknown_value(f"split in {path}", value, SPLITS)
        return cls(table, path.parent)

    @property
    def digest(self) -> str:
        """Digest of all cells in order and of the content of the images; takes seconds for a million rows."""
        hashes = pd.util.hash_pandas_object(self.table, index=False).to_numpy()
        return hashlib.sha256(hashes.tobytes() + self.pixel_digest.encode()).hexdigest()

    @property
    def pixel_digest(self) -> str:
        """Digest of the content of all image files in their order; a missing file counts as empty."""
        return json_digest(fingerprints([self.root / name for name in dict.fromkeys(self.table["image"])]))

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of all patches; None if they differ or the table does not contain them."""
        values = self.table["mpp"].unique().tolist() if "mpp" in self.table else []
        return number_in(str(values[0])) if len(values) == 1 else None

    def write(self) -> Path:
        """Write ``cohort.csv``, or ``cohort.parquet`` for long tables, to the root, and return its path."""
        names = list(TABLE_FILES)
        if len(self.table) > MAX_CSV_ROWS:
            names.reverse()
        write_table(self.root / names[0], self.table)
        (self.root / names[1]).unlink(missing_ok=True)
        return self.root / names[0]

    def split(self, *names: str) -> Cohort:
        """Return the cohort with only the rows of the named splits, renumbered."""
        for name in names:
            if name not in SPLITS:
                raise unknown_value("split", name, SPLITS)
        return Cohort(self.table[self.table["split"].isin(names)].reset_index(drop=True), self.root)

    def __len__(self) -> int:
        return len(self.table)


def find_table(folder: str | os.PathLike) -> Path | None:
    """Return the path of the cohort table in a folder; None if there is none."""
    return next((path for name in TABLE_FILES if (path := Path(folder) / name).is_file()), None)


def require_columns(table: pd.DataFrame, columns: Sequence[str], where: object) -> None:
    """Raise an :class:`InputError`, which suggests similar columns, for the first of ``columns`` that is missing."""
    for column in columns:
        if column not in table.columns:
            raise unknown_value("column", column, table.columns, f"It is expected in {where}.")
