"""Interface of schemas, which encode the rows of a table as conditions of a generator."""

from __future__ import annotations

import os
from typing import Protocol

import pandas as pd
import torch

__all__ = ["Conditioning"]


class Conditioning(Protocol):
    """Encodes metadata (:class:`MetadataSchema`) or captions as codes, with a null condition for guidance."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the codes; the first is the label or the caption."""

    @property
    def digest(self) -> str:
        """Digest; two models agree on all codes if and only if their digests are equal."""

    def encode(self, table: pd.DataFrame, unseen: str = "error", absent: str = "error") -> torch.Tensor:
        """Return ``(N, L)`` codes of the rows; see :meth:`MetadataSchema.encode` for ``unseen`` and ``absent``."""

    def null_codes(self, num_rows: int) -> torch.Tensor:
        """Return ``(num_rows, L)`` codes of the null condition."""

    def save(self, path: str | os.PathLike) -> None:
        """Write the schema as JSON."""
