"""What a generator may be conditioned on: rows of a table, turned into codes."""

from __future__ import annotations

import os
from typing import Protocol

import pandas as pd
import torch

__all__ = ["Conditioning"]


class Conditioning(Protocol):
    """Rows of metadata (:class:`MetadataSchema`) or captions as codes, with a null that guidance needs."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the codes; the first is the label, or the caption."""

    @property
    def digest(self) -> str:
        """Two models agree on every code if and only if their digests are equal."""

    def encode(self, table: pd.DataFrame, unseen: str = "error", absent: str = "error") -> torch.Tensor:
        """``(N, L)`` codes of the rows."""

    def null_codes(self, num_rows: int) -> torch.Tensor:
        """``(num_rows, L)`` codes of conditioning that was dropped."""

    def save(self, path: str | os.PathLike) -> None:
        """Write it as JSON."""
