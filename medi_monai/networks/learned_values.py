"""Values of a column that were learned for a trained model, each a small file in the folder ``values`` beside it."""

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

__all__ = ["VALUES", "LearnedValue", "load_values", "values_for_weights", "save_value", "value_path"]

#: folder of the files, in that of the model
VALUES = "values"
FORMAT = 1
TEXTS = ("column", "value", "schema", "weights", "sha256")


@dataclass(frozen=True)
class LearnedValue:
    """A value that was learned with all weights of the model frozen.

    Args:
        column: label or attribute.
        value: its name.
        embedding: of the column's table of embeddings, ``(D,)``, with an offset of the condition of the network,
            ``(D + d_t,)``.
        schema: digest of the schema of the training.
        weights: SHA-256 of ``model.pt``.
        origin: the patches it was learned from, and how.
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
        """Its entry in an extended schema."""
        return AddedValue(self.column, self.value, self.source)


def value_path(ckpt_dir: str | os.PathLike, column: str, value: str) -> Path:
    """Path of the file of a value, with a digest of both names, which file names may not be able to represent."""
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{column}_{value}").strip(".-")[:60]
    return Path(ckpt_dir) / VALUES / f"{spelled}_{json_digest([column, value])[:8]}.pt"


def save_value(ckpt_dir: str | os.PathLike, learned: LearnedValue) -> Path:
    """Write a value into the folder of its model, and return the path."""
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
        schema: its schema; values of another one are of a model that was in the folder before, and are left out.

    Raises:
        InputError: for a file that is damaged, was changed, or holds something else.
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
    """The values that were learned for the model with this SHA-256 of its weights.

    Args:
        values: from :func:`load_values`.
        weights: SHA-256 of ``model.pt``.
        plan: a plan; if it names a value that was learned for other weights, this is an error.

    Raises:
        InputError: naming the value.
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
