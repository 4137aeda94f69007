"""Sections that several pages share: findings, memorization, distances, classifiers, run time, settings and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from medi_monai.report.page import Page
from medi_monai.report.words import (
    DASH,
    arm_title,
    duration_text,
    figure_text,
    number,
    percent_text,
    setting_text,
    share_table,
)
from medi_monai.results import Finding
from medi_monai.results.measures import ClassifierAccuracy, FidelityFigures, Memorization

__all__ = [
    "DISTANCES",
    "QUALITY",
    "Closest",
    "StageTime",
    "add_classifiers",
    "add_findings",
    "add_memorization",
    "add_provenance",
    "add_run_time",
    "fidelity_row",
    "quality_row",
    "side_by_side",
]

#: for each arm and ``held_out``, its closest pairs: image and training image, ``(H, W, 3)`` uint8, and their
#: correlation
Closest: TypeAlias = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, float]]]

#: figures of fidelity and their titles in tables; smaller is better for distances, larger for quality
DISTANCES = {"frechet_distance": "Fréchet distance", "kernel_distance": "kernel distance"}
QUALITY = {name: name for name in ("precision", "recall", "density", "coverage")}
MOST_PAIRS, THUMBNAIL = 6, 88
#: level of a page's notice for levels of findings that pages do not have
NOTICES = {"leakage": "error"}
COPY_LIMIT = 0.9


@dataclass(frozen=True)
class StageTime:
    """Run time of a stage in seconds, ``None`` if unknown, and the arms that need the stage."""

    seconds: float | None
    needed_for: tuple[str, ...] = ()


def add_findings(page: Page, findings: Sequence[Finding], heading: str = "Findings") -> None:
    """Add a section of findings; nothing without findings."""
    if findings:
        page.section(heading)
    for finding in findings:
        page.notice(finding.text, NOTICES.get(finding.level, finding.level))


def fidelity_row(fidelity: FidelityFigures) -> dict[str, str]:
    """Return one row of a table of fidelity: distances and quality by column title."""
    distances = {head: figure_text(getattr(fidelity, name)) for name, head in DISTANCES.items()}
    return {**distances, **quality_row(fidelity)}


def quality_row(fidelity: FidelityFigures) -> dict[str, str]:
    """Return precision, recall, density and coverage by column title."""
    return {head: figure_text(getattr(fidelity, name)) for name, head in QUALITY.items()}


def add_memorization(page: Page, memorization: Mapping[str, Memorization | None], closest: Closest) -> None:
    """Add the section on memorization: copies of training images, nearest neighbors, and the closest pairs.

    Args:
        page: page to extend.
        memorization: results of each arm and of ``held_out``, real images that were not used for training.
        closest: pairs to show.
    """
    page.section("Memorization")
    limits = [memory.limit for memory in memorization.values() if memory]
    page.text(
        f"A copy is an image that correlates by more than {number(max(limits, default=COPY_LIMIT), 3)} with a training "
        "image, including rotated and mirrored versions. The limit is 0.9, or the 99th percentile of held-out real "
        "images if that is higher. Held-out real images show how often such matches occur by chance: a model that does "
        "not memorize has a similar share of copies, is nearer to a training image than to a validation image in about "
        "50% of cases, and has a distance ratio near 1."
    )
    order = sorted(memorization, key=lambda name: name != "held_out")
    rows = {
        arm_title(name): {
            "copies of training images": percent_text(memory.copies if memory else None),
            "nearer to training than validation": percent_text(memory.nearer if memory else None),
            "distance to nearest training image, ratio to held-out": number(memory.ratio if memory else None),
            "highest correlation": number(memory.correlation if memory else None, 3),
        }
        for name, memory in ((name, memorization[name]) for name in order)
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
    """Return two ``(H, W, 3)`` uint8 images side by side, each resized to ``size`` x ``size`` pixels."""
    both = Image.new("RGB", (2 * size + 4, size), "white")
    for column, pixels in enumerate((left, right)):
        image = Image.fromarray(np.asarray(pixels)).convert("RGB")
        # enlarge small images without interpolation, so that their pixels remain visible
        resampling = Image.Resampling.NEAREST if image.width < size else Image.Resampling.LANCZOS
        both.paste(image.resize((size, size), resampling), (column * (size + 4), 0))
    return both


def add_classifiers(page: Page, classifiers: Mapping[str, ClassifierAccuracy | None], text: str = "") -> None:
    """Add the section on the accuracy of the classifiers that a page relies on.

    Args:
        page: page to extend.
        classifiers: accuracies on held-out real images by name; ``None`` if unknown.
        text: paragraph at the start of the section.
    """
    page.section("Accuracy of the classifiers", text)
    rows: dict[str, dict[str, Any]] = {}
    for name, accuracy in classifiers.items():
        if accuracy is None:
            rows[name] = {"balanced accuracy": DASH, "chance": DASH}
            continue
        rows[name] = {
            "balanced accuracy": figure_text(accuracy.balanced_accuracy, 3),
            "chance": number(accuracy.chance, 3),
            **{f"recall, {value}": figure_text(recall, 3) for value, recall in accuracy.recall.items()},
            "held-out images": accuracy.n,
            "patients": accuracy.num_patients,
        }
    page.table(share_table(rows, "classifier"))


def add_run_time(page: Page, stages: Mapping[str, StageTime], text: str = "") -> None:
    """Add the section on run time, with a total; nothing without stages.

    Args:
        page: page to extend.
        stages: run times of stages by name.
        text: paragraph at the start of the section.
    """
    if not stages:
        return
    rows: dict[str, dict[str, str]] = {}
    for name, stage in stages.items():
        needed = {"needed for": ", ".join(map(arm_title, stage.needed_for))} if stage.needed_for else {}
        rows[name.replace("_", " ")] = {"time": duration_text(stage.seconds), **needed}
    seconds = [stage.seconds for stage in stages.values() if stage.seconds is not None]
    rows["all stages"] = {"time": duration_text(sum(seconds))}
    page.section("Run time", text)
    page.table(share_table(rows, "stage").fillna(""))


def add_provenance(
    page: Page,
    settings: Mapping[str, Any],
    digests: Mapping[str, Any] | None = None,
    encoder: Mapping[str, Any] | None = None,
) -> None:
    """Add the last section, with settings and data in folded tables, and the digest of the cohort to the footer."""
    page.section("Settings and data")
    _add_settings(page, settings, "Settings")
    if encoder:
        _add_encoder(page, encoder)
    if digests:
        _add_settings(page, digests, "Digests of the data and models")
    cohort = (digests or {}).get("cohort")
    if cohort:
        page.footnote(f"cohort {str(cohort)[:12]}")


def _add_encoder(page: Page, encoder: Mapping[str, Any]) -> None:
    """Add a folded table of the encoder and its preprocessing."""
    rows = {str(name).replace("_", " "): {"value": setting_text(value)} for name, value in encoder.items()}
    page.table(share_table(rows, "encoder"), "Encoder and preprocessing, the same for all images", folded=True)


def _add_settings(page: Page, settings: Mapping[str, Any], caption: str = "Settings", max_rows: int = 200) -> None:
    """Add a folded table of settings; names of nested settings are joined by dots."""
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
