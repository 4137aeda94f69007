"""The page of the run ``probing``: accuracy of linear probes by arm, and how far they rely on the center."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.report.page import Page
from medi_monai.report.plots import correlation_curves, forest_plot, sweep_curves
from medi_monai.report.sections import add_encoder, add_settings, settings_notice
from medi_monai.report.words import (
    arm_title,
    figure_text,
    known,
    listed,
    number,
    p_text,
    share_table,
)

__all__ = ["add_probes", "write_probe_page"]

#: figures by their name in ``probe.json``; the last is better where it is smaller
FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "worst_group_accuracy": "worst-group accuracy",
    "group_mean_accuracy": "group-mean accuracy",
    "mcc": "MCC",
    "auroc": "AUROC",
    "calibration_error": "calibration error",
}
#: those that have plots
MAIN = ("balanced_accuracy", "worst_group_accuracy")
#: those that have p values over test patients as well as over draws
FIGURES_OF_COUNTS = ("balanced_accuracy", "worst_group_accuracy", "group_mean_accuracy", "mcc")
#: sweeps by their name: heading, axis, whether it is logarithmic, how to read it
SWEEPS = {
    "ratio": ("Accuracy by number of generated images", "generated images per real image", False,
              "The dashed line is training on real images alone."),
    "real_per_class": ("Accuracy by number of real images", "real training images per class, at most (log scale)", True,
                       "Where the lines meet, generated images add nothing."),
    "num_centers": ("Accuracy by number of centers", "centers in training", False,
                    "Where a line is flat, more centers do not improve accuracy."),
}  # fmt: skip
#: fewer draws of training patients, or patients in the test, call for a warning
FEW_REPEATS, FEW_PATIENTS = 10, 20
MOST_ROWS = 60


def write_probe_page(content: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write the page of a probing run.

    Args:
        content: of ``probe.json``.
        path: of the page.

    Returns:
        ``path``.
    """
    test = content["test"]
    lead = (
        f"Linear probes on frozen features predict {content['label']}. Test: {test['n']:,} images of "
        f"{test['patients']:,} patients ({test['what']})."
    )
    page = Page("Linear probing", lead)
    page.answer(_answer(content))
    add_probes(page, content)
    page.section("Settings")
    add_settings(page, content["settings"])
    add_settings(page, content.get("digests") or {}, "Digests of the cohort and of the draws")
    return page.write(path)


def _answer(content: Mapping[str, Any]) -> list[str]:
    # the arm of interest, and what it is compared with: real images alone, and the other generated ones
    focus, added = content["settings"]["focus"], content["settings"]["arms"]
    figure = content["arms"].get(focus, {}).get("balanced_accuracy")
    sentences = [f"{arm_title(focus, added)}: balanced accuracy {figure_text(figure, 3)}."]
    for row in content["comparisons"]:
        other = row["arms"][1]
        if row["figure"] == "balanced_accuracy" and (other == "real" or other in added):
            sentences.append(
                f"{_pair(focus, other)}: {_signed(row['difference'])}, p = {p_text(row['p_holm'])} (Holm)."
            )
    return sentences[:3]


def _pair(focus: str, other: str) -> str:
    return f"{arm_title(focus)} − {arm_title(other)}"


def _signed(difference: Mapping[str, Any] | None) -> str:
    value = known((difference or {}).get("value"))
    return ("+" if value is not None and value > 0 else "") + figure_text(difference, 3)


def add_probes(page: Page, content: Mapping[str, Any]) -> Page:
    """Add the sections of a probing run to a page; argument as of :func:`write_probe_page`."""
    titles = {arm: arm_title(arm, content["settings"]["arms"]) for arm in content["arms"]}
    page.section(f"Accuracy on {content['test']['what']}")
    settings_notice(page, content["settings_that_differ"])
    _add_cautions(page, content, titles)
    _add_arms(page, content, titles)
    _add_differences(page, content)
    _add_sweeps(page, content, titles)
    _add_correlation(page, content, titles)
    _add_shortcut(page, content)
    _add_groups(page, content, titles)
    _add_demographics(page, content, titles)
    _add_data(page, content, titles)
    page.section("Encoder")
    add_encoder(page, content["encoder"])
    return page


