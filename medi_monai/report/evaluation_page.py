"""The page of the run ``evaluation``: fidelity, label fidelity and memorization of generated images."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Plot

from medi_monai.metrics import FEWEST_PATIENTS
from medi_monai.report.blocks.compression import add_compression_effect
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.report.combinations import add_combinations, combination_table
from medi_monai.report.page import Page
from medi_monai.report.plots import forest_plot
from medi_monai.report.sections import (
    DISTANCES,
    Closest,
    add_findings,
    add_memorization,
    add_provenance,
    quality_row,
)
from medi_monai.report.words import (
    arm_title,
    figure_text,
    number,
    p_text,
    percent_text,
    settings_findings,
    share_table,
    span,
)
from medi_monai.results import Figure, Finding
from medi_monai.results.metrics import ArmsMetrics, MetricFigures, PooledFigure
from medi_monai.results.probing import ALPHA
from medi_monai.utils.text import listed, plural

__all__ = ["add_distances", "fidelity_figure", "fidelity_sentences", "untrained_text", "write_evaluation_page"]

#: numbers of combinations, and of matched images in the median combination, below which the page shows a caution
FEW_COMBINATIONS, FEW_IMAGES = 8, 50
MOST_ROWS = 60
FLOOR, REAL = "Real images of other patients", "Real images"


def write_evaluation_page(
    metrics: ArmsMetrics, closest: Closest, path: str | os.PathLike, samples: Gallery | None = None
) -> Path:
    """Write the page of an evaluation.

    Args:
        metrics: results of the evaluation.
        closest: for each arm and for held-out real images, the images most similar to training images.
        path: file to write.
        samples: real and generated images of the same combinations.

    Returns:
        ``path``.
    """
    lead = (
        f"Generated images ({listed(map(arm_title, metrics.arms))}) compared with real images, by combination of "
        f"{' and '.join(metrics.columns)}."
    )
    page = Page("Fidelity of generated images", lead)
    combinations = combination_table(metrics)
    page.answer(fidelity_sentences(metrics), "warning" if metrics.copying_arms or metrics.untrained_arms else "note")
    page.figure(
        fidelity_figure(metrics),
        "Points with 95% confidence intervals. Dotted lines: left, real images of other patients; right, accuracy of "
        "the classifier on real images.",
    )
    page.glossary()
    if samples is not None:
        page.section("Images", "Each column is one combination; images were chosen at random.").gallery(samples)
    add_findings(page, _cautions(metrics, combinations), "Cautions")
    add_distances(page, metrics)
    add_compression_effect(page, metrics.compression, FLOOR)
    _add_label_fidelity(page, metrics)
    generated = {arm: of_arm.memorization for arm, of_arm in metrics.arms.items()}
    memorized, mpp = {"held_out": metrics.real.memorization, **generated}, samples.mpp if samples else None
    add_memorization(page, memorized, closest, metrics.real.copy_search, mpp)
    _add_comparisons(page, metrics)
    add_combinations(page, metrics, combinations)
    _add_labels(page, metrics)
    add_provenance(page, metrics.settings, metrics.digests, metrics.encoder)
    return page.write(path)


def fidelity_sentences(metrics: ArmsMetrics) -> list[str]:
    """Return the answer as sentences: a headline if arms are compared, distances, label fidelity, and memorization."""
    distances = "; ".join(
        f"{arm_title(arm)} {figure_text(of_arm.frechet_distance.mean)}" for arm, of_arm in metrics.arms.items()
    )
    closest = _closest_arm(metrics)
    headline = "No arm is significantly closer to real images than every other arm." if len(metrics.arms) > 1 else ""
    if closest:
        headline = f"{arm_title(closest)} images are closest to real images."
    shares = " and ".join(
        f"{percent_text(of_arm.label_fidelity, False)} of {arm_title(arm)} images"
        for arm, of_arm in metrics.arms.items()
    )
    memory = "Memorization: not reported."
    if metrics.real.memorization and metrics.real.memorization.copies.value is not None:
        memory = "No arm reproduces training images more often than held-out real images resemble them."
    if metrics.copying_arms:
        memory = f"Training images are reproduced by {listed(map(arm_title, metrics.copying_arms))}."
    if metrics.untrained_arms:
        headline = untrained_text(metrics)
    return [
        *([headline] if headline else []),
        f"Mean Fréchet distance (smaller is better): {distances}; real images of other patients "
        f"{figure_text(metrics.real.floor.frechet_distance)}.",
        f"A classifier trained on real images predicts the requested {metrics.label} in {shares}; its accuracy on real "
        f"images is {percent_text(metrics.real.label_fidelity, False)}.",
        memory,
    ]


def untrained_text(metrics: ArmsMetrics) -> str:
    """Return a text that names the arms whose generator is not trained, with the precision of their images."""
    arms, floor = metrics.untrained_arms, metrics.real.floor.precision
    precisions = {arm: percent_text(metrics.arms[arm].precision.mean, False) for arm in arms}
    shares = listed(f"{share} of {arm_title(arm)} images" for arm, share in precisions.items())
    generator = "The generator is not trained" if len(arms) == len(metrics.arms) else "A generator is not trained"
    return (
        f"{generator}: only {shares} lie among real images (precision; real images of other patients: "
        f"{percent_text(floor, False)}). Train it for longer before comparing arms."
    )


def _closest_arm(metrics: ArmsMetrics) -> str | None:
    """Return the arm that is significantly closer to real images than every other arm, or None."""
    means = {arm: of_arm.frechet_distance.mean.value for arm, of_arm in metrics.arms.items()}
    values = {arm: mean for arm, mean in means.items() if mean is not None}
    if len(values) < 2 or len(values) < len(means):
        return None
    best = min(values, key=values.__getitem__)
    p_values = [
        comparison.log_ratio.p_value
        for comparison in metrics.comparisons
        if comparison.combinations == "all" and best in comparison.arms
    ]
    certain = len(p_values) == len(values) - 1 and all(p is not None and p < ALPHA for p in p_values)
    return best if certain else None


def fidelity_figure(metrics: ArmsMetrics) -> Plot:
    """Plot mean Fréchet distance and label fidelity of each arm with 95% intervals; dotted lines are real images."""
    rows = {
        arm: {"distance": of_arm.frechet_distance.mean, "label": of_arm.label_fidelity}
        for arm, of_arm in metrics.arms.items()
    }
    labels = {
        "distance": "mean Fréchet distance (smaller is better)",
        "label": f"share predicted as the requested {metrics.label}",
    }
    accuracy = metrics.real.label_fidelity
    marks = {"distance": metrics.real.floor.frechet_distance.value, "label": accuracy.value if accuracy else None}
    return forest_plot(rows, labels, {arm: arm_title(arm) for arm in rows}, marks)


def _cautions(metrics: ArmsMetrics, combinations: pd.DataFrame) -> list[Finding]:
    usable = combinations[combinations["n"] > 0]
    texts = []
    held_out = metrics.real.memorization
    for arm in metrics.copying_arms:
        texts.append(
            f"{arm_title(arm)} reproduces training images: {percent_text(metrics.arms[arm].memorization.copies)} of "
            f"its images are copies, versus {percent_text(held_out.copies if held_out else None)} of held-out real "
            "images."
        )
    for kind, chosen in (("", usable), (" not in training", usable[~usable["seen"]])):
        if chosen.empty:
            texts.append(f"No combination{kind} has enough images, so these figures are not reported.")
        elif len(chosen) < FEW_COMBINATIONS:
            counted = plural(len(chosen), f"combination{kind} was", f"combinations{kind} were")
            texts.append(f"Only {counted} compared, so intervals are rough.")
    if len(usable) and usable["n"].median() < FEW_IMAGES:
        texts.append(
            f"Few images could be matched: median {usable['n'].median():.0f} per combination, minimum "
            f"{usable['n'].min():,}. Distances are biased upward at such counts, so compare arms with each other "
            "and with real images, not with other studies."
        )
    notes = _notes(metrics, combinations, usable)
    differing = settings_findings(metrics.settings_that_differ)
    findings = [*metrics.warnings, *differing, *(Finding("warning", text) for text in texts)]
    return [*findings, *(Finding("note", text) for text in notes)]


def _notes(metrics: ArmsMetrics, combinations: pd.DataFrame, usable: pd.DataFrame) -> list[str]:
    texts = []
    if len(usable) < len(combinations):
        texts.append(
            f"{len(combinations) - len(usable):,} of {len(combinations):,} combinations are excluded: they have fewer "
            f"than {metrics.min_images} images in each half of the real images or in an arm."
        )
    alone = int(usable["one patient"].sum())
    if alone:
        texts.append(
            f"In {alone:,} of {len(usable):,} combinations, all real images come from one patient. Both halves contain "
            "this patient, so the distance between real images is underestimated."
        )
    below = []
    for arm, of_arm in metrics.arms.items():
        mean, floor = of_arm.frechet_distance.mean.ci95, of_arm.frechet_distance.floor.ci95
        if mean and floor and mean[1] < floor[0]:
            below.append(arm_title(arm))
    if below:
        texts.append(
            f"Closer to real images than those of other patients: {listed(below)}. The model may have learned from "
            "the patients it is compared with, or may copy them: see Memorization."
        )
    return texts


def add_distances(page: Page, metrics: ArmsMetrics) -> None:
    """Add the section on fidelity: distances to real images, quality, and diversity."""
    page.section(
        "Fidelity",
        "Real images are split in halves by patient. Every arm, and the other half of the real images, is compared "
        "with the same half using the same number of images, because distances decrease with the number of images. The "
        "distance between real images of different patients is the best that a model can be expected to reach. Means "
        "weight all combinations equally. In parentheses: 95% confidence intervals. Where a half has fewer than "
        f"{FEWEST_PATIENTS} patients, intervals of means are over combinations, and single combinations have none.",
    )
    floor = metrics.real.floor
    rows: dict[str, dict[str, Any]] = {FLOOR: _floor_distances(metrics)}
    for arm, of_arm in metrics.arms.items():
        row = {}
        for metric, title in DISTANCES.items():
            figures: MetricFigures = getattr(of_arm, metric)
            row[f"{title}, all combinations"] = figure_text(figures.mean)
            row[f"{title}, in training"] = figure_text(figures.seen)
            row[f"{title}, not in training"] = figure_text(figures.unseen)
        rows[arm_title(arm)] = {**row, "Fréchet distance, ratio to real": _ratio_to_real(of_arm.frechet_distance)}
    page.table(
        share_table(rows, "images"),
        "Distances to real images (smaller is better): "
        f"{plural(floor.frechet_distance.num_combinations, 'combination')}, "
        f"{floor.frechet_distance.n or 0:,} matched images",
    )
    quality = {FLOOR: {**quality_row(floor), "diversity": figure_text(metrics.real.diversity, 3)}}
    for arm, of_arm in metrics.arms.items():
        variety = {"diversity": figure_text(of_arm.diversity, 3), "pixel variance": figure_text(of_arm.pixel_variance)}
        quality[arm_title(arm)] = {**quality_row(of_arm.means), **variety}
    page.table(share_table(quality, "images"), "Quality and diversity (larger is better)")
    page.text(
        "Precision and density: how many generated images lie among real images. Recall and coverage: how many real "
        "images are covered by generated ones. Diversity: 1 − MS-SSIM (multi-scale structural similarity) of images of "
        "the same combination. Pixel variance: among images of the same combination, divided by that of real images; 1 "
        "is best."
    )


def _floor_distances(metrics: ArmsMetrics) -> dict[str, str]:
    row: dict[str, str] = {}
    for metric, title in DISTANCES.items():
        row[f"{title}, all combinations"] = figure_text(getattr(metrics.real.floor, metric))
        for of_arm in list(metrics.arms.values())[:1]:
            figures: MetricFigures = getattr(of_arm, metric)
            row[f"{title}, in training"] = figure_text(figures.floor_seen)
            row[f"{title}, not in training"] = figure_text(figures.floor_unseen)
    return row


def _ratio_to_real(distance: MetricFigures) -> float | None:
    value, floor = distance.mean.value, distance.floor.value
    return value / floor if value is not None and floor else None


def _add_label_fidelity(page: Page, metrics: ArmsMetrics) -> None:
    label, real = metrics.label, metrics.real
    accuracies = {label: real.label_fidelity, **real.attribute_fidelity}
    shares = {
        arm_title(arm): {label: of_arm.label_fidelity, **of_arm.attribute_fidelity}
        for arm, of_arm in metrics.arms.items()
    }
    by_title: dict[str, Mapping[str, Figure | None]] = {REAL: accuracies, **shares}
    rows: dict[str, dict[str, Any]] = {
        title: {f"{column} predicted as requested": percent_text(by_column.get(column)) for column in metrics.columns}
        for title, by_column in by_title.items()
    }
    for arm, of_arm in metrics.arms.items():
        if of_arm.label_fidelity and of_arm.label_fidelity.unseen is not None:
            unseen = f"{number(100 * of_arm.label_fidelity.unseen)}%"
            rows[arm_title(arm)][f"{label}, combinations not in training"] = unseen
    chances = [
        f"{column} {number(100 * accuracy.chance, 1)}%"
        for column, accuracy in accuracies.items()
        if accuracy and accuracy.chance is not None
    ]
    page.section(
        "Label fidelity",
        "Share of generated images for which a classifier trained on real images predicts the requested value. The "
        "first row is its accuracy on real images of patients not used to train it."
        + (f" Chance: {listed(chances)}." if chances else ""),
    )
    page.table(share_table(rows, "images"))


def _add_labels(page: Page, metrics: ArmsMetrics) -> None:
    labels = dict.fromkeys(name for of_arm in metrics.arms.values() for name in of_arm.frechet_distance.by_label)
    rows = {name: _label_row(metrics, name) for name in labels}
    page.section(f"Fidelity by {metrics.label}")
    if rows:
        page.table(share_table(rows, metrics.label), f"Fréchet distance by {metrics.label}", MOST_ROWS)
    together = [
        f"{arm_title(arm)} {number(of_arm.frechet_distance.all_images.value)}"
        for arm, of_arm in metrics.arms.items()
        if of_arm.frechet_distance.all_images
    ]
    page.text(
        "Pooled: all combinations of a class together, as in published results; in parentheses, the range over halves "
        "of the patients. Mean: over the combinations of the class, which also penalizes images of the wrong "
        "combination; in parentheses, the 95% confidence interval."
        + (f" All generated images versus all real images, not matched: {listed(together)}." if together else "")
    )


def _label_row(metrics: ArmsMetrics, name: str) -> dict[str, Any]:
    by_arm = {arm_title(arm): of_arm.frechet_distance.by_label.get(name) for arm, of_arm in metrics.arms.items()}
    first = next(iter(by_arm.values()))
    pooled_floor = first.pooled_floor if first else None
    row: dict[str, Any] = {"pooled, real images": number(pooled_floor.value if pooled_floor else None)}
    row |= {f"pooled, {title}": _pooled(figure.pooled if figure else None) for title, figure in by_arm.items()}
    row["mean, real images"] = number(first.floor if first else None)
    row |= {f"mean, {title}": figure_text(figure) for title, figure in by_arm.items()}
    for arm, of_arm in metrics.arms.items():
        shares = of_arm.label_fidelity.by_value if of_arm.label_fidelity else {}
        row[f"predicted as requested, {arm_title(arm)}"] = percent_text(Figure(shares.get(name)))
    return {**row, "matched images": first.n if first else None}


def _pooled(figure: PooledFigure | None) -> str:
    text = figure_text(figure)
    return text if figure is None or figure.value is None else text + span(figure.range_over_halves)


def _add_comparisons(page: Page, metrics: ArmsMetrics) -> None:
    kinds = {"all": "all", "seen": "in training", "unseen": "not in training"}
    rows = []
    for comparison in metrics.comparisons:
        test = comparison.log_ratio
        log_ratio, interval = test.difference.value, test.difference.ci95 or ()
        rows.append(
            {
                "arms": " / ".join(map(arm_title, comparison.arms)),
                "combinations": f"{kinds[comparison.combinations]} ({test.n:,})",
                "ratio of means": number(comparison.ratio_of_means),
                "mean ratio within combinations": number(None if log_ratio is None else math.exp(log_ratio))
                + span([math.exp(edge) for edge in interval]),
                "p": p_text(test.p_value),
            }
        )
    if rows:
        page.section(
            "Comparison of arms",
            "Ratio of the Fréchet distances of two arms; above 1, the second arm is closer to real images. The mean "
            "ratio within combinations is the geometric mean, with its 95% confidence interval; p is from a paired "
            "permutation test over combinations. Each model was trained once, so the test does not cover variation "
            "between trainings.",
        )
        page.table(pd.DataFrame(rows), "Ratio of Fréchet distances")
