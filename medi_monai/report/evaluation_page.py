"""The page of the run ``evaluation``: fidelity, label fidelity and memorization of generated images."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from medi_monai.metrics.memorization import reproduces_training_images
from medi_monai.report.combinations import add_combinations, combination_table
from medi_monai.report.page import Page
from medi_monai.report.plots import forest_plot
from medi_monai.report.sections import (
    DISTANCES,
    QUALITY,
    Closest,
    add_findings,
    add_memorization,
    add_provenance,
    distance_row,
)
from medi_monai.report.words import (
    arm_title,
    differing_settings,
    edges_of,
    figure_text,
    known,
    listed,
    number,
    p_text,
    percent_text,
    share_table,
    span,
)

__all__ = ["add_distances", "fidelity_figure", "fidelity_sentences", "write_evaluation_page"]

#: fewer combinations, or matched images in the median one of them, call for a warning
FEW_COMBINATIONS, FEW_IMAGES = 8, 50
MOST_ROWS = 60
FLOOR, REAL = "Real images of other patients", "Real images"
SIGNIFICANT = 0.05


def write_evaluation_page(content: Mapping[str, Any], closest: Closest, path: str | os.PathLike) -> Path:
    """Write the page of an evaluation.

    Args:
        content: of ``metrics.json``.
        closest: the closest pairs of each arm and of held-out real images.
        path: of the page.

    Returns:
        ``path``.
    """
    columns = [content["label"], *content["attributes"]]
    lead = (
        f"Generated images ({listed(map(arm_title, content['arms']))}) compared with real images, by combination of "
        f"{' and '.join(columns)}."
    )
    page = Page("Fidelity of generated images", lead)
    combinations = combination_table(content)
    cautions = _cautions(content, combinations)
    page.answer(fidelity_sentences(content), "warning" if any(_copying_arms(content)) else "note")
    page.figure(fidelity_figure(content), _caption(content))
    add_findings(page, cautions, "Cautions")
    add_distances(page, content)
    _add_label_fidelity(page, content)
    memorization = {"held_out": content["real"].get("memorization")}
    add_memorization(
        page, memorization | {arm: figures["memorization"] for arm, figures in content["arms"].items()}, closest
    )
    _add_comparisons(page, content)
    add_combinations(page, content, combinations)
    _add_labels(page, content)
    add_provenance(page, content["settings"], content.get("digests"), content["encoder"])
    return page.write(path)


def fidelity_sentences(content: Mapping[str, Any]) -> list[str]:
    """A headline where arms are compared; then distances to real images, label fidelity, and memorization."""
    arms, real, label = content["arms"], content["real"], content["label"]
    means = {arm: figures["frechet_distance"]["mean"] for arm, figures in arms.items()}
    distances = "; ".join(f"{arm_title(arm)} {figure_text(mean)}" for arm, mean in means.items())
    floor = figure_text(real["floor"].get("frechet_distance"))
    closest = _closest_arm(content, means)
    headline = "No arm is significantly closer to real images than every other arm." if len(arms) > 1 else ""
    if closest:
        headline = f"{arm_title(closest)} images are closest to real images."
    requested = {arm: percent_text(figures["label_fidelity"], False) for arm, figures in arms.items()}
    shares = " and ".join(f"{share} of {arm_title(arm)} images" for arm, share in requested.items())
    copying = _copying_arms(content)
    measured = bool(real.get("memorization")) and all(figures["memorization"] for figures in arms.values())
    memory = "No arm reproduces training images more often than held-out real images resemble them."
    if copying:
        memory = f"Training images are reproduced by {listed(map(arm_title, copying))}."
    return [
        *([headline] if headline else []),
        f"Mean Fréchet distance (smaller is better): {distances}; real images of other patients {floor}.",
        f"A classifier trained on real images predicts the requested {label} in {shares}; its accuracy on real images "
        f"is {percent_text(real['label_fidelity'], False)}.",
        memory if measured else "Memorization: not reported.",
    ]


def _closest_arm(content: Mapping[str, Any], means: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The arm that is significantly closer to real images than each other arm."""
    values = {arm: known(mean.get("value")) for arm, mean in means.items()}
    if len(values) < 2 or None in values.values():
        return None
    best = min(values, key=lambda arm: values[arm] or 0.0)
    p_values = [
        known(row["log_ratio"].get("p_value"))
        for row in content["comparisons"]
        if row["combinations"] == "all" and best in row["arms"]
    ]
    certain = len(p_values) == len(values) - 1 and all(p is not None and p < SIGNIFICANT for p in p_values)
    return best if certain else None


def _copying_arms(content: Mapping[str, Any]) -> list[str]:
    held_out = content["real"].get("memorization")
    arms = {arm: figures["memorization"] for arm, figures in content["arms"].items()}
    return [arm for arm, figures in arms.items() if figures and reproduces_training_images(figures, held_out)]


