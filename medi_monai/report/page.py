"""One self-contained HTML page: sections, tables, figures and findings, to read on a screen or on paper."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from medi_monai import __version__
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path

__all__ = ["LEVELS", "Page", "Picture"]

#: of a notice, worst first
LEVELS = ("error", "warning", "note", "ok")

#: a matplotlib figure, a Pillow image, or a uint8 array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``
Picture: TypeAlias = "Figure | Image.Image | np.ndarray"

FIGURE_DPI, SCREEN_DPI = 144, 96
#: a picture whose PNG is larger becomes a JPEG of quality 90
LARGEST_PNG = 100_000

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d1d9e0; --shade: #f4f6f8;
  --error: #b3261e; --warning: #9a6700; --note: #0b5cad; --ok: #1a7f37; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa4af; --paper: #14181d;
  --line: #3a424b; --shade: #1e242b; --error: #ff8a80; --warning: #e3b341; --note: #79b8ff; --ok: #56d364; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p { max-width: 48rem; margin: .5rem 0; white-space: pre-line; }
.lead { font-size: 1.1rem; color: var(--soft); }
nav { font-size: .95rem; margin: 1rem 0; } nav a { margin-right: 1rem; display: inline-block; }
a { color: var(--note); }
.notice { border-left: 5px solid var(--note); background: var(--shade); padding: .5rem .9rem; margin: .6rem 0;
  max-width: 60rem; overflow-wrap: anywhere; }
.notice b { color: var(--note); margin-right: .4rem; }
.notice.error { border-color: var(--error); } .notice.error b { color: var(--error); }
.notice.warning { border-color: var(--warning); } .notice.warning b { color: var(--warning); }
.notice.ok { border-color: var(--ok); } .notice.ok b { color: var(--ok); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); background: var(--shade); }
tbody th { font-weight: 500; } .number { text-align: right; }
.more, figcaption, footer { color: var(--soft); font-size: .9rem; }
figure { margin: 1rem 0; } figcaption { max-width: 48rem; overflow-wrap: anywhere; white-space: pre-line; }
figcaption.heading { color: var(--ink); font-weight: 600; padding: .3rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 3px; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0; }
.gallery figure { margin: 0; max-width: 100%; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .6rem; }
@media print { nav { display: none; } body { max-width: none; padding: 0; font-size: 10.5pt; }
  .wide { overflow: visible; } h2 { break-after: avoid; } figure, .notice, tr { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ page.title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header><h1>{{ page.title }}</h1>{% if page.lead %}<p class="lead">{{ page.lead }}</p>{% endif %}</header>
{%- set headings = page.blocks | selectattr("kind", "equalto", "section") | list %}
{%- if headings | length > 2 %}
<nav>{% for block in headings %}<a href="#s{{ loop.index }}">{{ block.heading }}</a>{% endfor %}</nav>
{%- endif %}
<main>
{%- set place = namespace(value=0) %}
{%- for block in page.blocks %}
{%- if block.kind == "section" %}{% set place.value = place.value + 1 %}
<h2 id="s{{ place.value }}">{{ block.heading }}</h2>
{%- elif block.kind == "text" %}
<p>{{ block.text }}</p>
{%- elif block.kind == "notice" %}
<div class="notice {{ block.level }}"><b>{{ block.name }}</b>{{ block.text }}</div>
{%- elif block.kind == "table" %}
<figure class="wide">{% if block.caption %}<figcaption class="heading">{{ block.caption }}</figcaption>{% endif %}
<table>
<thead><tr>{% for name, number in block.columns %}<th{% if number %} class="number"{% endif %}>{{ name }}</th>
{%- endfor %}</tr></thead>
<tbody>
{%- for row in block.rows %}
<tr>{% for cell in row -%}
{% if loop.index0 < block.headed %}<th scope="row">{{ cell }}</th>
{%- else %}<td{% if block.columns[loop.index0][1] %} class="number"{% endif %}>{{ cell }}</td>{% endif -%}
{% endfor %}</tr>
{%- endfor %}
</tbody></table>{% if block.more %}<p class="more">{{ block.more }}</p>{% endif %}</figure>
{%- elif block.kind == "figures" %}
<div{% if block.pictures | length > 1 %} class="gallery"{% endif %}>
{%- for picture in block.pictures %}
<figure{% if block.pictures | length > 1 %} style="width: {{ picture.width }}px"{% endif %}>
<img src="{{ picture.source }}" style="width: {{ picture.width }}px" alt="{{ picture.caption }}">
{%- if picture.caption %}<figcaption>{{ picture.caption }}</figcaption>{% endif %}</figure>
{%- endfor %}
</div>
{%- endif %}
{%- endfor %}
</main>
<footer>medi_monai {{ version }}</footer>
</body>
</html>
"""


