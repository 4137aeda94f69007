"""The one conversion from mappings, as measures and JSON files have them, to results."""

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
    """What results inherit from: unknown keys are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def typed(cls: type[T], content: Any, source: str = "") -> T:
    """Results from mappings, down to the leaves.

    Args:
        cls: a dataclass of this package.
        content: a mapping of its fields, which may hold mappings, arrays and results.
        source: of the content, for the message.

    Raises:
        InputError: for a key that is unknown or missing, or a value of another type.
    """
    try:
        # mypy takes generic types for unhashable
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
    """A value as JSON holds it: dataclasses and mappings as dictionaries, sequences and arrays as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value