def fidelity_figure(content: Mapping[str, Any]) -> Figure:
    """Mean Fréchet distance and label fidelity of each arm with 95% intervals; dotted lines are real images."""
    rows = {
        arm: {"distance": figures["frechet_distance"]["mean"], "label": figures["label_fidelity"]}
        for arm, figures in content["arms"].items()
    }
    labels = {
        "distance": "mean Fréchet distance (smaller is better)",
        "label": f"share predicted as the requested {content['label']}",
    }
    floor = content["real"]["floor"].get("frechet_distance") or {}
    marks = {"distance": floor.get("value"), "label": (content["real"]["label_fidelity"] or {}).get("value")}
    return forest_plot(rows, labels, {arm: arm_title(arm) for arm in rows}, marks)


def _caption(content: Mapping[str, Any]) -> str:
    return (
        "Points with 95% confidence intervals. Dotted lines: left, real images of other patients; right, accuracy of "
        "the classifier on real images."
    )


def _cautions(content: Mapping[str, Any], combinations: pd.DataFrame) -> list[dict[str, str]]:
    usable = combinations[combinations["n"] > 0]
    texts: list[tuple[str, str]] = []
    if content["settings_that_differ"]:
        texts.append(("warning", differing_settings(content["settings_that_differ"])))
    held_out = content["real"].get("memorization") or {}
    for arm in _copying_arms(content):
        copies = percent_text(content["arms"][arm]["memorization"]["copies"])
        texts.append(
            (
                "warning",
                f"{arm_title(arm)} reproduces training images: {copies} of its images are copies, versus "
                f"{percent_text(held_out.get('copies'))} of held-out real images.",
            )
        )
    for kind, chosen in (("", usable), (" not in training", usable[~usable["seen"]])):
        if chosen.empty:
            texts.append(("warning", f"No combination{kind} has enough images; such figures are not reported."))
        elif len(chosen) < FEW_COMBINATIONS:
            verb = "was" if len(chosen) == 1 else "were"
            plural = "s" * (len(chosen) > 1)
            texts.append(
                ("warning", f"Only {len(chosen)} combination{plural}{kind} {verb} compared: intervals are rough.")
            )
    if len(usable) and usable["n"].median() < FEW_IMAGES:
        texts.append(
            (
                "warning",
                f"Few images could be matched: median {usable['n'].median():.0f} per combination, minimum "
                f"{usable['n'].min():,}. Distances are biased upward at such counts, so compare arms with each other "
                "and with real images, not with other studies.",
            )
        )
    return [{"level": level, "text": text} for level, text in [*texts, *_notes(content, combinations, usable)]]


def _notes(content: Mapping[str, Any], combinations: pd.DataFrame, usable: pd.DataFrame) -> list[tuple[str, str]]:
    texts = []
    if len(usable) < len(combinations):
        texts.append(
            f"{len(combinations) - len(usable):,} of {len(combinations):,} combinations are excluded: they have fewer "
            f"than {content['settings'].get('min_images')} images in each half of the real images or in an arm."
        )
    alone = int(usable["one patient"].sum())
    if alone:
        texts.append(
            f"In {alone:,} of {len(usable):,} combinations all real images come from one patient. Their halves share "
            "the patient, so the distance between real images is underestimated."
        )
    below = []
    for arm, figures in content["arms"].items():
        mean, floor = (edges_of(figures["frechet_distance"][name]) for name in ("mean", "floor"))
        if mean and floor and mean[1] < floor[0]:
            below.append(arm_title(arm))
    if below:
        texts.append(
            f"Closer to real images than real images of other patients are: {listed(below)}. The model may have "
            "learned from the patients it is compared with, or may copy them: see Memorization."
        )
    return [("note", text) for text in texts]


def add_distances(page: Page, content: Mapping[str, Any]) -> None:
    """The section on fidelity: distances to real images, and quality and diversity."""
    page.section(
        "Fidelity",
        "Real images are split in halves by patient. Every arm, and the other half of the real images, is compared "
        "with the same half using the same number of images, because distances decrease with the number of images. The "
        "distance between real images of different patients is the best that a model can be expected to reach. Means "
        "weight all combinations equally. In brackets: 95% confidence intervals.",
    )
    first: Mapping[str, Any] = next(iter(content["arms"].values()), {})
    rows: dict[str, dict[str, Any]] = {FLOOR: {}, **{arm_title(arm): {} for arm in content["arms"]}}
    kinds = {"mean": "all combinations", "seen": "in training", "unseen": "not in training"}
    for metric, title in DISTANCES.items():
        for kind, words in kinds.items():
            head = f"{title}, {words}"
            floor = first.get(metric, {}).get(f"floor_{kind}")
            rows[FLOOR][head] = figure_text(content["real"]["floor"].get(metric) if kind == "mean" else floor)
            for arm, figures in content["arms"].items():
                rows[arm_title(arm)][head] = figure_text(figures[metric][kind])
    for arm, figures in content["arms"].items():
        value, floor = (known((figures["frechet_distance"][name] or {}).get("value")) for name in ("mean", "floor"))
        rows[arm_title(arm)]["Fréchet distance, ratio to real"] = value / floor if value is not None and floor else None
    mean = content["real"]["floor"]["frechet_distance"]
    page.table(
        share_table(rows, "images"),
        f"Distances to real images (smaller is better): {mean.get('num_combinations') or 0:,} combinations, "
        f"{mean.get('n') or 0:,} matched images",
    )
    quality: dict[str, dict[str, Any]] = {FLOOR: distance_row(content["real"]["floor"], QUALITY)}
    quality[FLOOR]["diversity"] = figure_text(content["real"]["diversity"], 3)
    for arm, figures in content["arms"].items():
        means = {name: figures[name]["mean"] for name in QUALITY}
        quality[arm_title(arm)] = {**distance_row(means, QUALITY), "diversity": figure_text(figures["diversity"], 3)}
    page.table(share_table(quality, "images"), "Quality and diversity (larger is better)")
    page.text(
        "Precision and density: how many generated images lie among real images. Recall and coverage: how many real "
        "images are covered by generated ones. Diversity: 1 − MS-SSIM (multi-scale structural similarity) of images of "
        "the same combination."
    )


