"""The run ``probing`` as one page: what a probe makes of unseen combinations, arm by arm, and what it leans on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.report.page import Page
from medi_monai.report.plots import correlation_curves, forest_plot, sweep_curves
from medi_monai.report.words import (
    add_encoder,
    add_settings,
    arm_title,
    figure_text,
    known,
    listed,
    number,
    p_text,
    settings_notice,
    share_table,
)

__all__ = ["add_probes", "write_probe_page"]

#: figures by their name in ``probe.json``; the last is better where it is smaller
FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "worst_group_accuracy": "worst-group accuracy",
    "group_mean_accuracy": "group mean",
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
    "ratio": ("More or fewer generated images", "generated images per real one", False,
              "The dashed line is the arm of real images alone."),
    "real_per_class": ("More or fewer real images", "real training images per class, at most (logarithmic)", True,
                       "Where lines come together, real images alone are enough."),
    "num_centers": ("More or fewer centers", "centers in training", False,
                    "Where a line is flat, its arm does not need more centers."),
}  # fmt: skip
#: fewer draws of training patients, or patients in the test, call for a warning
FEW_REPEATS, FEW_PATIENTS = 10, 20
MOST_ROWS = 60


def write_probe_page(content: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write the page of a probing run.

    Args:
        content: of ``probe.json``, also after a way through JSON.
        path: of the page.

    Returns:
        ``path``.
    """
    test = content["test"]
    lead = (
        f"{content['label']} read by a linear probe on frozen features, in {test['n']:,} images of "
        f"{test['patients']:,} patients: {test['what']}."
    )
    page = Page("What a probe reads", lead)
    add_probes(page, content)
    page.section("Settings of the probes")
    add_settings(page, content["settings"])
    add_settings(page, content.get("digests") or {}, "What was compared, by digest")
    return page.write(path)


def add_probes(page: Page, content: Mapping[str, Any]) -> Page:
    """Add the sections of a probing run to a page; argument as of :func:`write_probe_page`."""
    titles = {arm: arm_title(arm, content["settings"]["arms"]) for arm in content["arms"]}
    page.section(f"Accuracy on {content['test']['what']}")
    settings_notice(page, content["settings_that_differ"])
    _add_cautions(page, content)
    _add_arms(page, content, titles)
    _add_differences(page, content, titles)
    _add_sweeps(page, content, titles)
    _add_correlation(page, content, titles)
    _add_shortcut(page, content)
    _add_parts(page, content, titles)
    _add_demographics(page, content, titles)
    _add_data(page, content, titles)
    page.section("What the probes read")
    add_encoder(page, content["encoder"])
    return page


def _add_cautions(page: Page, content: Mapping[str, Any]) -> None:
    repeats, patients = content["settings"]["num_repeats"], content["test"]["patients"]
    if repeats < FEW_REPEATS:
        # signs of the differences are exchanged draw by draw: two of 2 ** n outcomes are as far as can be
        page.notice(
            f"Only {repeats} draws of the training patients: over draws no p value can be below {2 / 2**repeats:.2g}, "
            "and intervals are rough.",
            "warning",
        )
    if patients < FEW_PATIENTS:
        page.notice(f"Only {patients} patients in the test: another few may give other figures.", "warning")
    first: Mapping[str, Any] = next(iter(content["arms"].values()), {})
    worst = first.get("worst_group_accuracy") or {}
    if worst.get("num_too_small"):
        page.notice(
            f"{worst['num_too_small']:,} test groups have fewer than {content['settings']['min_count']} images: they "
            f"cannot be the worst group. {worst.get('num_groups') or 0:,} groups can."
        )
    reached = {arm: known((one.get("training") or {}).get("converged")) for arm, one in content["arms"].items()}
    failed = [arm for arm, share in reached.items() if share is not None and share < 1]
    if failed:
        page.notice(f"Some probes did not reach their optimum: {listed(failed)}.", "warning")


