"""Where a cohort comes from: a table of slides or of tiles, with the names of its columns."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medi_monai.cohort.table import require_columns
from medi_monai.schema import is_missing
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import read_table

__all__ = ["ImageTable"]

ROLES = ("image", "slide", "patient", "mpp")


@dataclass(frozen=True)
class ImageTable:
    """A table with one row per slide, or per tile of a slide.

    Args:
        root: folder that image paths start from (``dataset_dir``).
        table: path of the CSV, TSV or Parquet table, from ``root``.
        label: column of the class label.
        attributes: columns to carry into the cohort as metadata.
        columns: which column plays which role: ``slide``, ``patient`` and, where files lack it, ``mpp`` name a
            column; ``image`` is a pattern of columns in braces, as ``slides/{slide_submitter_id}.tiff``.
        source_mpp: microns per pixel of all images, where neither files nor table say.
    """

    root: str | os.PathLike
    table: str
    label: str
    attributes: Sequence[str] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    source_mpp: float | None = None

    def __post_init__(self) -> None:
        for role in self.columns:
            if role not in ROLES:
                raise unknown_value("role in `columns`", role, ROLES)

    def rows(self) -> pd.DataFrame:
        """The table as cohort columns: ``image, slide, patient, mpp``, label, attributes, ordered by image.

        Missing data of any spelling becomes the empty string; ``mpp`` may be empty.

        Raises:
            InputError: for a missing, empty or unreadable table, or a column that it lacks.
        """
        path = Path(self.root) / self.table
        if not Path(self.root).is_dir():
            raise InputError(f"dataset_dir {self.root} is not a folder")
        table = read_table(path)
        roles = {"image": "{image}", "slide": "slide", "patient": "patient", **self.columns}
        pattern = str(roles["image"])
        used = [name for _, name, _, _ in string.Formatter().parse(pattern) if name]
        named = [str(roles[role]) for role in ("slide", "patient", "mpp") if roles.get(role)]
        require_columns(table, [*used, *named, self.label, *self.attributes], path)
        rows = pd.DataFrame(
            {
                "image": [pattern.format(**row) for row in table[used].to_dict("records")],
                "slide": table[str(roles["slide"])],
                "patient": table[str(roles["patient"])],
                "mpp": table[str(roles["mpp"])] if roles.get("mpp") else "",
            }
        )
        for name in (self.label, *self.attributes):
            rows[name] = table[name].where(~table[name].map(is_missing), "")
        if self.source_mpp is not None:
            rows["mpp"] = rows["mpp"].where(~rows["mpp"].map(is_missing), str(self.source_mpp))
        doubled = rows.loc[rows["image"].duplicated(), "image"]
        if len(doubled):
            raise InputError(f"{path} names the image {doubled.iloc[0]!r} in more than one row")
        return rows.sort_values("image", ignore_index=True)