@dataclass
class Page:
    """A page that needs no other file and no network: style and pictures lie within it, and no script does.

    Blocks appear in the order in which they are added; each method returns the page, so that calls can be chained.
    All text is escaped: a file or a center may be named as it likes.

    Args:
        title: heading of the page and of the window.
        lead: a sentence or two beneath it.
    """

    title: str
    lead: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def section(self, heading: str, text: str = "") -> Page:
        """Begin a section; a page of three or more has links to them at its top."""
        self.blocks.append({"kind": "section", "heading": heading})
        return self.text(text) if text else self

    def text(self, text: str) -> Page:
        """Add a paragraph; line breaks are kept."""
        self.blocks.append({"kind": "text", "text": text})
        return self

    def notice(self, text: str, level: str = "note") -> Page:
        """Add a finding.

        Args:
            text: one plain sentence.
            level: one of :data:`LEVELS`; shown as a word as well as a color.
        """
        if level not in LEVELS:
            raise unknown_value("level of a notice", level, LEVELS)
        self.blocks.append({"kind": "notice", "text": text, "level": level, "name": level.upper()})
        return self

    def table(self, frame: pd.DataFrame, caption: str = "", max_rows: int = 50) -> Page:
        """Add a table: whole numbers with separators, others to three digits, what is undefined as a dash.

        Args:
            frame: an index that is no mere count of rows becomes the headings of the rows.
            caption: a line above.
            max_rows: so many rows are shown, and a sentence beneath says how many more there are.
        """
        shown = frame.head(max_rows)
        levels = [] if isinstance(frame.index, pd.RangeIndex) else list(range(frame.index.nlevels))
        # by position: a name may occur twice
        columns = [shown.index.get_level_values(level).to_series() for level in levels]
        columns += [shown.iloc[:, place] for place in range(shown.shape[1])]
        names = [*(frame.index.names[level] for level in levels), *frame.columns]
        left = len(frame) - len(shown)
        more = f"The first {len(shown):,} of {len(frame):,} rows; not shown: {left:,}." if left else ""
        self.blocks.append(
            {
                "kind": "table",
                "caption": caption,
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
            picture: see :data:`Picture`; floats are refused, for their range is not known.
            caption: a line beneath, read aloud where a picture cannot be seen.
            width: on the screen, in pixels; by default the picture's own.
        """
        return self.figures([(picture, caption)], width)

    def figures(self, pictures: Iterable[tuple[Picture, str]], width: int | None = None) -> Page:
        """Add pictures with captions side by side, wrapped to the width of the screen; ``width`` is of each."""
        drawn = [{**_embedded(picture, width), "caption": caption} for picture, caption in pictures]
        self.blocks.append({"kind": "figures", "pictures": drawn})
        return self

    def html(self) -> str:
        """The page as text."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        return environment.from_string(TEMPLATE).render(page=self, style=STYLE, version=__version__)

    def write(self, path: str | os.PathLike) -> Path:
        """Write the page, whole or not at all, and return its path."""
        # a file name that is not UTF-8 reaches Python as surrogates, which no file takes
        content = self.html().encode("utf-8", errors="replace")
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return Path(path)


def _heading(name: object) -> str:
    if isinstance(name, tuple):
        return " · ".join(str(part) for part in name if part not in (None, ""))
    return "" if name is None else str(name)


def _is_number(column: pd.Series) -> bool:
    # a column of counts with a None in it has the type object
    return pd.api.types.infer_dtype(column.dropna(), skipna=True) in ("integer", "floating", "mixed-integer-float")


def _cell(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return "–"
        return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.3g}"
    if value is None or value is pd.NA or value is pd.NaT:
        return "–"
    return str(value)


def _embedded(picture: Picture, width: int | None) -> dict[str, Any]:
    scale = 1.0
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        # a figure with a layout of its own has its margins already, and to measure them takes as long as to draw it
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
                f"a picture of a page is (H, W), (H, W, 3) or (H, W, 4) uint8, not {array.shape} {array.dtype}"
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
