"""Galleries: images in labeled rows and columns, such as real and generated images of the same combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Gallery"]

#: width in CSS pixels that small images reach at least, by a whole factor, and that large ones are reduced to
SMALLEST, LARGEST = 96, 192


@dataclass(frozen=True)
class Gallery:
    """Images in rows and columns, all of one size.

    Args:
        rows: labels of the rows, top to bottom.
        columns: labels of the columns, left to right, each in lines.
        cells: ``(H, W, 3)`` uint8 images by row label and number of the column; a cell may be missing.
        groups: heading above each column; equal neighbors share theirs. Empty for none.
        notes: for labels of rows, what they mean.
        mpp: microns per pixel of the images; None if unknown.
    """

    rows: Sequence[str]
    columns: Sequence[Sequence[str]]
    cells: Mapping[tuple[str, int], Sequence[np.ndarray]]
    groups: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    mpp: float | None = None

    @property
    def image_width(self) -> int:
        """Width of the images in pixels; 0 without images."""
        return next((images[0].shape[1] for images in self.cells.values() if len(images)), 0)

    @property
    def tile(self) -> int:
        """Width of an image on the screen in CSS pixels."""
        width = max(self.image_width, 1)
        return width * -(-SMALLEST // width) if width < SMALLEST else min(width, LARGEST)

    def spans(self) -> list[tuple[str, int]]:
        """Return the headings of groups of columns, each with its number of columns."""
        spans: list[tuple[str, int]] = []
        for name in self.groups:
            if spans and spans[-1][0] == name:
                spans[-1] = (name, spans[-1][1] + 1)
            else:
                spans.append((name, 1))
        return spans
