"""Grids with labeled rows and columns: pictures of patches, and the cells of heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from medi_monai.report.words import short

__all__ = ["label_cells", "labeled_grid", "write_in_cells"]

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


def label_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str], fontsize: float, **turned: Any) -> None:
    """Label the rows and columns of a heat map, and draw thin lines between its cells.

    Args:
        axes: axes of the heat map.
        rows: labels of the rows, top to bottom.
        columns: labels of the columns, left to right.
        fontsize: size of the labels in points.
        turned: how matplotlib turns the labels of the columns, such as ``rotation``.
    """
    axes.set_xticks(range(len(columns)), columns, fontsize=fontsize, parse_math=False, **turned)
    axes.set_yticks(range(len(rows)), rows, fontsize=fontsize, parse_math=False)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e6e6e6", lw=0.5)
    axes.tick_params(which="both", length=0)


def write_in_cells(
    axes: Axes,
    values: np.ndarray,
    shown: np.ndarray,
    text_of: Callable[[float], str],
    is_dark: Callable[[float], bool],
) -> None:
    """Write the values of a heat map into its cells, white in dark cells.

    Args:
        axes: axes of the heat map.
        values: ``(rows, columns)`` values.
        shown: ``(rows, columns)`` bool: cells to write into.
        text_of: function that formats a value.
        is_dark: function that returns whether the cell of a value is dark.
    """
    for row, column in zip(*np.nonzero(shown)):
        value = values[row, column]
        color = "white" if is_dark(value) else "#222"
        text = axes.text(column, row, text_of(value), ha="center", va="center", fontsize=6.5, color=color)
        # the text is always inside the axes: leaving it out of the layout saves measuring a thousand of them
        text.set_in_layout(False)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # the font of matplotlib has the letters of all European languages; that of Pillow has only those of English
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
