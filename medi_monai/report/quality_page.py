"""The quality page of a prepared cohort: a sample of images, patches by slide, image quality, and excluded rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from medi_monai.cohort.extraction import THUMBNAIL, record_folder
from medi_monai.cohort.folder import read_rejected
from medi_monai.cohort.prepare import QUALITY_FILE, SLIDES_FILE
from medi_monai.cohort.table import PATCH_COLUMNS, Cohort, find_table
from medi_monai.report.page import Page
from medi_monai.utils.tables import read_parquet, read_table
from medi_monai.utils.text import plural

__all__ = ["write_quality_page"]

#: numbers of slides shown with their overview: of the blurriest and of those with the fewest patches, and in an even
#: sample
SHOWN_EACH, SHOWN_EVENLY = 8, 24
#: number of images in an even sample of the table
SHOWN_IMAGES = 24
#: maximum number of slides without tissue shown with their overview
SHOWN_EMPTY = 16
SLIDE_SCORES = {
    "patches": "patches per slide",
    "tissue": "tissue fraction of the slide",
    "sharpness": "median sharpness of the slide",
    "background": "median background of the slide",
}
SHARES = ("tissue", "background")
PATCH_SCORES = {"sharpness": "sharpness", "background": "background fraction", "tissue": "tissue fraction"}


def write_quality_page(root: str | os.PathLike, path: str | os.PathLike) -> Path:
    """Write the quality page of a cohort.

    Args:
        root: folder of a cohort from :func:`medi_monai.cohort.prepare`.
        path: file to write.

    Returns:
        ``path``.
    """
    root = Path(root)
    rejected = read_rejected(root)
    quality = read_parquet(root / QUALITY_FILE)
    scores = {name: words for name, words in PATCH_SCORES.items() if name in quality}
    counted = plural(len(quality), "patch", "patches") if scores else plural(len(quality), "image")
    page = Page("Cohort quality", f"{'Image quality of ' * bool(scores)}{counted}, and rows that were excluded.")
    _add_rejected(page, root, rejected)
    if (root / SLIDES_FILE).is_file():
        slides = _numbers(read_table(root / SLIDES_FILE))
        _add_scores(page, slides)
        _add_overviews(page, root, slides)
        page.section("All slides").table(slides.sort_values("image").set_index("image"), max_rows=2000)
    if find_table(root) is not None:
        _add_sample(page, Cohort.read(root))
    if scores:
        page.section(
            "Patches",
            "Sharpness is the variance of the Laplacian (gray levels squared), comparable at one resolution and low "
            "for patches that are out of focus or empty. Background is the fraction of pixels as bright as glass.",
        ).figure(_histograms(quality, scores))
    return page.write(path)


def _add_rejected(page: Page, root: Path, rejected: pd.DataFrame) -> None:
    if rejected.empty:
        page.answer(["No row or file was excluded."], "ok")
        return
    page.answer(
        [
            f"{plural(len(rejected), 'row or file was', 'rows or files were')} excluded.",
            "The reasons are below and in rejected.csv.",
        ],
        "warning",
    )
    page.section("Excluded rows and files").table(rejected.set_index("image"), max_rows=500)
    empty = rejected.loc[rejected["reason"].str.startswith("no tissue"), "image"].head(SHOWN_EMPTY)
    shown = [(record_folder(root, image) / THUMBNAIL, image) for image in empty]
    if shown:
        page.section(
            "Slides without detected tissue",
            "Detected tissue is outlined in green. Check for pale tissue or tissue covered by pen marks.",
        )
        page.figures([(Image.open(file), image) for file, image in shown if file.is_file()], width=260)


def _add_scores(page: Page, slides: pd.DataFrame) -> None:
    scores = {name: words for name, words in SLIDE_SCORES.items() if name in slides}
    page.section(
        "Slides", f"{plural(int(slides['patches'].sum()), 'patch', 'patches')} from {plural(len(slides), 'slide')}."
    )
    page.figure(_histograms(slides, scores))


def _add_overviews(page: Page, root: Path, slides: pd.DataFrame) -> None:
    groups = [("Sample of slides", slides.iloc[_even(len(slides), SHOWN_EVENLY)])]
    if len(slides) > SHOWN_EVENLY:
        groups.insert(0, ("Slides with the fewest patches", slides.nsmallest(SHOWN_EACH, "patches")))
        if "sharpness" in slides:
            groups.insert(0, ("Blurriest slides", slides.nsmallest(SHOWN_EACH, "sharpness")))
    for heading, chosen in groups:
        page.section(heading, "Tissue is outlined in green, patches in blue.")
        found = [(record_folder(root, image) / THUMBNAIL, row) for image, row in chosen.set_index("image").iterrows()]
        shown = [(Image.open(file), row) for file, row in found if file.is_file()]
        # the overview shows the whole slide
        mpp = [row["source_mpp"] * row["width"] / overview.width for overview, row in shown]
        page.figures([(overview, _caption(row)) for overview, row in shown], width=260, mpp=mpp)


def _add_sample(page: Page, cohort: Cohort) -> None:
    """Add an even sample of the images of a cohort; nothing for patches that are read from slides."""
    rows = cohort.table.iloc[_even(len(cohort), SHOWN_IMAGES)]
    rows = rows[[(cohort.root / image).is_file() for image in rows["image"]]]
    if rows.empty:
        return
    page.section("Sample of images", "Images as they are in the cohort, with patient, class and attributes.")
    about = [name for name in rows if name not in (*PATCH_COLUMNS, "split", "source_mpp")]
    captions = [
        "\n".join([f"patient {row['patient']}", *(f"{name}: {row[name] or 'missing'}" for name in about)])
        for _, row in rows.iterrows()
    ]
    files = [cohort.root / image for image in rows["image"]]
    mpp = pd.to_numeric(rows["mpp"], errors="coerce").tolist() if "mpp" in rows else [None] * len(rows)
    page.figures([(Image.open(file), caption) for file, caption in zip(files, captions)], width=140, mpp=mpp)


def _caption(row: pd.Series) -> str:
    lines = [Path(str(row.name)).name, f"{int(row['patches']):,} of {int(row['planned']):,} patches"]
    lines.append(f"{row['source_mpp']:.3g} µm per pixel, {int(row['width'])} × {int(row['height'])}")
    if "sharpness" in row:
        lines.append(f"sharpness {row['sharpness']:.0f}, background {row['background']:.0%}")
    return "\n".join(lines)


def _numbers(slides: pd.DataFrame) -> pd.DataFrame:
    return slides.assign(**{name: pd.to_numeric(slides[name]) for name in slides.columns if name != "image"})


def _even(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


def _histograms(table: pd.DataFrame, scores: Mapping[str, str]) -> Figure:
    figure = Figure(figsize=(3.2 * len(scores), 2.4), layout="constrained")
    for axes, (name, words) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items()):
        axes.hist(table[name].dropna(), bins=30, range=(0, 1) if name in SHARES else None, color="#0b5cad")
        axes.set_xlabel(words)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("count")
    return figure
