"""Sections that several pages share: findings, memorization, distances, classifiers, run time, settings and data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from medi_monai.report.page import Page
from medi_monai.report.words import (
    arm_title,
    differing_settings,
    duration_text,
    figure_text,
    known,
    number,
    percent_text,
    setting_text,
    share_table,
)

__all__ = [
    "DISTANCES",
    "QUALITY",
    "Closest",
    "add_classifiers",
    "add_encoder",
    "add_findings",
    "add_memorization",
    "add_provenance",
    "add_run_time",
    "add_settings",
    "distance_row",
    "settings_notice",
    "side_by_side",
]

#: arm, and ``held_out``, to its closest pairs: generated and training image ``(H, W, 3)`` uint8, their correlation
Closest: TypeAlias = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, float]]]

#: figures of fidelity and their heads in tables; distances are better where smaller, quality where larger
DISTANCES = {"frechet_distance": "Fréchet distance", "kernel_distance": "kernel distance"}
QUALITY = {name: name for name in ("precision", "recall", "density", "coverage")}
MOST_PAIRS, THUMBNAIL = 6, 88
#: levels of findings that a page does not have itself
NOTICES = {"leakage": "error"}
COPY_LIMIT = 0.9


def add_findings(page: Page, findings: Iterable[Mapping[str, Any]], heading: str = "Findings") -> None:
    """A section of findings, each with ``level`` and ``text``; none without findings."""
    given = list(findings)
    if not given:
        return
    page.section(heading)
    for finding in given:
        page.notice(finding["text"], NOTICES.get(finding["level"], finding["level"]))


def settings_notice(page: Page, differing: Mapping[str, Mapping[str, Any]]) -> None:
    """A warning that names the sampling settings in which arms differ; none where they agree."""
    if differing:
        page.notice(differing_settings(differing), "warning")


def distance_row(figures: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """One row of a table of fidelity: ``names`` are figures and their heads."""
    return {head: figure_text(figures.get(name)) for name, head in names.items()}


def add_memorization(page: Page, memorization: Mapping[str, Mapping[str, Any] | None], closest: Closest) -> None:
    """The section on memorization: copies of training images, nearest neighbors, and the closest pairs.

    Args:
        page: to add to.
        memorization: of each arm and of ``held_out``, real images that training did not use.
        closest: pairs to show.
    """
    page.section("Memorization")
    limits = [figures.get("limit", COPY_LIMIT) for figures in memorization.values() if figures]
    page.text(
        f"A copy is an image that correlates by more than {number(max(limits, default=COPY_LIMIT), 3)} with a training "
        "image, including rotated and mirrored versions. The limit is 0.9, or the 99th percentile of held-out real "
        "images if that is higher. Held-out real images show how often such matches occur by chance: a model that does "
        "not memorize has a similar share of copies, is nearer to a training image than to a validation image in about "
        "50% of cases, and has a distance ratio near 1."
    )
    rows = {}
    order = sorted(memorization, key=lambda name: name != "held_out")
    for name in order:
        figures = memorization[name] or {}
        rows[arm_title(name)] = {
            "copies of training images": percent_text(figures.get("copies")),
            "nearer to training than validation": percent_text(figures.get("nearer")),
            "distance to nearest training image, ratio to held-out": number(figures.get("ratio")),
            "highest correlation": number(figures.get("correlation"), 3),
        }
    page.table(share_table(rows, "images"))
    shown = [name for name in [*order, *(name for name in closest if name not in order)] if closest.get(name)]
    if shown:
        page.text(
            "Closest pairs: left, the image; right, the most similar training image, rotated or mirrored to match."
        )
    for name in shown:
        pairs = list(closest[name])[:MOST_PAIRS]
        page.text(arm_title(name))
        page.figures([(side_by_side(left, right), f"correlation {number(alike, 3)}") for left, right, alike in pairs])


def side_by_side(left: np.ndarray, right: np.ndarray, size: int = THUMBNAIL) -> Image.Image:
    """Two ``(H, W, 3)`` uint8 images beside each other, each ``size`` pixels wide."""
    both = Image.new("RGB", (2 * size + 4, size), "white")
    for column, pixels in enumerate((left, right)):
        image = Image.fromarray(np.asarray(pixels)).convert("RGB")
        # pixels of a small image stay visible
        resampling = Image.Resampling.NEAREST if image.width < size else Image.Resampling.LANCZOS
        both.paste(image.resize((size, size), resampling), (column * (size + 4), 0))
    return both


def add_classifiers(page: Page, classifiers: Mapping[str, Mapping[str, Any]], text: str = "") -> None:
    """The section on how accurate the classifiers are that a page relies on.

    Args:
        page: to add to.
        classifiers: name to figures on held-out real images: ``balanced_accuracy``, ``chance``, ``n``, and where
            known ``recall`` by value and ``num_patients``.
        text: of the section.
    """
    page.section("Accuracy of the classifiers", text)
    rows = {}
    for name, figures in classifiers.items():
        row = {
            "balanced accuracy": figure_text(figures.get("balanced_accuracy"), 3),
            "chance": number(figures.get("chance"), 3),
        }
        recall = figures.get("recall") or {}
        row |= {f"recall, {value}": figure_text(figure, 3) for value, figure in recall.items()}
        rows[name] = {**row, "held-out images": figures.get("n"), "patients": figures.get("num_patients")}
    page.table(share_table(rows, "classifier"))


def add_run_time(page: Page, stages: Mapping[str, Mapping[str, Any]], text: str = "") -> None:
    """The section on run time, with a total; none without stages.

    Args:
        page: to add to.
        stages: name to ``seconds`` and further columns.
        text: of the section.
    """
    if not stages:
        return
    rows: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        others = {head: cell for head, cell in stage.items() if head != "seconds"}
        rows[str(name).replace("_", " ")] = {"time": duration_text(stage["seconds"]), **others}
    seconds = [known(stage["seconds"]) for stage in stages.values()]
    rows["all stages"] = {"time": duration_text(sum(value for value in seconds if value is not None))}
    page.section("Run time", text)
    page.table(share_table(rows, "stage").fillna(""))


def add_provenance(
    page: Page,
    settings: Mapping[str, Any],
    digests: Mapping[str, Any] | None = None,
    encoder: Mapping[str, Any] | None = None,
) -> None:
    """The last section, settings and data in folded tables, and the digest of the cohort in the footer."""
    page.section("Settings and data")
    add_settings(page, settings, "Settings")
    if encoder:
        add_encoder(page, encoder)
    if digests:
        add_settings(page, digests, "Digests of the data and models")
    cohort = (digests or {}).get("cohort")
    if cohort:
        page.footnote(f"cohort {str(cohort)[:12]}")


def add_encoder(page: Page, encoder: Mapping[str, Any]) -> None:
    """A folded table of the encoder and its preprocessing."""
    rows = {str(name).replace("_", " "): {"value": setting_text(value)} for name, value in encoder.items()}
    page.table(share_table(rows, "encoder"), "Encoder and preprocessing, the same for all images", folded=True)


def add_settings(page: Page, settings: Mapping[str, Any], caption: str = "Settings", max_rows: int = 200) -> None:
    """A folded table of settings; nested ones have names with dots."""
    rows = {name: {"value": setting_text(value)} for name, value in _flat(settings)}
    if rows:
        page.table(share_table(rows, "setting"), caption, max_rows, folded=True)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat += _flat(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat
