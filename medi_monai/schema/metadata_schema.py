"""Metadata schema: label and attributes of a model, saved as JSON in the folder of every model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import pandas as pd
import torch
from pydantic import BaseModel, Field

from medi_monai.schema.columns import NULL, UNKNOWN, CategoricalColumn, ContinuousColumn, check_names
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json, write_json
from medi_monai.utils.records import Document, check_unchanged, parse_document

__all__ = ["MetadataSchema"]

Column = CategoricalColumn | ContinuousColumn


@dataclass(frozen=True)
class MetadataSchema:
    """Label and attributes in a fixed order, which defines the codes of all conditions.

    Args:
        label: column of the class label.
        attributes: additional metadata columns that the model is conditioned on; none for a class-only model (CLS).
    """

    label: CategoricalColumn
    attributes: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(self.attributes))
        check_names(self.names)
        if len(set(self.names)) != len(self.names):
            raise InputError(f"label and attributes must be different columns, not {list(self.names)}")
        if not self.label.values:
            raise InputError(f"the label {self.label.name!r} has no values in the training table")

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, label: str, attributes: Sequence[str] = (), continuous: Sequence[str] = ()
    ) -> MetadataSchema:
        """Create the schema of a training table, independent of the order of its rows.

        Args:
            table: one row per patch (or per slide); cells may be strings.
            label: column of the class label.
            attributes: columns of the attributes, in the order of the conditioning.
            continuous: numeric columns among ``attributes``.

        Raises:
            InputError: for a missing column, or a continuous column that is not among the attributes.
        """
        for name in (label, *attributes):
            if name not in table.columns:
                raise unknown_value("column", name, table.columns, "Label and attributes must be columns of the table.")
        for name in continuous:
            if name not in attributes:
                raise unknown_value("continuous attribute", name, attributes, "Add it to `attributes` as well.")
        columns = tuple(
            (ContinuousColumn if name in continuous else CategoricalColumn).from_values(name, table[name].unique())
            for name in attributes
        )
        return cls(CategoricalColumn.from_values(label, table[label].unique()), columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The label, followed by the attributes."""
        return (self.label, *self.attributes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of :attr:`columns`, in the order of the codes."""
        return tuple(column.name for column in self.columns)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON form; two models agree on all codes if and only if their digests are equal."""
        return json_digest(self.to_dict())

    def encode(
        self, table: pd.DataFrame | Mapping[str, Sequence], unseen: str = "error", absent: str = "error"
    ) -> torch.Tensor:
        """Encode the rows of a table.

        Args:
            table: table with a column for each of :attr:`names`; additional columns are ignored. ``None`` in a mapping
                or in a column of dtype object is null; missing data (NaN, empty cells) are unknown.
            unseen: what to do with values that are not in the training data: raise an ``"error"``, or encode them as
                ``"unknown"``.
            absent: what to do with attributes without a column: raise an ``"error"``, or encode them as ``"null"``,
                which leaves them to the model. The label is required.

        Returns:
            ``(N, 1 + k)`` float32: -2 null, -1 unknown, otherwise an index or a number scaled to [0, 1].

        Raises:
            InputError: for a missing column, or a value that is not in the training data (unless allowed).
        """
        for name, choice, allowed in (("unseen", unseen, "unknown"), ("absent", absent, "null")):
            if choice not in ("error", allowed):
                raise unknown_value(f"choice of `{name}`", choice, ("error", allowed))
        frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(dict(table), dtype=object)
        codes = torch.empty(len(frame), len(self.columns), dtype=torch.float32)
        for index, column in enumerate(self.columns):
            if column.name not in frame.columns and absent == "null" and index > 0:
                codes[:, index] = NULL
                continue
            if column.name not in frame.columns:
                raise unknown_value("column", column.name, frame.columns, f"The schema has {list(self.names)}.")
            codes[:, index] = _encode_column(column, frame[column.name].astype(object).tolist(), unseen)
        return codes

    def decode(self, codes: torch.Tensor) -> pd.DataFrame:
        """Return the table of ``(N, 1 + k)`` codes, with ``None`` for null and the empty string for unknown."""
        if codes.ndim != 2 or codes.shape[1] != len(self.columns):
            raise InputError(
                f"codes of shape {tuple(codes.shape)} do not match the {len(self.columns)} columns of the schema"
            )
        return pd.DataFrame(
            {
                column.name: pd.Series([column.decode(code) for code in codes[:, index].tolist()], dtype=object)
                for index, column in enumerate(self.columns)
            }
        )

    def null_codes(self, num_rows: int) -> torch.Tensor:
        """Return ``(num_rows, 1 + k)`` codes of the null condition, with label and attributes dropped."""
        return torch.full((num_rows, len(self.columns)), float(NULL))

    def to_dict(self) -> dict:
        """Return the JSON form."""
        return {
            "format": 1,
            "label": self.label.to_dict(),
            "attributes": [column.to_dict() for column in self.attributes],
        }

    @classmethod
    def from_dict(cls, content: Mapping, name: str = "the schema") -> MetadataSchema:
        """Create the schema from the output of :meth:`to_dict`.

        Args:
            content: JSON content.
            name: name of the file, for error messages.

        Raises:
            InputError: if the content is not a schema, or is from a newer version.
        """
        document = parse_document(content, SchemaDocument, name)
        label, *attributes = (column.build() for column in (document.label, *document.attributes))
        return cls(cast(CategoricalColumn, label), tuple(attributes))

    def save(self, path: str | os.PathLike) -> None:
        """Write ``schema.json``."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> MetadataSchema:
        """Read ``schema.json``."""
        if not Path(path).is_file():
            raise InputError(
                f"schema not found: {path}. Train a model first, or set ckpt_dir to the folder of a trained model."
            )
        schema = cls.from_dict(read_json(path), str(path))
        check_unchanged(path)
        return schema


class CategoricalDocument(BaseModel):
    """A categorical column in ``schema.json``."""

    model_config = Document.model_config
    name: str = Field(min_length=1)
    kind: Literal["categorical"]
    values: list[str]

    def build(self) -> Column:
        return CategoricalColumn(self.name, tuple(self.values))


class ContinuousDocument(BaseModel):
    """A continuous column in ``schema.json``."""

    model_config = Document.model_config
    name: str = Field(min_length=1)
    kind: Literal["continuous"]
    low: float
    high: float

    def build(self) -> Column:
        return ContinuousColumn(self.name, self.low, self.high)


class SchemaDocument(Document):
    """``schema.json``."""

    TITLE = "a metadata schema"
    label: CategoricalDocument
    attributes: list[Annotated[CategoricalDocument | ContinuousDocument, Field(discriminator="kind")]]


def _encode_column(column: Column, values: Sequence[object], unseen: str) -> torch.Tensor:
    # encode each distinct value once, because even a million rows have few of them
    known: dict[object, float] = {}
    for value in set(values):
        try:
            known[value] = column.encode(value, null=value is None)
        except InputError:
            if unseen == "error":
                raise
            known[value] = UNKNOWN
    return torch.tensor([known[value] for value in values], dtype=torch.float32)
