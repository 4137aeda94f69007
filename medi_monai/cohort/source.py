"""Where a cohort comes from: a table of slides or of tiles, with the names of its columns."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from medi_monai.cohort.demo import demo_dataset
from medi_monai.cohort.table import PATCH_COLUMNS, require_columns
from medi_monai.schema import is_missing
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest, read_table

__all__ = ["ImageTable"]

ROLES = {"image": "{image}", "slide": "slide", "patient": "patient", "mpp": None}
#: a column of the table in the pattern of an image's path; names with dots, as the GDC has them, are names
FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class ImageTable:
    """A table with one row per slide, or per tile of a slide.

    Args:
        root: folder that image paths start from (``dataset_dir``); ``None`` is the demo cohort, whose slides are
            written on first use.
        table: path of the CSV, TSV or Parquet table, from ``root``.
        label: column of the class label.
        attributes: columns to carry into the cohort as metadata.
        columns: which column plays which role: ``slide``, ``patient`` and, where files lack it, ``mpp`` name a
            column; ``image`` is a pattern of columns in braces, as ``slides/{slide_submitter_id}.tiff``.
        source_mpp: microns per pixel of all images, where neither files nor table say.
    """

    root: str | os.PathLike | None
    table: str
    label: str
    attributes: Sequence[str] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    source_mpp: float | None = None

    def __post_init__(self) -> None:
        for role in self.columns:
            if role not in ROLES:
                raise unknown_value("role in `columns`", role, ROLES)
        for name in (self.label, *self.attributes):
            if name in (*PATCH_COLUMNS, "split"):
                raise InputError(f"the label or attribute {name!r} has the name of a column of every cohort; rename it")

    @property
    def folder(self) -> Path:
        """The root as a path; the demo slides are written here if they are meant and lack."""
        return demo_dataset() if self.root is None else Path(self.root)

    def settings(self) -> dict:
        """All that decides what :meth:`rows` returns, as JSON, with the digest of the table's content."""
        path = self._table_path()
        return {**asdict(self), "root": str(self.folder.resolve()), "table_sha256": file_digest(path)}

    def rows(self) -> pd.DataFrame:
        """The table as cohort columns: ``image, slide, patient, mpp``, label, attributes, ordered by image.

        Missing data of any spelling becomes the empty string; ``mpp`` may be empty.

        Raises:
            InputError: for a missing, empty or unreadable table, a column that it lacks, an image in two rows, or a
                resolution that is not a number.
        """
        path = self._table_path()
        table = read_table(path)
        roles = {role: self.columns.get(role) or default for role, default in ROLES.items()}
        pattern = str(roles["image"])
        fields = FIELD.findall(pattern)
        if not fields or set(FIELD.sub("", pattern)) & set("{}"):
            raise InputError(
                f"the pattern of `image` is {pattern!r}; write columns in braces, as 'slides/{{name}}.svs'"
            )
        named = {role: str(roles[role]) for role in ("slide", "patient", "mpp") if roles[role]}
        metadata = list(dict.fromkeys([self.label, *self.attributes]))
        require_columns(table, [*fields, *named.values()], f"{path}, as `columns` says")
        require_columns(table, [self.label], f"{path}, as `label` says")
        require_columns(table, metadata, f"{path}, as `metadata_columns` says")
        cells = table[list(dict.fromkeys([*named.values(), *metadata]))]
        cells = cells.mask(cells.map(is_missing), "")
        rows = pd.DataFrame({"image": [_filled(pattern, row) for row in table[fields].to_dict("records")]})
        rows[[*named]] = cells[[*named.values()]]
        rows[metadata] = cells[metadata]
        if "mpp" not in rows:
            rows["mpp"] = ""
        if self.source_mpp is not None:
            rows["mpp"] = rows["mpp"].mask(rows["mpp"] == "", str(self.source_mpp))
        _check_rows(rows, path)
        return rows.sort_values("image", ignore_index=True)

    def _table_path(self) -> Path:
        if not self.folder.is_dir():
            raise InputError(f"dataset_dir {self.root} is not a folder")
        path = self.folder / self.table
        if not path.is_file():
            raise InputError(f"there is no table at {path}; name it with `table`, or check dataset_dir")
        return path


def _filled(pattern: str, row: Mapping[str, str]) -> str:
    return FIELD.sub(lambda found: row[found[1]], pattern)


def _check_rows(rows: pd.DataFrame, path: Path) -> None:
    doubled = rows.loc[rows["image"].duplicated(), "image"]
    if len(doubled):
        raise InputError(f"{path} names the image {doubled.iloc[0]!r} in more than one row")
    wrong = rows[(rows["mpp"] != "") & pd.to_numeric(rows["mpp"], errors="coerce").isna()]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"{path} gives {row['mpp']!r} as the microns per pixel of {row['image']!r}, which is no number"
        )
