"""Grids of patches with labeled rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["labeled_grid", "stack_grids"]

GAP = 3
WHITE, INK, EMPTY = (255, 255, 255), (30, 30, 30), (238, 238, 238)


def labeled_grid(
    cells: Mapping[tuple[str, str], Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    per_cell: int = 4,
    cell_size: int = 96,
) -> np.ndarray:
    """Patches by row and column; a combination without patches stays gray.

    Args:
        cells: ``(row, column)`` to its patches, ``(H, W, 3)`` uint8; up to ``per_cell`` are shown in a square.
        rows: labels of the rows, top to bottom.
        columns: labels of the columns, left to right.
        title: a line above.
        per_cell: patches in a cell, a square number.
        cell_size: least side of a cell in pixels; patches are enlarged by a whole factor to reach it.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    font = ImageFont.load_default(size=15)
    side = int(np.sqrt(per_cell))
    patch = next((len(images[0]) for images in cells.values() if len(images)), 32)
    patch *= max(1, -(-cell_size // (patch * side)))
    cell = patch * side
    left = 12 + max((int(font.getlength(label)) for label in rows), default=0)
    top = 34 + (26 if title else 0)
    page = Image.new("RGB", (left + len(columns) * (cell + GAP), top + len(rows) * (cell + GAP)), WHITE)
    draw = ImageDraw.Draw(page)
    draw.text((6, 6), title, INK, ImageFont.load_default(size=17))
    for place, label in enumerate(columns):
        x = left + place * (cell + GAP)
        draw.text((x + cell / 2, top - 8), _fitted(label, font, cell), INK, font, anchor="ms")
    for down, row in enumerate(rows):
        y = top + down * (cell + GAP)
        draw.text((left - 6, y + cell / 2), row, INK, font, anchor="rm")
        for across, column in enumerate(columns):
            x = left + across * (cell + GAP)
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), EMPTY)
            for place, pixels in enumerate(list(cells.get((row, column), ()))[:per_cell]):
                tile = Image.fromarray(pixels).resize((patch, patch), Image.Resampling.NEAREST)
                page.paste(tile, (x + place % side * patch, y + place // side * patch))
    return np.asarray(page)


def stack_grids(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Grids below each other on one white page."""
    page = np.full((sum(len(grid) for grid in grids), max(grid.shape[1] for grid in grids), 3), 255, np.uint8)
    y = 0
    for grid in grids:
        page[y : y + len(grid), : grid.shape[1]] = grid
        y += len(grid)
    return page


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
