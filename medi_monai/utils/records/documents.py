"""Read JSON documents, such as schemas and records of models, and check them completely before use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest, read_json

__all__ = ["Document", "parse_document", "read_document", "sealed", "unknown_keys"]

#: key of a sealed document with the SHA-256 of the rest of its content
SEAL = "digest"
MOST_SHOWN = 80


class Document(BaseModel):
    """Base class of the contents of JSON files: subclasses declare the only allowed keys and their types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, protected_namespaces=())

    #: number of the format, to be increased if a key changes its name or meaning
    FORMAT: ClassVar[int] = 1
    #: what the file is, for error messages
    TITLE: ClassVar[str] = "a document"

    format: int


AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_document(path: str | os.PathLike, kind: type[AnyDocument]) -> AnyDocument:
    """Read a JSON file and check it completely.

    Args:
        path: file to read.
        kind: class of the document.

    Raises:
        InputError: for a file that is missing, not JSON or of another format, a key that is unknown, missing or of the
            wrong type, or a digest that does not match the content.
    """
    return parse_document(read_json(path), kind, str(path))


def parse_document(content: Any, kind: type[AnyDocument], name: str) -> AnyDocument:
    """Check the content of a JSON file, named ``name`` in error messages; see :func:`read_document`."""
    if not isinstance(content, dict):
        raise InputError(f"{name} is not {kind.TITLE}: it holds {_shown(content)}")
    if "format" not in content:
        raise InputError(f"{name} is not {kind.TITLE}, or damaged: it has no `format`")
    if content["format"] != kind.FORMAT or isinstance(content["format"], bool):
        newer = isinstance(content["format"], int) and content["format"] > kind.FORMAT
        remedy = "update medi_monai" if newer else f"it is damaged, or not {kind.TITLE}"
        raise InputError(
            f"{name} has the format {_shown(content['format'])}, and this version of medi_monai reads format "
            f"{kind.FORMAT}: {remedy}"
        )
    try:
        document = kind.model_validate(content)
    except ValidationError as error:
        raise _input_error(error, kind, name) from None
    if SEAL in content and sealed(content)[SEAL] != content[SEAL]:
        raise InputError(f"{name} is damaged, or was changed by hand: its content does not fit its digest")
    return document


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with an additional key ``digest``, the SHA-256 of the rest."""
    inner = {key: value for key, value in content.items() if key != SEAL}
    return {**inner, SEAL: json_digest(inner)}


def unknown_keys(name: str, keys: Iterable[str]) -> InputError:
    """Return an :class:`InputError` for keys of a file that this version does not know."""
    return InputError(
        f"{name} has {', '.join(map(_shown, sorted(map(str, keys))[:5]))}, which this version of medi_monai does not "
        "know: a newer version wrote it (update medi_monai), or it was changed by hand"
    )


def _input_error(error: ValidationError, kind: type[Document], name: str) -> InputError:
    errors = error.errors()
    unknown = [str(problem["loc"][-1]) for problem in errors if problem["type"] == "extra_forbidden"]
    if unknown:
        return unknown_keys(name, unknown)
    first = errors[0]
    key = ".".join(str(step) for step in first["loc"] if "-str" not in str(step)) or "it"
    if first["type"] == "missing":
        return InputError(f"{name} is not {kind.TITLE}, or damaged: {key!r} is missing")
    reason = str(first["msg"]).replace("\n", " ")[:200]
    return InputError(f"{name} is not {kind.TITLE}, or damaged: {key} = {_shown(first['input'])}: {reason}")


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
