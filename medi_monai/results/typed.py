"""Conversion between results (dataclasses) and the mappings that measures return and JSON files contain."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from medi_monai.utils.errors import InputError

__all__ = ["Result", "plain", "typed"]

T = TypeVar("T")


class Result:
    """Base class of all results; unknown keys raise an error."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def typed(cls: type[T], content: Any, source: str = "") -> T:
    """Convert nested mappings to results.

    Args:
        cls: dataclass of this package.
        content: mapping with the fields of ``cls``; it may contain mappings, arrays and results.
        source: where the content comes from, for the error message.

    Raises:
        InputError: for an unknown or missing key, or a value of the wrong type.
    """
    try:
        # mypy regards generic types as unhashable
        result: T = _adapter(cls).validate_python(plain(content))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{source or 'the content'} is not of the type {cls.__name__}: {where}: {first['msg']}"
        ) from None
    return result


@cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def plain(value: Any) -> Any:
    """Convert a value to JSON types: dataclasses and mappings to dictionaries, sequences and arrays to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value
