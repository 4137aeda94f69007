"""Build a self-contained HTML page of sections, tables, figures and findings, for the screen or for print."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from medi_monai.report.version import code_version
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path

__all__ = ["LEVELS", "Page", "Picture"]

#: levels of a notice, most serious first
LEVELS = ("error", "warning", "note", "ok")

#: a matplotlib figure, a Pillow image, or a uint8 array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``
Picture: TypeAlias = "Figure | Image.Image | np.ndarray"

FIGURE_DPI, SCREEN_DPI = 144, 96
#: size in bytes; a picture whose PNG is larger is embedded as a JPEG of quality 90
LARGEST_PNG = 100_000


@dataclass
class Page:
    """A self-contained page: style and pictures are embedded, and there are no scripts.

    Blocks appear in the order in which they are added; each method returns the page, so that calls can be chained.
    Everything before the first section is the answer, which is followed by links to the sections. All text is escaped,
    so files and centers may have any name.

    Args:
        title: title of the page and of the browser window.
        lead: one or two sentences below the title.
    """

    title: str
    lead: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list, repr=False)
    footer: list[str] = field(default_factory=list, repr=False)

    def answer(self, sentences: Iterable[str], level: str = "note") -> Page:
        """Add the answer of the page.

        Args:
            sentences: about three sentences; the first is emphasized.
            level: one of :data:`LEVELS`; shown as a color.
        """
        self.blocks.append({"kind": "answer", "sentences": list(sentences), "level": _checked_level(level)})
        return self

    def section(self, heading: str, text: str = "") -> Page:
        """Begin a section; a page with three or more sections has links to them after its answer."""
        self.blocks.append({"kind": "section", "heading": heading})
        return self.text(text) if text else self

    def text(self, text: str) -> Page:
        """Add a paragraph; line breaks are kept."""
        self.blocks.append({"kind": "text", "text": text})
        return self

    def link(self, text: str, target: str) -> Page:
        """Add a link to a file; ``target`` is relative to the folder of the page."""
        # quoted, so that a colon cannot turn the target into a URL with a scheme
        self.blocks.append({"kind": "link", "text": text, "target": quote(str(target))})
        return self

    def footnote(self, text: str) -> Page:
        """Add a note to the footer, before the version of the code."""
        self.footer.append(text)
        return self

    def notice(self, text: str, level: str = "note") -> Page:
        """Add a notice, such as a finding.

        Args:
            text: one plain sentence.
            level: one of :data:`LEVELS`; shown as a word and as a color.
        """
        self.blocks.append({"kind": "notice", "text": text, "level": _checked_level(level), "name": level.upper()})
        return self

    def table(self, frame: pd.DataFrame, caption: str = "", max_rows: int = 50, folded: bool = False) -> Page:
        """Add a table: whole numbers with separators, others to three digits, undefined values as a dash.

        Args:
            frame: content of the table; an index other than a range becomes the headings of the rows.
            caption: line above the table.
            max_rows: maximum number of rows to show; a note below says if there are more.
            folded: whether to show only the caption until the table is opened.
        """
        shown = frame.head(max_rows)
        levels = [] if isinstance(frame.index, pd.RangeIndex) else list(range(frame.index.nlevels))
        # select columns by position, because a name may occur twice
        columns = [shown.index.get_level_values(level).to_series() for level in levels]
        columns += [shown.iloc[:, column] for column in range(shown.shape[1])]
        names = [*(frame.index.names[level] for level in levels), *frame.columns]
        more = f"{len(shown):,} of {len(frame):,} rows are shown." if len(shown) < len(frame) else ""
        self.blocks.append(
            {
                "kind": "table",
                "caption": caption,
                "folded": folded,
                "headed": len(levels),
                "columns": [(_heading(name), _is_number(column)) for name, column in zip(names, columns)],
                "rows": list(zip(*(map(_cell, column.tolist()) for column in columns))),
                "more": more,
            }
        )
        return self

    def figure(self, picture: Picture, caption: str = "", width: int | None = None) -> Page:
        """Add one picture.

        Args:
            picture: see :data:`Picture`; arrays of floats are refused because their range is unknown.
            caption: line below the picture, also used as alternative text.
            width: width on the screen in pixels; by default that of the picture.
        """
        return self.figures([(picture, caption)], width)

    def figures(self, pictures: Iterable[tuple[Picture, str]], width: int | None = None) -> Page:
        """Add pictures with captions side by side, wrapped to the screen; ``width`` is that of each picture."""
        drawn = [{**_embedded(picture, width), "caption": caption} for picture, caption in pictures]
        self.blocks.append({"kind": "figures", "pictures": drawn})
        return self

    def html(self) -> str:
        """Return the page as HTML."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("medi_monai.report"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        return environment.get_template("page.html.j2").render(page=self, version=code_version())

    def write(self, path: str | os.PathLike) -> Path:
        """Write the page, completely or not at all, and return its path."""
        # bytes of file names that are not UTF-8 are surrogates in Python, which cannot be encoded
        content = self.html().encode("utf-8", errors="replace")
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return Path(path)


def _checked_level(level: str) -> str:
    if level not in LEVELS:
        raise unknown_value("level of a notice", level, LEVELS)
    return level


def _heading(name: object) -> str:
    if isinstance(name, tuple):
        return " · ".join(str(level) for level in name if level not in (None, ""))
    return "" if name is None else str(name)


def _is_number(column: pd.Series) -> bool:
    # a column of counts that contains None has the type object
    return pd.api.types.infer_dtype(column.dropna(), skipna=True) in ("integer", "floating", "mixed-integer-float")


def _cell(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return "–"
        size = abs(float(value))
        return f"{value:,.0f}" if 1000 <= size < math.inf else f"{value:.3g}"
    if value is None or value is pd.NA or value is pd.NaT:
        return "–"
    return str(value)


def _embedded(picture: Picture, width: int | None) -> dict[str, Any]:
    scale = 1.0
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        # a layout engine has already set the margins; measuring them again would take as long as drawing the figure
        margins = None if picture.get_layout_engine() else "tight"
        picture.savefig(
            buffer, format="png", dpi=FIGURE_DPI, bbox_inches=margins, facecolor="white", metadata={"Software": None}
        )
        with Image.open(buffer) as drawn:
            size, scale = drawn.size, SCREEN_DPI / FIGURE_DPI
        content, kind = buffer.getvalue(), "png"
    else:
        image = _as_image(picture)
        size = image.size
        content, kind = _encoded(image)
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return {"source": source, "width": width or max(1, round(size[0] * scale))}


def _as_image(picture: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, Image.Image):
        image = picture
    else:
        array = np.asarray(picture)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise InputError(
                f"a picture must be a (H, W), (H, W, 3), or (H, W, 4) uint8 array, not {array.shape} {array.dtype}"
            )
        image = Image.fromarray(array)
    return image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    if buffer.tell() <= LARGEST_PNG or image.mode == "RGBA":
        return buffer.getvalue(), "png"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue(), "jpeg"
