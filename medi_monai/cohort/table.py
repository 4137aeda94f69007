"""The cohort table: one row per patch, and the folder that its paths start from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, write_table
from medi_monai.utils.fingerprints import fingerprints
from medi_monai.utils.tables import read_table

__all__ = ["PATCH_COLUMNS", "SPLITS", "TABLE_FILES", "Cohort", "require_columns"]

#: names of the table in the folder of a cohort; the first for short ones
TABLE_FILES = ("cohort.csv", "cohort.parquet")

#: columns of every cohort table besides label and attributes
PATCH_COLUMNS = ("image", "slide", "patient", "x", "y", "mpp")

#: ``val`` are other patients of the combinations in training; ``holdout`` are the combinations held out
SPLITS = ("train", "val", "holdout", "excluded")


#: longer tables are written as Parquet, which is read ten times as fast
MAX_CSV_ROWS = 200_000


@dataclass(frozen=True)
class Cohort:
    """Patches and their metadata.

    Args:
        table: one row per patch with :data:`PATCH_COLUMNS`, label, attributes and ``split``; cells are strings.
        root: folder that the paths in ``image`` start from.
    """

    table: pd.DataFrame
    root: Path

    @classmethod
    def read(cls, path: str | os.PathLike) -> Cohort:
        """Read ``cohort.csv`` or ``cohort.parquet``, or the one that lies in the folder ``path``."""
        path = Path(path)
        if path.is_dir():
            tables = [path / name for name in TABLE_FILES if (path / name).is_file()]
            if not tables:
                raise InputError(f"{path} contains no {' or '.join(TABLE_FILES)}; run `preparing` first")
            path = tables[0]
        table = read_table(path)
        require_columns(table, ("image", "slide", "patient", "split"), path)
        for value in sorted(set(table["split"])):
            if value not in SPLITS:
                raise unknown_value(f"split in {path}", value, SPLITS)
        return cls(table, path.parent)

    @property
    def digest(self) -> str:
        """A digest of all cells in their order, and of the content of the images; a million rows take seconds."""
        hashes = pd.util.hash_pandas_object(self.table, index=False).to_numpy()
        return hashlib.sha256(hashes.tobytes() + self.pixel_digest.encode()).hexdigest()

    @property
    def pixel_digest(self) -> str:
        """A digest of the content of all image files in their order; one that is missing counts as empty."""
        return json_digest(fingerprints([self.root / name for name in dict.fromkeys(self.table["image"])]))

    def write(self) -> Path:
        """Write ``cohort.csv``, or ``cohort.parquet`` where it is long, into the root; returns its path."""
        names = list(TABLE_FILES)
        if len(self.table) > MAX_CSV_ROWS:
            names.reverse()
        write_table(self.root / names[0], self.table)
        (self.root / names[1]).unlink(missing_ok=True)
        return self.root / names[0]

    def split(self, *names: str) -> Cohort:
        """The part of the cohort in the named splits, rows renumbered."""
        for name in names:
            if name not in SPLITS:
                raise unknown_value("split", name, SPLITS)
        return Cohort(self.table[self.table["split"].isin(names)].reset_index(drop=True), self.root)

    def __len__(self) -> int:
        return len(self.table)


def require_columns(table: pd.DataFrame, columns: Sequence[str], where: object) -> None:
    """Raise an :class:`InputError` that names the first of ``columns`` that a table lacks and its nearest ones."""
    for column in columns:
        if column not in table.columns:
            raise unknown_value("column", column, table.columns, f"It is expected in {where}.")