def _add_label_fidelity(page: Page, content: Mapping[str, Any]) -> None:
    label, real = content["label"], content["real"]
    accuracies = {label: real["label_fidelity"], **(real.get("attribute_fidelity") or {})}
    rows: dict[str, dict[str, Any]] = {REAL: {}, **{arm_title(arm): {} for arm in content["arms"]}}
    for name in (label, *content["attributes"]):
        head = f"{name} predicted as requested"
        rows[REAL][head] = percent_text(accuracies.get(name))
        for arm, figures in content["arms"].items():
            share = figures["label_fidelity"] if name == label else figures["attribute_fidelity"].get(name)
            rows[arm_title(arm)][head] = percent_text(share)
    chances = [
        f"{name} {number(100 * figure['chance'], 1)}%"
        for name, figure in accuracies.items()
        if figure and known(figure.get("chance")) is not None
    ]
    page.section(
        "Label fidelity",
        "Share of generated images in which a classifier trained on real images predicts the requested value. The "
        "first row is its accuracy on real images of patients not used to train it."
        + (f" Chance: {listed(chances)}." if chances else ""),
    )
    page.table(share_table(rows, "images"))


def _add_labels(page: Page, content: Mapping[str, Any]) -> None:
    arms = content["arms"]
    labels = list(dict.fromkeys(name for figures in arms.values() for name in figures["frechet_distance"]["by_label"]))
    rows: dict[str, dict[str, Any]] = {}
    for name in labels:
        by_arm = {arm: figures["frechet_distance"]["by_label"].get(name) or {} for arm, figures in arms.items()}
        first = next(iter(by_arm.values()))
        row: dict[str, Any] = {"pooled, real images": number((first.get("pooled_floor") or {}).get("value"))}
        row |= {f"pooled, {arm_title(arm)}": _pooled(figures.get("pooled")) for arm, figures in by_arm.items()}
        row["mean, real images"] = number(first.get("floor"))
        row |= {f"mean, {arm_title(arm)}": figure_text(figures) for arm, figures in by_arm.items()}
        for arm, figures in arms.items():
            by_value = (figures["label_fidelity"] or {}).get("by_value") or {}
            row[f"predicted as requested, {arm_title(arm)}"] = percent_text({"value": by_value.get(name)})
        rows[name] = {**row, "matched images": first.get("n")}
    page.section(f"Fidelity by {content['label']}")
    if rows:
        page.table(share_table(rows, content["label"]), f"Fréchet distance by {content['label']}", MOST_ROWS)
    together = [
        f"{arm_title(arm)} {number(figures['frechet_distance']['all_images']['value'])}"
        for arm, figures in arms.items()
        if figures["frechet_distance"].get("all_images")
    ]
    page.text(
        "Pooled: all combinations of a class together, as in published results; in brackets, the range over halves of "
        "the patients. Mean: over the combinations of the class, which also penalizes images of the wrong combination; "
        "in brackets, the 95% confidence interval."
        + (f" All generated images versus all real images, not matched: {listed(together)}." if together else "")
    )


def _pooled(figure: Mapping[str, Any] | None) -> str:
    text = figure_text(figure)
    return text + span((figure or {}).get("range_over_halves")) if known((figure or {}).get("value")) else text


def _add_comparisons(page: Page, content: Mapping[str, Any]) -> None:
    kinds = {"all": "all", "seen": "in training", "unseen": "not in training"}
    rows = []
    for comparison in content["comparisons"]:
        test = comparison["log_ratio"]
        difference = test.get("difference") or {}
        log_ratio = known(difference.get("value"))
        interval = [math.exp(edge) for edge in edges_of(difference) or ()]
        rows.append(
            {
                "arms": " / ".join(map(arm_title, comparison["arms"])),
                "combinations": f"{kinds[comparison['combinations']]} ({test.get('n') or 0:,})",
                "ratio of means": number(comparison["ratio_of_means"]),
                "mean ratio within combinations": number(None if log_ratio is None else math.exp(log_ratio))
                + span(interval),
                "p": p_text(test.get("p_value")),
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