def _add_arms(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    training, settings = content["training"], content["settings"]
    page.text(
        f"Every arm trains the same probe on the same draws of patients ({settings['num_repeats']} draws; "
        f"{training['n']:,} images of {training['patients']:,} patients in all); only what is added to the real "
        f"images, or how they are weighted, differs. C is chosen on {training['validation']:,} validation images of "
        "combinations that training has. In brackets: the 95 % interval over test patients and draws, of AUROC and "
        "calibration error over draws alone."
    )
    rows = {}
    for arm, figures in content["arms"].items():
        row = {title: figure_text(figures.get(name), 3) for name, title in FIGURES.items()}
        worst = figures.get("worst_group_accuracy") or {}
        named = f"{worst.get('group') or '–'} (n\u00a0=\u00a0{worst.get('n') or 0:,})"
        places = list(row.items())
        rows[titles[arm]] = dict([*places[:2], ("worst group, most often", named), *places[2:]])
    page.table(share_table(rows, "training"))
    shown = {name: FIGURES[name] for name in MAIN}
    chance = 1 / len(training["classes"]) if training["classes"] else None
    page.figure(
        forest_plot(content["arms"], shown, titles, {"balanced_accuracy": chance}),
        "Points are means over draws, lines 95 % intervals; further right is better. The dotted line is chance. "
        "All arms have the same test patients, so that intervals may overlap where a difference is certain: see the "
        "differences below.",
    )
    page.text(
        "Balanced accuracy: the mean of the accuracies of the classes. Worst group: the combination of "
        f"{listed([content['label'], *content['attributes']])} that is read worst. Group mean: balanced accuracy "
        f"averaged over the {content['attributes'][0] if content['attributes'] else 'group'}s that hold more than one "
        "class. MCC: "
        "Matthews correlation, 0 by chance. Calibration error: how far the stated probabilities are from the truth, "
        "smaller is better."
    )


def _add_differences(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in content["comparisons"]:
        found.setdefault(one["arms"][1], {})[one["figure"]] = one
    if not found:
        return
    focus = titles.get(content["settings"]["focus"], content["settings"]["focus"])
    page.section(
        f"What {focus} adds",
        f"Differences of {focus} to each other arm, on the same draws and test patients: above 0 it is better (of the "
        "calibration error: below 0). The 95 % interval is over test patients and draws. p over patients exchanges the "
        "arms patient by patient, p over draws exchanges them draw by draw; the larger of the two is corrected for the "
        "number of arms. AUROC and calibration error are compared over draws alone, which says nothing of other "
        "patients.",
    )
    gaps = {arm: {name: one.get("difference") or {} for name, one in rows.items()} for arm, rows in found.items()}
    named = {arm: titles.get(arm, arm) for arm in found}
    shown = {name: f"difference of {FIGURES[name]}" for name in MAIN}
    page.figure(
        forest_plot(gaps, shown, named, dict.fromkeys(MAIN, 0.0)),
        f"{focus} less the arm that is named; right of the dotted line at 0 {focus} is better.",
    )
    for name in MAIN:
        rows = {named[arm]: _difference(ones.get(name) or {}) for arm, ones in found.items()}
        page.table(share_table(rows, "compared with"), FIGURES[name].capitalize())
    rows = {}
    for arm, ones in found.items():
        rows[named[arm]] = row = {}
        for name, title in FIGURES.items():
            if name not in MAIN and name in ones:
                row[title] = figure_text(ones[name].get("difference"), 3)
                row[f"p, {title}"] = p_text(ones[name].get("p_holm"))
    page.table(share_table(rows, "compared with"), "Other figures, with p corrected (Holm)")


def _difference(one: Mapping[str, Any]) -> dict[str, Any]:
    row = {"difference": figure_text(one.get("difference"), 3)}
    if one.get("figure") in FIGURES_OF_COUNTS:
        row["p over patients"] = p_text(one["p_patients"])
    return row | {"p over draws": p_text(one.get("p_draws")), "p, corrected (Holm)": p_text(one.get("p_holm"))}


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
            f"Points are means over {counted} draws, vertical lines their range (arms are moved aside a little); "
            f"higher is better. {reading}",
        )
        if sweep == "ratio":
            _add_shortage(page, points, titles)


def _add_shortage(page: Page, points: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> None:
    # a ratio that is asked for is not reached where fewer images were sampled
    short_of = [
        f"{titles.get(one['arm'], one['arm'])} has {one['num_added']:,.0f} for {one['num_real']:,.0f} real ones where "
        f"the ratio is {one['point']:g}"
        for one in points
        if one["point"] == max(point["point"] for point in points) and one.get("num_real") and one.get("num_added")
        if one["num_added"] < 0.95 * one["point"] * one["num_real"]
    ]
    if short_of:
        page.notice(
            f"Fewer images were sampled than the largest ratio asks for: {listed(short_of)}. Points beyond what there "
            "is show the same images.",
            "warning",
        )


def _add_correlation(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    found = content["shortcut"].get("correlation") or {}
    page.section("When the center comes to give the class away")
    if not found.get("arms"):
        page.text("No two classes share two centers with enough patients: the correlation cannot be varied.")
        return
    page.figure(
        correlation_curves(found, titles),
        f"Training patients are chosen from pairs of classes and centers ({found['num_squares']:,} squares) so that "
        "the center tells nothing of the class (left) up to all of it (right), at the same number of images; the test "
        "stays balanced. A line that falls leans on the center; one that stays level does not. Vertical lines: 95 % of "
        "the draws; arms are moved aside a little.",
    )
    rows = {
        titles.get(arm, arm): {
            "average performance drop": figure_text(one["average_performance_drop"], 3),
            "draws": one["average_performance_drop"].get("n"),
        }
        for arm, one in found["arms"].items()
    }
    page.table(share_table(rows, "training"), "Average performance drop (PathoROB): 0 is none, −0.2 a fifth lost")
    shown, of = found.get("num_test_known") or 0, found.get("num_test") or 0
    if of:
        level = "warning" if 2 * shown > of else "note"
        page.notice(
            f"{shown:,} of {of:,} test images of this sweep ({shown / of:.0%}) are of patients that the generative "
            "model was trained on, of the others it has seen nothing: arms with generated images may look better here "
            "than on new patients.",
            level if shown else "ok",
        )


def _add_shortcut(page: Page, content: Mapping[str, Any]) -> None:
    shortcut, center = content["shortcut"], (content["attributes"] or ["center"])[0]
    rows = {}
    for name, title in (("label_probe_accuracy", content["label"]), ("center_probe_accuracy", center)):
        one = shortcut.get(name) or {}
        rows[title] = {
            "balanced accuracy": figure_text(one, 3),
            "chance": number(one.get("chance"), 3),
            "values": one.get("num_values"),
            "images": one.get("n"),
        }
    page.section(
        "What the features hold",
        f"How well a probe reads {content['label']} and {center} in real images of patients that it has not seen. "
        f"Where {center} is read well, a classifier can lean on it.",
    )
    page.table(share_table(rows, "read"))
    index = shortcut.get("robustness_index") or {}
    value = number(index.get("value"), 3)
    page.text(
        f"Robustness index (PathoROB): {value} over {index.get('num_pairs') or 0:,} pairs of classes and centers "
        f"(n = {index.get('n') or 0:,}). Of the nearest neighbors of an image that share either its class or its "
        "center, but not both, this share has its class: at 1 the features follow the class, at 0 the center."
    )


def _add_parts(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    center = (content["attributes"] or ["center"])[0]
    parts = {
        "per_center": (center, f"Balanced accuracy within each {center}; in one that holds a single class it is the "
                               "accuracy of that class. No intervals: groups may be small."),
        "per_class": (content["label"], "Accuracy of each class."),
    }  # fmt: skip
    for part, (heading, text) in parts.items():
        names: dict[str, Mapping[str, Any]] = {}
        for figures in content["arms"].values():
            names |= {name: one for name, one in (figures.get(part) or {}).items() if name not in names}
        if not names:
            continue
        rows: dict[str, dict[str, Any]] = {}
        for name, one in sorted(names.items(), key=lambda item: -(item[1].get("n") or 0)):
            rows[name] = {"images": one.get("n")} | (
                {} if one.get("num_classes") is None else {"classes": one["num_classes"]}
            )
            for arm, figures in content["arms"].items():
                rows[name][titles[arm]] = number((figures[part].get(name) or {}).get("value"), 3)
        page.section(f"By {heading}", text)
        page.table(share_table(rows, heading), max_rows=MOST_ROWS)


def _add_demographics(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    columns = list(content.get("demographics") or [])
    if not columns:
        return
    page.section(
        "Gaps between groups of patients",
        "Equal opportunity: how far two groups are apart, at most, in how often a class is recognized. Equalized odds: "
        "the larger of that and of the same gap in false alarms. 0 is none, smaller is better. Groups with few images "
        f"of a class (fewer than {content['settings']['min_count']}) are left out for it. Intervals are over draws of "
        "the training patients alone; over so few test groups, chance makes gaps of its own.",
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
        page.table(share_table(rows, "training"), f"{column}: {listed(groups) or 'no group is known'}")


def _add_data(page: Page, content: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    page.section("What the probes were trained and tested on")
    trained = {
        titles[arm]: {
            "real images": one.get("num_real"),
            "images added": one.get("num_added"),
            "C, mean": number(one.get("c")),
            "at the optimum": one.get("converged"),
        }
        for arm, one in ((arm, figures.get("training") or {}) for arm, figures in content["arms"].items())
    }
    page.table(share_table(trained, "training"), "Means over draws; at the optimum: the share of probes that got there")
    test, columns = content["test"], [content["label"], *content["attributes"]]
    frame = pd.DataFrame(
        [[*(group["values"].get(column) for column in columns), group["n"]] for group in test["groups"]],
        columns=[*columns, "images"],
    )
    caption = f"Test: {len(frame):,} combinations with {test['n']:,} images of {test['patients']:,} patients"
    frame = frame.sort_values("images", kind="stable").reset_index(drop=True)
    page.table(frame, f"{caption}, the smallest first", MOST_ROWS)
