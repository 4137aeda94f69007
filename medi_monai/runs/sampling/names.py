"""File names of images: a folder for each combination, with a name valid on any file system, and a number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from medi_monai.schema import Conditioning, MetadataSchema
from medi_monai.utils.files import json_digest

__all__ = ["Twins", "case_twins", "combination_names", "image_name", "text_of", "word_of"]

Twins = Container[tuple[str, str | None]]


def image_name(row: Mapping[str, Any], keys: Sequence[str], twins: Twins = frozenset()) -> str:
    """Return ``images/<combination>/<number>.png``, with a digest if a file name cannot represent the combination.

    Args:
        row: a combination with ``number``.
        keys: columns of the combination.
        twins: pairs of column and value that differ from another value only in case, which some file systems ignore.
    """
    return f"images/{combination_name([row[key] for key in keys], keys, twins)}/{int(row['number']):05d}.png"


def combination_names(cells: pd.DataFrame, twins: Twins = frozenset()) -> list[str]:
    """Return the name of the folder of each combination; different combinations have different names.

    Args:
        cells: one row per combination.
        twins: see :func:`image_name`.
    """
    keys = list(cells.columns)
    columns = [cells[name].tolist() for name in keys]
    return [combination_name(row, keys, twins) for row in zip(*columns)] if keys else [""] * len(cells)


def combination_name(cells: Sequence[Any], keys: Sequence[str], twins: Twins = frozenset()) -> str:
    """Return the name of the folder of a combination; see :func:`image_name`."""
    values = [text_of(cell) for cell in cells]
    spelled = "_".join(map(_spelled, values))[:120]
    if (
        spelled != "_".join(value or "" for value in values)
        or any("_" in (value or "_") for value in values)
        or (any(twin in twins for twin in zip(keys, values)))
    ):
        spelled = f"{spelled}_{json_digest(values)[:8]}"
    return spelled


@lru_cache(maxsize=100_000)
def _spelled(value: str | None) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", word_of(value)).lstrip(".")


def case_twins(schema: Conditioning) -> set[tuple[str, str | None]]:
    """Return pairs of column and value for values that differ from another value of the vocabulary only in case."""
    twins: set[tuple[str, str | None]] = set()
    # captions have no vocabulary
    for column in schema.columns if isinstance(schema, MetadataSchema) else ():
        counts = Counter(value.casefold() for value in getattr(column, "values", ()))
        twins.update((column.name, value) for value in getattr(column, "values", ()) if counts[value.casefold()] > 1)
    return twins


def text_of(value: Any) -> str | None:
    """Return a cell as text; None for a cell that is left to the model."""
    return None if value is None else str(value)


def word_of(value: str | None) -> str:
    """Return a cell as a readable word: ``any`` for one that is left to the model, ``unknown`` for an empty one."""
    return "any" if value is None else value or "unknown"
