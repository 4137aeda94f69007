"""Use captions as conditions: the counterpart of the metadata schema for text-to-image networks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import Field

from medi_monai.networks.text.encoder import FrozenTextEncoder, load_text_encoder
from medi_monai.networks.text.loading import is_local
from medi_monai.schema import CategoricalColumn
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json, write_json
from medi_monai.utils.records import Document, parse_document

__all__ = ["CAPTION", "CaptionDropout", "CaptionSchema", "drop_captions", "portable_schema"]

#: column of the captions
CAPTION = "caption"
KIND = "captions"
#: folder of the text model next to the schema, if they are packed together
TEXT_MODEL = "text_model"


class CaptionSchema:
    """Schema of a text-to-image model: its text encoder, and the number of tokens of a caption.

    It is the counterpart of :class:`medi_monai.schema.MetadataSchema`; its codes are ``(N, max_length)`` token ids.

    Args:
        text_encoder: frozen text encoder, shared with the network.
    """

    #: counterpart of the class label of a metadata schema, without a vocabulary
    label = CategoricalColumn(CAPTION, ())
    attributes: tuple = ()

    def __init__(self, text_encoder: FrozenTextEncoder) -> None:
        self.text_encoder = text_encoder

    @property
    def columns(self) -> tuple[CategoricalColumn, ...]:
        """The caption column."""
        return (self.label,)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that :meth:`encode` reads."""
        return (CAPTION,)

    @property
    def digest(self) -> str:
        """SHA-256: two models agree on all codes and their states if and only if their digests are equal."""
        return json_digest({"kind": KIND, "text_encoder": self.text_encoder.digest})

    def encode(
        self, table: pd.DataFrame | Mapping[str, Sequence], unseen: str = "error", absent: str = "error"
    ) -> torch.Tensor:
        """Encode the captions of a table.

        Args:
            table: table with a column ``caption``; other columns are ignored. None, NaN and the empty string are null.
            unseen: ``"error"`` or ``"unknown"``, as for a metadata schema; it has no effect, since a tokenizer can
                encode any text.
            absent: what to do with a table without captions: raise an ``"error"``, or use the null caption for all rows
                (``"null"``).

        Returns:
            ``(N, max_length)`` int64 token ids.

        Raises:
            InputError: if the column is missing, or for a caption that is longer than the text encoder allows.
        """
        for name, choice, allowed in (("unseen", unseen, "unknown"), ("absent", absent, "null")):
            if choice not in ("error", allowed):
                raise unknown_value(f"choice of `{name}`", choice, ("error", allowed))
        frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(dict(table), dtype=object)
        if CAPTION not in frame.columns:
            if absent == "null":
                return self.null_codes(len(frame))
            raise unknown_value("column", CAPTION, frame.columns, "It holds the captions.")
        captions = frame[CAPTION].astype(object)
        # tokenize each distinct caption once, because even a million rows have few of them
        caption_codes, unique = pd.factorize(captions.where(captions.notna(), ""))
        return self.text_encoder.tokenize(list(unique))[torch.from_numpy(caption_codes)]

    def null_codes(self, num_rows: int) -> torch.Tensor:
        """Return ``(num_rows, max_length)`` codes of the empty caption."""
        return self.text_encoder.null_codes(num_rows)

    def save(self, path: str | os.PathLike) -> None:
        """Write ``schema.json``: the id or folder of the text model, its digest and the caption length."""
        encoder, model = self.text_encoder, self.text_encoder.source
        content = {
            "format": 1,
            "kind": KIND,
            "text_model": os.path.abspath(os.path.expanduser(model)) if is_local(model) else model,
            # a relative path stays valid if model and text model are moved together
            "beside": os.path.relpath(os.path.expanduser(model), Path(path).parent) if is_local(model) else None,
            "text_digest": encoder.digest,
            "max_length": encoder.max_length,
            "on_long": encoder.captions.on_long,
            "mask_padding": encoder.mask_padding,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike, text_model: str | os.PathLike | None = None) -> CaptionSchema:
        """Read ``schema.json`` and load the text encoder that it names.

        Args:
            path: file written by :meth:`save`.
            text_model: id or folder of the same text model, if it was moved.

        Raises:
            InputError: if the file or the text model is missing, or the text model is a different one.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no schema at {path}: train first, or give the ckpt_dir of a trained model")
        content = read_json(path)
        if isinstance(content, dict) and content.get("kind") != KIND and "label" in content:
            raise InputError(f"{path} is not a caption schema: the model in this folder is not a text-to-image model")
        recorded = parse_document(content, CaptionDocument, str(path))
        source = text_model or _place(recorded, Path(path).parent)
        encoder = load_text_encoder(source, recorded.max_length, recorded.on_long, recorded.mask_padding)
        if encoder.digest != recorded.text_digest:
            raise InputError(
                f"the text model {source} is not the one of {path} (weights or tokenizer differ): "
                f"digest {encoder.digest[:12]}, not {recorded.text_digest[:12]}. Use the text model of the training"
            )
        return cls(encoder)


class CaptionDocument(Document):
    """``schema.json`` of a model of captions."""

    TITLE = "a schema of captions"
    kind: Literal["captions"]
    text_model: str = Field(min_length=1)
    beside: str | None
    text_digest: str = Field(pattern="^[0-9a-f]{64}$")
    max_length: int = Field(ge=1, le=1 << 20)
    on_long: Literal["error", "truncate"]
    mask_padding: bool


def portable_schema(path: str | os.PathLike) -> tuple[dict[str, Any], Path | None]:
    """Return the content of any ``schema.json`` for other machines, and the folder to copy next to it.

    Returns:
        the content; and the folder of the text model, to be copied to the path ``beside`` in the content, relative to
        the schema. It is None for a schema of metadata, or a text model on a hub.
    """
    content = read_json(path)
    if content.get("kind") != KIND:
        return content, None
    recorded = parse_document(content, CaptionDocument, str(path))
    source = Path(_place(recorded, Path(path).parent))
    if not source.is_dir():
        return content, None
    return {**content, "text_model": TEXT_MODEL, "beside": TEXT_MODEL}, source


def _place(recorded: CaptionDocument, folder: Path) -> str:
    beside = recorded.beside and folder / recorded.beside
    return os.fspath(beside) if beside and beside.is_dir() else recorded.text_model


def drop_captions(
    codes: torch.Tensor, null: torch.Tensor, rate: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Replace whole captions by the null caption at random, so that guidance has a trained null condition.

    Args:
        codes: ``(N, L)`` codes on any device.
        null: ``(1, L)`` or ``(L,)`` codes of the null caption.
        rate: probability in [0, 1] that a row loses its caption.
        generator: random generator on the CPU.
    """
    _check_rate(rate)
    dropped = torch.rand(len(codes), 1, generator=generator) < rate
    return torch.where(dropped.to(codes.device), null.reshape(1, -1).to(codes), codes)


class CaptionDropout:
    """Applies :func:`drop_captions` to training batches, with the null caption of a schema and a fixed rate.

    Args:
        schema: schema that defines the null caption.
        rate: probability in [0, 1] that an image loses its caption.
    """

    def __init__(self, schema: CaptionSchema, rate: float = 0.1) -> None:
        _check_rate(rate)
        self.null, self.rate = schema.null_codes(1), rate

    def __call__(self, codes: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return ``(N, L)`` codes, with some rows set to null."""
        return drop_captions(codes, self.null, self.rate, generator)


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise InputError(f"caption_dropout = {rate}: a probability must lie in [0, 1]")
