"""Draw grids of patches with labeled rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medi_monai.report.words import short

__all__ = ["labeled_grid"]

GAP = 3
#: largest number of characters of a label
LONGEST = 48
WHITE, INK, EMPTY = (255, 255, 255), (30, 30, 30), (238, 238, 238)


def labeled_grid(
    cells: Mapping[tuple[str, str], Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    cell: tuple[int, int] = (2, 2),
    cell_size: int = 96,
) -> np.ndarray:
    """Draw patches by row and column; cells without patches are gray.

    Args:
        cells: patches of each cell, ``(H, W, 3)`` uint8, by ``(row, column)``.
        rows: labels of the rows, top to bottom.
        columns: labels of the columns, left to right.
        title: line above the grid.
        cell: number of patches in a cell, (down, across); additional patches are not shown.
        cell_size: minimum height of a cell in pixels; patches are enlarged by a whole factor to reach it.

    Returns:
        ``(H, W, 3)`` uint8 picture.
    """
    font = _font(15)
    shown = {name: short(name, LONGEST) for name in (*rows, *columns)}
    patch = next((len(images[0]) for images in cells.values() if len(images)), 32)
    patch *= max(1, -(-cell_size // (patch * cell[0])))
    height, width = patch * cell[0], patch * cell[1]
    left = 12 + max((int(font.getlength(shown[name])) for name in rows), default=0)
    top = 34 + (26 if title else 0)
    page = Image.new("RGB", (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP)), WHITE)
    draw = ImageDraw.Draw(page)
    draw.text((6, 6), short(title, 500), INK, _font(17))
    for place, label in enumerate(columns):
        x = left + place * (width + GAP)
        draw.text((x + width / 2, top - 8), _fitted(shown[label], font, width), INK, font, anchor="ms")
    for down, row in enumerate(rows):
        y = top + down * (height + GAP)
        draw.text((left - 6, y + height / 2), shown[row], INK, font, anchor="rm")
        for across, column in enumerate(columns):
            x = left + across * (width + GAP)
            draw.rectangle((x, y, x + width - 1, y + height - 1), EMPTY)
            for place, pixels in enumerate(list(cells.get((row, column), ()))[: cell[0] * cell[1]]):
                tile = Image.fromarray(pixels).resize((patch, patch), Image.Resampling.NEAREST)
                page.paste(tile, (x + place % cell[1] * patch, y + place // cell[1] * patch))
    return np.asarray(page)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # the font of matplotlib has the letters of all European languages; that of Pillow has only those of English
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
