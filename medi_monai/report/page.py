"""Build a self-contained HTML page of sections, tables, figures and findings, for the screen or for print."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd

from medi_monai.report.blocks.forest import Forest
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.report.blocks.glossary import used_terms
from medi_monai.report.blocks.pictures import Picture, embedded
from medi_monai.report.blocks.scale import scale_bar
from medi_monai.report.blocks.tables import table_content
from medi_monai.report.version import code_version
from medi_monai.utils.errors import unknown_value
from medi_monai.utils.files import atomic_path

__all__ = ["LEVELS", "Card", "Page", "Picture"]

#: levels of a notice, most serious first
LEVELS = ("error", "warning", "note", "ok")


@dataclass(frozen=True)
class Card:
    """A figure with a heading, a few sentences, and a link to the details.

    Args:
        heading: what the figure is about.
        picture: see :data:`Picture`.
        text: what the figure shows.
        link: text and target of a link, relative to the folder of the page; None for none.
    """

    heading: str
    picture: Picture
    text: str
    link: tuple[str, str] | None = None


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
    #: whether sections that begin now are folded
    folding: bool = field(default=False, repr=False)

    def answer(self, sentences: Iterable[str], level: str = "note", names: Sequence[str] = ()) -> Page:
        """Add the answer of the page.

        Args:
            sentences: about three sentences; the first is emphasized.
            level: one of :data:`LEVELS`; shown as a color.
            names: a word before each sentence that says what it is about; all of them are then equally emphasized.
        """
        given = list(sentences)
        named = list(zip(names, given, strict=True)) if names else [("", sentence) for sentence in given]
        self.blocks.append({"kind": "answer", "sentences": named, "level": _checked_level(level)})
        return self

    def section(self, heading: str, text: str = "") -> Page:
        """Begin a section; a page with three or more visible sections has links to them after its answer."""
        self.blocks.append({"kind": "section", "heading": heading, "folded": self.folding})
        return self.text(text) if text else self

    @contextmanager
    def folded_sections(self) -> Iterator[Page]:
        """Show only the headings of the sections that begin within the context, until they are opened."""
        before, self.folding = self.folding, True
        try:
            yield self
        finally:
            self.folding = before

    @contextmanager
    def fold(self, summary: str) -> Iterator[Page]:
        """Show only ``summary`` in place of what is added within the context, until it is opened."""
        before, self.blocks = self.blocks, []
        try:
            yield self
        finally:
            within, self.blocks = self.blocks, before
        self.blocks.append({"kind": "fold", "summary": summary, "blocks": within})

    def glossary(self) -> Page:
        """Add the folded glossary: of its words, those that occur on the page."""
        self.blocks.append({"kind": "glossary"})
        return self

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
        self.blocks.append({"kind": "table", "caption": caption, "folded": folded, **table_content(frame, max_rows)})
        return self

    def figure(self, picture: Picture, caption: str = "", width: int | None = None, mpp: float | None = None) -> Page:
        """Add one picture.

        Args:
            picture: see :data:`Picture`; arrays of floats are refused because their range is unknown.
            caption: line below the picture, also used as alternative text.
            width: width on the screen in pixels; by default that of the picture.
            mpp: microns per pixel of the picture, for a scale bar; None for no bar.
        """
        return self.figures([(picture, caption)], width, [mpp])

    def figures(
        self,
        pictures: Iterable[tuple[Picture, str]],
        width: int | None = None,
        mpp: Sequence[float | None] | None = None,
    ) -> Page:
        """Add pictures with captions side by side, wrapped to the screen.

        Args:
            pictures: pictures with their captions.
            width: width of each picture on the screen in pixels.
            mpp: microns per pixel of each picture, for scale bars.
        """
        given = list(pictures)
        resolutions = mpp if mpp is not None else [None] * len(given)
        drawn = []
        for (picture, caption), resolution in zip(given, resolutions, strict=True):
            shown = embedded(picture, width)
            drawn.append({**shown, "caption": caption, "bar": scale_bar(resolution, shown["pixels"])})
        self.blocks.append({"kind": "figures", "pictures": drawn})
        return self

    def gallery(self, gallery: Gallery, caption: str = "") -> Page:
        """Add a gallery, with a scale bar if its resolution is known; it scrolls where the screen is narrower."""
        cells = {place: [embedded(image, gallery.tile) for image in images] for place, images in gallery.cells.items()}
        bar = scale_bar(gallery.mpp, gallery.image_width)
        self.blocks.append({"kind": "gallery", "gallery": gallery, "cells": cells, "bar": bar, "caption": caption})
        return self

    def forest(self, forest: Forest, caption: str = "") -> Page:
        """Add a forest plot with all its text as text."""
        self.blocks.append({"kind": "forest", "forest": forest, "caption": caption})
        return self

    def cards(self, cards: Iterable[Card]) -> Page:
        """Add figures with headings and sentences side by side; one below the other on a narrow screen."""
        shown = [
            {
                "heading": card.heading,
                "picture": embedded(card.picture),
                "text": card.text,
                "link": (card.link[0], quote(card.link[1])) if card.link else None,
            }
            for card in cards
        ]
        self.blocks.append({"kind": "cards", "cards": shown})
        return self

    def html(self) -> str:
        """Return the page as HTML."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("medi_monai.report"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        return environment.get_template("page.html.j2").render(
            page=self, sections=self._sections(), terms=used_terms(self.blocks), version=code_version()
        )

    def _sections(self) -> list[dict[str, Any]]:
        # what stands before the first section is a section without heading
        sections: list[dict[str, Any]] = [{"heading": "", "folded": False, "blocks": []}]
        for block in self.blocks:
            if block["kind"] == "section":
                sections.append({**block, "blocks": []})
            else:
                sections[-1]["blocks"].append(block)
        return sections

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
