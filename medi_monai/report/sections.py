"""Sections of pages: findings, memorization, distances, classifiers, shortcuts, run time, settings and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from medi_monai.report.page import Page
from medi_monai.report.plots import correlation_curves
from medi_monai.report.words import (
    DASH,
    arm_title,
    duration_text,
    figure_text,
    number,
    percent_text,
    setting_text,
    share_table,
    source_names,
    span,
    trainings_text,
)
from medi_monai.results import Finding
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.measures import ClassifierAccuracy, CopySearchResults, FidelityFigures, Memorization
from medi_monai.results.shortcuts import ShortcutFigures
from medi_monai.utils.text import listed, plural

__all__ = [
    "DISTANCES",
    "QUALITY",
    "Closest",
    "StageTime",
    "add_classifiers",
    "add_correlation",
    "add_findings",
    "add_memorization",
    "add_provenance",
    "add_run_time",
    "add_shortcut",
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
MOST_PAIRS, THUMBNAIL = 6, 96
#: level of a page's notice for levels of findings that pages do not have
NOTICES = {"leakage": "error"}
#: levels of notices that are never folded
ATTENTION = ("error", "warning")
COPY_LIMIT = 0.9
#: titles of the kinds of planted copies
PLANTED = {
    "turned": "rotated or mirrored",
    "restained": "stained like another patient",
    "shifted": "shifted by 2 of 32 pixels",
    "compressed": "JPEG of quality 75",
    "noisy": "with noise of 5 gray levels",
    "combined": "stained, shifted, and rotated or mirrored",
}


@dataclass(frozen=True)
class StageTime:
    """Run time of a stage in seconds, ``None`` if unknown, and the arms that need the stage."""

    seconds: float | None
    needed_for: tuple[str, ...] = ()


def add_findings(page: Page, findings: Sequence[Finding], heading: str = "Findings") -> None:
    """Add a section of findings, of which only those that need attention are unfolded; nothing without findings."""
    if not findings:
        return
    page.section(heading)
    levels = [NOTICES.get(finding.level, finding.level) for finding in findings]
    quiet = [level not in ATTENTION for level in levels]
    for finding, level, folded in zip(findings, levels, quiet):
        if not folded:
            page.notice(finding.text, level)
    if any(quiet):
        with page.fold(f"Other findings ({sum(quiet)})"):
            for finding, level, folded in zip(findings, levels, quiet):
                if folded:
                    page.notice(finding.text, level)


def fidelity_row(fidelity: FidelityFigures) -> dict[str, str]:
    """Return one row of a table of fidelity: distances and quality by column title."""
    distances = {head: figure_text(getattr(fidelity, name)) for name, head in DISTANCES.items()}
    return {**distances, **quality_row(fidelity)}


def quality_row(fidelity: FidelityFigures) -> dict[str, str]:
    """Return precision, recall, density and coverage by column title."""
    return {head: figure_text(getattr(fidelity, name)) for name, head in QUALITY.items()}


def add_memorization(
    page: Page,
    memorization: Mapping[str, Memorization | None],
    closest: Closest,
    search: CopySearchResults | None = None,
    mpp: float | None = None,
) -> None:
    """Add the section on memorization: copies of training images, nearest neighbors, and the closest pairs.

    Args:
        page: page to extend.
        memorization: results of each arm and of ``held_out``, real images that were not used for training.
        closest: pairs to show.
        search: how reliable the search for copies is, if known.
        mpp: microns per pixel of the images, for scale bars; None if unknown.
    """
    page.section("Memorization")
    limits = [memory.limit for memory in memorization.values() if memory]
    splits = f" ({' and '.join(search.splits)})" if search and search.splits else ""
    if limits and all(memory.copies.value is None for memory in memorization.values() if memory):
        page.text("Copies of training images were not searched for here: the search does not depend on the encoder.")
    page.text(
        f"An image counts as a copy if the correlation of its structure with that of a training image exceeds "
        f"{number(max(limits, default=COPY_LIMIT), 3)}, even if it is rotated, mirrored, shifted by up to 3 of 32 "
        f"pixels, or stained differently. The limit is 0.9, or the 99th percentile of held-out real images{splits} if "
        "that is higher. "
        "Held-out real images show how often such matches occur by chance: a model that does not memorize has a "
        "similar share of copies, is nearer to a training image than to a validation image in about 50% of cases, and "
        "has a distance ratio that is not below 1."
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
    if search:
        found = {PLANTED.get(kind, kind): {"found": percent_text(share)} for kind, share in search.recall.items()}
        page.text("To test the search, copies of training images were planted. It finds:")
        page.table(share_table(found, "planted copies"))
    shown = [name for name in [*order, *(name for name in closest if name not in order)] if closest.get(name)]
    if shown:
        page.text(
            "Closest pairs: left, the image; right, the most similar training image, rotated or mirrored to match."
        )
    for name in shown:
        pairs = list(closest[name])[:MOST_PAIRS]
        page.text(arm_title(name))
        pictures = [(side_by_side(left, right), f"correlation {number(alike, 3)}") for left, right, alike in pairs]
        # an image was enlarged to the thumbnail
        shown_mpp = [mpp and mpp * np.asarray(left).shape[1] / THUMBNAIL for left, _, _ in pairs]
        page.figures(pictures, mpp=shown_mpp)


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


def add_correlation(page: Page, results: ShortcutFigures, titles: Mapping[str, str]) -> None:
    """Add the section on accuracy as center and class become correlated."""
    correlation, center = results.shortcut.correlation, results.center
    page.section(f"Accuracy as {center} and class become correlated")
    if not correlation.arms:
        page.text(f"Not measured: no two classes share two values of {center} with enough patients.")
        return
    several = {titles.get(arm, arm): of_arm.num_trainings for arm, of_arm in correlation.arms.items()}
    sources = source_names("patient", several, any(arm in correlation.arms for arm in results.generated))
    draws = max(point.n for of_arm in correlation.arms.values() for point in of_arm.curve)
    page.figure(
        correlation_curves(correlation, titles),
        f"Training images come from {correlation.num_squares:,} sets of two classes and two values of {center}, always "
        f"in the same number. At 0, {center} and class are independent; at 1, {center} determines the class. The test "
        f"is balanced. Where a line falls, the classifier relies on {center}. Means over "
        f"{plural(draws, 'draw')}{trainings_text(several)}, with 95% intervals over {listed(sources)} "
        "(points are offset for legibility).",
    )
    if correlation.left_out:
        left_out = listed(titles.get(arm, arm) for arm in correlation.left_out)
        page.text(
            f"Not shown: {left_out}. The generative model was trained on images that are withheld from the classifiers "
            "here (or this is not recorded), and its images would hand them back."
        )
    rows = {
        titles.get(arm, arm): {
            "average performance drop": figure_text(of_arm.average_performance_drop, 3),
            f"drop at another {center}": figure_text(of_arm.outside_drop, 3),
            "nIPD": figure_text(of_arm.nipd, 3),
            f"nIPD at another {center}": figure_text(of_arm.outside_nipd, 3),
            "draws": of_arm.average_performance_drop.n,
        }
        for arm, of_arm in correlation.arms.items()
    }
    page.table(
        share_table(rows, "training data"),
        "Accuracy lost, as defined by PathoROB and croma, with 95% intervals as above",
    )
    page.text(
        "Average performance drop (PathoROB): share of the accuracy that is lost on average when "
        f"{center} and class are correlated in training; 0 is none, −0.2 one fifth."
    )
    page.text(
        "nIPD (croma): the same loss as a share of the accuracy above chance, averaged evenly over all correlations; "
        "0 is none, −0.5 a steady fall to chance."
    )
    page.text(
        f"Test: {correlation.num_test:,} images of other patients with the same {center} as in training, and "
        f"{correlation.num_outside:,} of the same classes with another {center}."
    )
    if any(arm in correlation.arms for arm in results.generated):
        _add_known_patients(page, correlation)


def _add_known_patients(page: Page, correlation: CorrelationSweep) -> None:
    of_training, num_test = correlation.num_test_known, correlation.num_test + correlation.num_outside
    if num_test:
        level = "warning" if 2 * of_training > num_test else "note"
        page.notice(
            f"{of_training:,} of {num_test:,} test images here ({of_training / num_test:.0%}) are from patients in the "
            "training data of the generative model, so arms with generated images may look better here than on new "
            "patients.",
            level if of_training else "ok",
        )


def add_shortcut(page: Page, results: ShortcutFigures) -> None:
    """Add the section on class and center information in the features."""
    shortcut, label, center = results.shortcut, results.label, results.center
    rows = {
        column: {
            "balanced accuracy": figure_text(accuracy, 3),
            "chance": number(accuracy.chance, 3),
            "values": accuracy.num_values,
            "images": accuracy.n,
        }
        for column, accuracy in ((label, shortcut.label_probe_accuracy), (center, shortcut.center_probe_accuracy))
    }
    page.section(
        f"Information about {label} and {center} in the features",
        f"Balanced accuracy of linear probes for {label} and {center} on real images of other patients. "
        f"If {center} can be predicted well, a classifier can use it as a shortcut.",
    )
    page.table(share_table(rows, "predicted column"))
    index, score = shortcut.robustness_index, shortcut.clustering_score
    page.text(
        f"Robustness index (PathoROB): {number(index.value, 3)}{span(index.ci95, 3)} over {index.num_pairs:,} pairs of "
        f"classes and of {center} (n = {index.n:,}, k = {index.k or DASH}). Of the k images of other slides that are "
        f"most similar to an image, those that share only its class or only its {center} are counted, and the index is "
        "the fraction "
        f"that share the class: at 1, features follow class; at 0, {center}."
    )
    page.text(
        f"Clustering score (PathoROB): {number(score.value, 3)}{span(score.ci95, 3)} over {score.num_pairs:,} pairs "
        f"(n = {score.n:,}). Images are sorted into groups by similarity alone: at 1, the groups are the classes; at "
        f"−1, they are the values of {center}; at 0, neither."
    )