def _center(content: Mapping[str, Any]) -> str:
    return str((content["attributes"] or ["center"])[0])


def _add_cautions(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    repeats, patients = content["settings"]["num_repeats"], content["test"]["patients"]
    if repeats < FEW_REPEATS:
        # signs of the differences are exchanged draw by draw: two of 2 ** n outcomes are as far as can be
        page.notice(
            f"With only {repeats} draws of training patients, no p value over draws can be below {2 / 2**repeats:.2g}, "
            "and intervals are rough.",
            "warning",
        )
    if patients < FEW_PATIENTS:
        page.notice(f"The test has only {patients} patients: results may differ for others.", "warning")
    first: Mapping[str, Any] = next(iter(content["arms"].values()), {})
    worst = first.get("worst_group_accuracy") or {}
    if worst.get("num_too_small"):
        page.notice(
            f"{worst['num_too_small']:,} test groups with fewer than {content['settings']['min_count']} images are "
            f"excluded from worst-group accuracy; {worst.get('num_groups') or 0:,} groups are included."
        )
    converged = {arm: known((one.get("training") or {}).get("converged")) for arm, one in content["arms"].items()}
    failed = [titles[arm] for arm, share in converged.items() if share is not None and share < 1]
    if failed:
        page.notice(f"Some probes did not converge: {listed(failed)}.", "warning")


def _add_arms(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    training, settings = content["training"], content["settings"]
    page.text(
        f"All arms train the same probe on the same {settings['num_repeats']} draws of training patients "
        f"({training['n']:,} images of {training['patients']:,} patients). They differ only in the images added to the "
        f"real ones, or in how images are weighted. C is chosen on {training['validation']:,} validation images of "
        "combinations in training. In parentheses: 95% intervals over test patients and draws; of AUROC and "
        "calibration error over draws alone."
    )
    rows = {}
    for arm, figures in content["arms"].items():
        row = {title: figure_text(figures.get(name), 3) for name, title in FIGURES.items()}
        worst = figures.get("worst_group_accuracy") or {}
        group = f"{worst.get('group') or '–'} (n\u00a0=\u00a0{worst.get('n') or 0:,})"
        columns = list(row.items())
        rows[titles[arm]] = dict([*columns[:2], ("most frequent worst group", group), *columns[2:]])
    page.table(share_table(rows, "training data"))
    shown = {name: FIGURES[name] for name in MAIN}
    chance = 1 / len(training["classes"]) if training["classes"] else None
    page.figure(
        forest_plot(content["arms"], shown, titles, {"balanced_accuracy": chance}),
        "Means over draws with 95% intervals; right is better. Dotted line: chance. All arms share the test patients, "
        "so intervals may overlap although a difference is significant: see the differences below.",
    )
    page.text(
        "Balanced accuracy: mean of the class accuracies. Worst group: the combination of "
        f"{listed([content['label'], *content['attributes']])} with the lowest accuracy. Group-mean accuracy: balanced "
        f"accuracy averaged over each {_center(content)} with more than one class. MCC: Matthews correlation "
        "coefficient, 0 at chance. Calibration error: mean gap between confidence and accuracy, smaller is better."
    )


def _add_differences(page: Page, content: Mapping[str, Any]) -> None:
    compared: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in content["comparisons"]:
        compared.setdefault(row["arms"][1], {})[row["figure"]] = row
    if not compared:
        return
    focus = content["settings"]["focus"]
    name_of_focus = arm_title(focus)
    page.section(
        f"Differences between {name_of_focus} and other arms",
        f"{name_of_focus} − each other arm, on the same draws and test patients; above 0, {name_of_focus} is better "
        "(for calibration error, below 0). 95% intervals are over test patients and draws. p (patients) comes from "
        "exchanging arms patient by patient, p (draws) from exchanging them draw by draw; the larger one is corrected "
        "for the number of arms (Holm). AUROC and calibration error are compared over draws alone, which says nothing "
        "about other patients.",
    )
    gaps = {arm: {name: row.get("difference") or {} for name, row in rows.items()} for arm, rows in compared.items()}
    pairs = {arm: _pair(focus, arm) for arm in compared}
    shown = {name: f"difference in {FIGURES[name]}" for name in MAIN}
    page.figure(
        forest_plot(gaps, shown, pairs, dict.fromkeys(MAIN, 0.0)),
        f"Differences with 95% intervals; right of the dotted line, {name_of_focus} is better.",
    )
    for name in MAIN:
        rows = {pairs[arm]: _difference(by_figure.get(name) or {}) for arm, by_figure in compared.items()}
        page.table(share_table(rows, "arms"), f"Difference in {FIGURES[name]}")
    others = [name for name in FIGURES if name not in MAIN]
    rows = {
        pairs[arm]: {
            title: text
            for name in others
            if name in by_figure
            for title, text in (
                (FIGURES[name], _signed(by_figure[name].get("difference"))),
                (f"p, {FIGURES[name]}", p_text(by_figure[name].get("p_holm"))),
            )
        }
        for arm, by_figure in compared.items()
    }
    page.table(share_table(rows, "arms"), "Differences in other figures, with corrected p values (Holm)")


def _difference(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"difference": _signed(row.get("difference"))}
    if row.get("figure") in FIGURES_OF_COUNTS:
        texts["p (patients)"] = p_text(row["p_patients"])
    return texts | {"p (draws)": p_text(row.get("p_draws")), "p, corrected (Holm)": p_text(row.get("p_holm"))}


def _add_sweeps(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    for sweep, (heading, label, log, reading) in SWEEPS.items():
        points = [point for point in content["sweeps"].get(sweep) or [] if known(point["point"]) is not None]
        if not points:
            continue
        real = content["arms"].get("real") or {}
        lines = {name: ("real", (real.get(name) or {}).get("value")) for name in MAIN}
        repeats = sorted({int(point["n"]) for point in points})
        counted = f"{repeats[0]}" if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
        page.section(heading)
        page.figure(
            sweep_curves(points, label, titles, log, lines if sweep == "ratio" else None),
            f"Means over {counted} draws with their range (points are offset for legibility). {reading}",
        )
        if sweep == "ratio":
            _add_shortage(page, points, titles)


def _add_shortage(page: Page, points: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> None:
    # a ratio that is asked for is not reached where fewer images were sampled
    largest = max(point["point"] for point in points)
    short_of = [
        f"{titles.get(point['arm'], point['arm'])} has {point['num_added']:,.0f} for {point['num_real']:,.0f} real "
        f"images at a ratio of {point['point']:g}"
        for point in points
        if point["point"] == largest and point.get("num_real") and point.get("num_added")
        if point["num_added"] < 0.95 * point["point"] * point["num_real"]
    ]
    if short_of:
        page.notice(
            f"Too few generated images for the largest ratio: {listed(short_of)}. Points beyond that use the same "
            "images.",
            "warning",
        )


def _add_correlation(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    correlation, center = content["shortcut"].get("correlation") or {}, _center(content)
    page.section(f"Accuracy as {center} and class become correlated")
    if not correlation.get("arms"):
        page.text(f"Not measured: no two classes share two values of {center} with enough patients.")
        return
    page.figure(
        correlation_curves(correlation, titles),
        f"Training images from {correlation['num_squares']:,} sets of two classes and two values of {center}, always "
        f"the same number: at 0, {center} and class are independent, at 1, {center} determines the class; the test is "
        f"balanced. Where a line falls, the classifier relies on {center}. Vertical lines: 95% of the draws (points "
        "are offset for legibility).",
    )
    rows = {
        titles.get(arm, arm): {
            "average performance drop": figure_text(one["average_performance_drop"], 3),
            "draws": one["average_performance_drop"].get("n"),
        }
        for arm, one in correlation["arms"].items()
    }
    page.table(
        share_table(rows, "training data"),
        "Average performance drop (PathoROB): 0 is none; −0.2, accuracy falls by 20%",
    )
    of_training, num_test = correlation.get("num_test_known") or 0, correlation.get("num_test") or 0
    if num_test:
        level = "warning" if 2 * of_training > num_test else "note"
        page.notice(
            f"{of_training:,} of {num_test:,} test images here ({of_training / num_test:.0%}) are of patients in the "
            "training data of the generative model: arms with generated images may look better here than on new "
            "patients.",
            level if of_training else "ok",
        )


def _add_shortcut(page: Page, content: Mapping[str, Any]) -> None:
    shortcut, center = content["shortcut"], _center(content)
    rows = {}
    for name, column in (("label_probe_accuracy", content["label"]), ("center_probe_accuracy", center)):
        accuracy = shortcut.get(name) or {}
        rows[column] = {
            "balanced accuracy": figure_text(accuracy, 3),
            "chance": number(accuracy.get("chance"), 3),
            "values": accuracy.get("num_values"),
            "images": accuracy.get("n"),
        }
    page.section(
        f"Information about {content['label']} and {center} in the features",
        f"Balanced accuracy of linear probes for {content['label']} and {center} on real images of other patients. "
        f"A classifier can use {center} as a shortcut where it can be predicted well.",
    )
    page.table(share_table(rows, "predicted column"))
    index = shortcut.get("robustness_index") or {}
    page.text(
        f"Robustness index (PathoROB): {number(index.get('value'), 3)} over {index.get('num_pairs') or 0:,} pairs of "
        f"classes and of {center} (n = {index.get('n') or 0:,}). Among nearest neighbors that share either class or "
        f"{center} with an image, the fraction that share the class: at 1, features follow class; at 0, {center}."
    )


def _add_groups(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    center = _center(content)
    kinds = {
        "per_center": (center, f"Balanced accuracy within each {center}; where there is a single class, the accuracy "
                               "of that class. Without intervals, as groups may be small."),
        "per_class": (content["label"], f"Accuracy of each {content['label']}."),
    }  # fmt: skip
    for kind, (column, text) in kinds.items():
        groups: dict[str, Mapping[str, Any]] = {}
        for figures in content["arms"].values():
            groups = {**(figures.get(kind) or {}), **groups}
        if not groups:
            continue
        rows: dict[str, dict[str, Any]] = {}
        for name, group in sorted(groups.items(), key=lambda item: -(item[1].get("n") or 0)):
            rows[name] = {"images": group.get("n")}
            if group.get("num_classes") is not None:
                rows[name]["classes"] = group["num_classes"]
            for arm, figures in content["arms"].items():
                rows[name][titles[arm]] = number((figures[kind].get(name) or {}).get("value"), 3)
        page.section(f"Accuracy by {column}", text)
        page.table(share_table(rows, column), max_rows=MOST_ROWS)


def _add_demographics(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    columns = list(content.get("demographics") or [])
    if not columns:
        return
    page.section(
        "Gaps between demographic groups",
        "Equal opportunity: largest gap in recall between two groups. Equalized odds: the larger of that gap and of "
        "the gap in false positive rate. 0 is no gap; smaller is better. For each class, groups with fewer than "
        f"{content['settings']['min_count']} images are excluded. Intervals are over draws of training patients alone; "
        "with so few test groups, some gap arises by chance.",
    )
    for column in columns:
        first = next(iter(content["arms"].values()))["demographics"].get(column) or {}
        groups = [f"{name} (n\u00a0=\u00a0{count:,})" for name, count in (first.get("groups") or {}).items()]
        rows = {}
        for arm, figures in content["arms"].items():
            gaps = figures["demographics"].get(column) or {}
            rows[titles[arm]] = {
                "equal opportunity": figure_text(gaps.get("equal_opportunity"), 3),
                "equalized odds": figure_text(gaps.get("equalized_odds"), 3),
            }
        page.table(share_table(rows, "training data"), f"{column}: {listed(groups) or 'no known group'}")


def _add_data(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    page.section("Training and test data")
    rows = {
        titles[arm]: {
            "real images": training.get("num_real"),
            "images added": training.get("num_added"),
            "C, mean": number(training.get("c")),
            "converged": training.get("converged"),
        }
        for arm, training in ((arm, figures.get("training") or {}) for arm, figures in content["arms"].items())
    }
    page.table(share_table(rows, "training data"), "Means over draws; converged: the fraction of probes")
    test, columns = content["test"], [content["label"], *content["attributes"]]
    frame = pd.DataFrame(
        [[*(group["values"].get(column) for column in columns), group["n"]] for group in test["groups"]],
        columns=[*columns, "images"],
    )
    caption = f"Test: {test['n']:,} images of {test['patients']:,} patients in {len(frame):,} combinations"
    frame = frame.sort_values("images", kind="stable").reset_index(drop=True)
    page.table(frame, f"{caption}, smallest first", MOST_ROWS)
