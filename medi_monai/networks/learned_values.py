"""Save and load values that were learned for a trained model, each a small file in its folder ``values``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medi_monai.schema import AddedValue, MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import check_state, json_digest, load_tensors, save_tensors, tensors_digest
from medi_monai.utils.records import check_unchanged

__all__ = ["VALUES", "LearnedValue", "load_values", "save_value", "value_path", "values_for_weights"]

#: folder of the files, within the folder of the model
VALUES = "values"
FORMAT = 1
TEXTS = ("column", "value", "schema", "weights", "sha256")


@dataclass(frozen=True)
class LearnedValue:
    """A value of a column that was learned with all weights of the model frozen.

    Args:
        column: label or attribute.
        value: name of the value.
        embedding: ``(D,)``, like the embeddings of the column, or ``(D + d_t,)`` with an offset of ``z_cond``.
        schema: digest of the schema of the training.
        weights: SHA-256 of the model's ``model.pt``.
        origin: record of the patches it was learned from, and how.
    """

    column: str
    value: str
    embedding: torch.Tensor
    schema: str
    weights: str
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """SHA-256 of the embedding."""
        return tensors_digest({"embedding": self.embedding})

    @property
    def added(self) -> AddedValue:
        """Entry of the value in an extended schema."""
        return AddedValue(self.column, self.value, self.source)


def value_path(ckpt_dir: str | os.PathLike, column: str, value: str) -> Path:
    """Return the path of the file of a value; it has a digest, as a file name may not represent both names uniquely."""
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{column}_{value}").strip(".-")[:60]
    return Path(ckpt_dir) / VALUES / f"{spelled}_{json_digest([column, value])[:8]}.pt"


def save_value(ckpt_dir: str | os.PathLike, learned: LearnedValue) -> Path:
    """Write a learned value to the folder of its model, and return the path of its file."""
    path = value_path(ckpt_dir, learned.column, learned.value)
    content = {
        "format": FORMAT,
        "column": learned.column,
        "value": learned.value,
        "schema": learned.schema,
        "weights": learned.weights,
        "origin": dict(learned.origin),
    }
    embedding = learned.embedding.detach().cpu()
    save_tensors(path, {**content, "embedding": embedding, "sha256": _digest(content, embedding)})
    return path


def load_values(ckpt_dir: str | os.PathLike, schema: MetadataSchema) -> tuple[LearnedValue, ...]:
    """Read all values that were learned for the models in a folder, sorted by name.

    Args:
        ckpt_dir: folder of a model.
        schema: schema of the model; values for another schema, learned for a model that was in the folder before, are
            omitted.

    Raises:
        InputError: for a file that is damaged, was changed, or does not contain a learned value.
    """
    paths = sorted((Path(ckpt_dir) / VALUES).glob("*.pt"))
    values = [_read(path) for path in paths]
    return tuple(value for value in values if value.schema == schema.digest)


def _read(path: Path) -> LearnedValue:
    check_unchanged(path)
    content = load_tensors(path)
    keys = {"format", "embedding", "origin", *TEXTS}
    if not isinstance(content, dict) or set(content) != keys or not isinstance(content["origin"], dict):
        raise InputError(f"{path} is not a learned value; it holds {sorted(map(str, content))[:5]}")
    if content["format"] != FORMAT:
        raise InputError(
            f"{path} has the format {content['format']}, and this version reads {FORMAT}: update medi_monai"
        )
    embedding = check_state(path, {"embedding": content["embedding"]}, {})["embedding"]
    inner = {name: value for name, value in content.items() if name not in ("embedding", "sha256")}
    if not all(isinstance(content[name], str) for name in TEXTS) or _digest(inner, embedding) != content["sha256"]:
        raise InputError(f"{path} is damaged: its content does not fit the digest that it was written with")
    names = {name: content[name] for name in ("column", "value", "schema", "weights", "origin")}
    return LearnedValue(embedding=embedding, **names)


def _digest(content: Mapping[str, Any], embedding: torch.Tensor) -> str:
    return json_digest([dict(content), tensors_digest({"embedding": embedding})])


def values_for_weights(values: Sequence[LearnedValue], weights: str, plan: pd.DataFrame) -> tuple[LearnedValue, ...]:
    """Return the values that were learned for a model, identified by its weights.

    Args:
        values: result of :func:`load_values`.
        weights: SHA-256 of ``model.pt``.
        plan: plan to sample.

    Raises:
        InputError: if the plan names a value that was learned for other weights.
    """
    fitting = tuple(value for value in values if value.weights == weights)
    known = {(value.column, value.value) for value in fitting}
    for value in values:
        named = value.column in plan.columns and value.value in set(plan[value.column])
        if named and (value.column, value.value) not in known:
            raise InputError(
                f"{value.column} = {value.value!r} was learned for other weights than those of this model: run "
                "`adapting` again"
            )
    return fitting
