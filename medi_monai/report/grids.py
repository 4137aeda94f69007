"""Grids with labeled rows and columns: pictures of patches, and the cells of heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont

from medi_monai.report.blocks.scale import scale_bar
from medi_monai.report.words import short

__all__ = ["label_cells", "labeled_grid", "write_in_cells"]

#: pixels between cells, and between patches of a cell
GAP, TILE_GAP = 6, 2
#: height in pixels of a line of a label, and of a scale bar with its length
LINE, BAR_HEIGHT = 20, 28
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
    mpp: float | None = None,
) -> np.ndarray:
    """Draw patches by row and column; cells without patches are gray.

    Args:
        cells: patches of each cell, ``(H, W, 3)`` uint8, by ``(row, column)``.
        rows: labels of the rows, top to bottom.
        columns: labels of the columns, left to right.
        title: text above the grid.
        cell: number of patches in a cell, (down, across); additional patches are not shown.
        cell_size: minimum height of a cell in pixels; patches are enlarged by a whole factor to reach it.
        mpp: microns per pixel of the patches, for a scale bar below the grid; None for no bar.

    Returns:
        ``(H, W, 3)`` uint8 picture.
    """
    font, large = _font(15), _font(17)
    given = next((len(images[0]) for images in cells.values() if len(images)), 32)
    patch = given * max(1, -(-cell_size // (given * cell[0])))
    height, width = ((patch + TILE_GAP) * count - TILE_GAP for count in cell)
    names = {name: short(name, LONGEST) for name in rows}
    left = 12 + max((int(font.getlength(name)) for name in names.values()), default=0)
    across = left + len(columns) * (width + GAP)
    heads = {name: _wrapped(short(name, LONGEST), font, width) for name in columns}
    titles = _wrapped(short(title, 500), large, across - 12) if title else []
    top = 14 + 26 * len(titles) + LINE * max([1, *map(len, heads.values())])
    bar = scale_bar(mpp, given)
    page = Image.new("RGB", (across, top + len(rows) * (height + GAP) + (BAR_HEIGHT if bar else 0)), WHITE)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(titles):
        draw.text((6, 6 + 26 * number), line, INK, large)
    for column, label in enumerate(columns):
        x = left + column * (width + GAP)
        for number, line in enumerate(reversed(heads[label])):
            draw.text((x + width / 2, top - 8 - LINE * number), line, INK, font, anchor="ms")
    for down, row in enumerate(rows):
        y = top + down * (height + GAP)
        draw.text((left - 6, y + height / 2), names[row], INK, font, anchor="rm")
        for column, label in enumerate(columns):
            x = left + column * (width + GAP)
            draw.rectangle((x, y, x + width - 1, y + height - 1), EMPTY)
            for place, pixels in enumerate(list(cells.get((row, label), ()))[: cell[0] * cell[1]]):
                tile = Image.fromarray(pixels).resize((patch, patch), Image.Resampling.NEAREST)
                nth_down, nth_across = divmod(place, cell[1])
                page.paste(tile, (x + nth_across * (patch + TILE_GAP), y + nth_down * (patch + TILE_GAP)))
    if bar:
        y = page.height - BAR_HEIGHT
        draw.rectangle((left, y + 4, left + round(bar.fraction * patch) - 1, y + 6), INK)
        draw.text((left, y + 10), bar.text, INK, _font(13))
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
    size: float = 6.5,
) -> None:
    """Write the values of a heat map into its cells, white in dark cells.

    Args:
        axes: axes of the heat map.
        values: ``(rows, columns)`` values.
        shown: ``(rows, columns)`` bool: cells to write into.
        text_of: function that formats a value.
        is_dark: function that returns whether the cell of a value is dark.
        size: size of the text in points.
    """
    for row, column in zip(*np.nonzero(shown)):
        value = values[row, column]
        color = "white" if is_dark(value) else "#222"
        text = axes.text(column, row, text_of(value), ha="center", va="center", fontsize=size, color=color)
        # the text is always inside the axes: leaving it out of the layout saves measuring a thousand of them
        text.set_in_layout(False)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # the font of matplotlib has the letters of all European languages; that of Pillow has only those of English
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return text in lines that fit into a width, broken between words, or within words that are too long alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines or [""]
