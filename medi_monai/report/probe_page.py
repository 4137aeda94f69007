"""The page of the run ``probing``: accuracy of linear probes by arm, and how much they rely on the center."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.report.blocks.overview import accuracy_caption, accuracy_forest
from medi_monai.report.page import Page
from medi_monai.report.plots import forest_plot, sweep_curves
from medi_monai.report.sections import add_correlation, add_findings, add_provenance, add_shortcut
from medi_monai.report.words import (
    DASH,
    arm_title,
    difference_text,
    figure_text,
    main_source,
    number,
    p_statement,
    p_text,
    settings_findings,
    share_table,
    source_names,
    sources_text,
    trainings_text,
)
from medi_monai.results import Figure, Finding
from medi_monai.results.probing import Comparison, GroupAccuracy, ProbeResults, SweepPoint
from medi_monai.utils.text import listed, plural

__all__ = ["add_class_accuracies", "chance_marks", "main_figures", "write_probe_page"]

#: titles of figures by their name in ``probe.json``; for the last one, smaller is better
FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "worst_group_accuracy": "worst-group accuracy",
    "group_mean_accuracy": "group-mean accuracy",
    "mcc": "MCC",
    "auroc": "AUROC",
    "calibration_error": "calibration error",
    "in_domain_accuracy": "in-domain accuracy",
}
#: figures that are plotted
MAIN = ("balanced_accuracy", "worst_group_accuracy")
#: sweeps by name: heading, label of the axis, whether it is logarithmic, and a hint on how to read the plot
SWEEPS = {
    "ratio": ("Accuracy by number of generated images", "generated images per real image", False,
              "The dashed line is training on real images alone."),
    "real_per_class": ("Accuracy by number of real images", "real training images per class, at most (log scale)", True,
                       "Where the lines meet, generated images add nothing."),
    "num_centers": ("Accuracy by number of centers", "centers in training", False,
                    "Where a line is flat, more centers do not improve accuracy."),
}  # fmt: skip
#: numbers of draws of training patients, and of test patients, below which the page shows a caution
FEW_REPEATS, FEW_PATIENTS = 10, 20
MOST_ROWS = 60


def write_probe_page(results: ProbeResults, path: str | os.PathLike) -> Path:
    """Write the page of a probing run.

    Args:
        results: results of the run.
        path: file to write.

    Returns:
        ``path``.
    """
    test, titles = results.test, {arm: arm_title(arm, results.generated) for arm in results.arms}
    page = Page(
        "Linear probing",
        f"Linear probes on frozen features predict {results.label}. Test: {plural(test.n, 'image')} of "
        f"{plural(test.patients, 'patient')} ({test.what}).",
    )
    # an error comes before the figures that it makes unreliable
    void = any(finding.level == "error" for finding in results.warnings)
    if not void:
        page.forest(accuracy_forest(results), accuracy_caption(results))
    page.answer(_answer(results), "error" if void else "note")
    if void:
        page.forest(accuracy_forest(results), accuracy_caption(results))
    page.glossary()
    add_findings(page, _cautions(results, titles), "Cautions")
    _add_arms(page, results, titles)
    _add_differences(page, results)
    _add_sweeps(page, results, titles)
    add_correlation(page, results, titles)
    add_shortcut(page, results)
    _add_groups(page, results, titles)
    _add_demographics(page, results, titles)
    _add_data(page, results, titles)
    add_provenance(page, results.settings, results.digests, results.encoder)
    return page.write(path)


def _answer(results: ProbeResults) -> list[str]:
    # the arm in focus, compared with real images alone, with the other generated images and with the best other arm
    focus, added = results.focus, results.generated
    figure = results.arms[focus].balanced_accuracy if focus in results.arms else None
    void = [finding.text for finding in results.warnings if finding.level == "error"]
    sentences = [*void[:1], f"{arm_title(focus, added)}: balanced accuracy {figure_text(figure, 3)}."]
    rows = {row.arms[1]: row for row in results.comparisons if row.figure == "balanced_accuracy"}
    asked = [other for other in rows if other == "real" or other in added][:2]
    best = max(rows, key=lambda other: results.arms[other].balanced_accuracy.value or 0.0, default=None)
    for other in asked if best is None or best in asked else [*asked, best]:
        row = rows[other]
        sentences.append(f"{_pair(focus, other)}: {difference_text(row.difference)}, {p_statement(row.p_holm)} (Holm).")
    return sentences


def _pair(focus: str, other: str) -> str:
    return f"{arm_title(focus)} − {arm_title(other)}"


def _cautions(results: ProbeResults, titles: Mapping[str, str]) -> list[Finding]:
    repeats, patients, warnings = results.num_repeats, results.test.patients, []
    if repeats < FEW_REPEATS:
        warnings.append(f"With only {plural(repeats, 'draw')} of training patients, intervals are rough.")
    if patients < FEW_PATIENTS:
        warnings.append(f"The test has only {plural(patients, 'patient')}: results may differ for others.")
    failed = [titles[arm] for arm, of_arm in results.arms.items() if of_arm.training.converged < 1]
    if failed:
        warnings.append(f"Some probes did not converge: {listed(failed)}.")
    differing = settings_findings(results.settings_that_differ)
    findings = [*results.warnings, *differing, *(Finding("warning", text) for text in warnings)]
    for of_arm in list(results.arms.values())[:1]:
        worst = of_arm.worst_group_accuracy
        if worst.num_too_small:
            text = (
                f"Excluded from worst-group accuracy: {plural(worst.num_too_small, 'test group')} with fewer than "
                f"{results.min_count} images; {plural(worst.num_groups, 'group is', 'groups are')} included."
            )
            findings.append(Finding("note", text))
    return findings


def _add_arms(page: Page, results: ProbeResults, titles: Mapping[str, str]) -> None:
    training = results.training
    page.section(
        f"Accuracy on {results.test.what}",
        f"All arms train the same probe on the same {plural(results.num_repeats, 'draw')} of training patients "
        f"({plural(training.n, 'image')} of {plural(training.patients, 'patient')}). They differ only in the images "
        "added to the real ones or used in their place, in how images are weighted, or in how features are aligned "
        f"and probes are fitted. C is chosen on validation images ({training.validation:,}) of combinations in "
        f"training. In parentheses: 95% intervals over {sources_text(results)}; those of AUROC and calibration error "
        "do not cover other test images.",
    )
    rows = {}
    for arm, of_arm in results.arms.items():
        row = {title: figure_text(getattr(of_arm, name), 3) for name, title in FIGURES.items()}
        worst = of_arm.worst_group_accuracy
        group = f"{worst.group or DASH} (n\u00a0=\u00a0{worst.n or 0:,})"
        columns = list(row.items())
        rows[titles[arm]] = dict([*columns[:2], ("most frequent worst group", group), *columns[2:]])
    page.table(share_table(rows, "training data"))
    page.figure(
        forest_plot(main_figures(results), {name: FIGURES[name] for name in MAIN}, titles, chance_marks(results)),
        "Means over draws with 95% intervals; right is better. Dotted line: chance. All arms share the test patients, "
        "so intervals may overlap even where a difference is significant: see the differences below.",
    )
    page.text(
        "Balanced accuracy: mean of the class accuracies. Worst group: the combination of "
        f"{listed([results.label, *results.attributes])} with the lowest accuracy. Group-mean accuracy: balanced "
        f"accuracy averaged over each {results.center} with more than one class. MCC: Matthews correlation "
        "coefficient, 0 at chance. Calibration error: mean gap between confidence and accuracy, smaller is better."
    )


def main_figures(results: ProbeResults) -> dict[str, dict[str, Figure]]:
    """Return the figures that are plotted, by arm and name."""
    return {arm: {name: getattr(of_arm, name) for name in MAIN} for arm, of_arm in results.arms.items()}


def chance_marks(results: ProbeResults) -> dict[str, float | None]:
    """Return the position of the dotted line in the plot of a figure: chance."""
    return {"balanced_accuracy": results.training.chance}


def _add_differences(page: Page, results: ProbeResults) -> None:
    compared: dict[str, dict[str, Comparison]] = {}
    for row in results.comparisons:
        compared.setdefault(row.arms[1], {})[row.figure] = row
    if not compared:
        return
    focus = results.focus
    name_of_focus = arm_title(focus)
    page.section(
        f"Differences between {name_of_focus} and other arms",
        f"{name_of_focus} − each other arm, on the same draws and test images; above 0, {name_of_focus} is better "
        f"(for calibration error, below 0). 95% intervals and p values are over {sources_text(results)}; p values are "
        "corrected for the number of arms (Holm). Intervals of AUROC and calibration error do not cover other test "
        "images, so these have no p values.",
    )
    pairs = {arm: _pair(focus, arm) for arm in compared}
    page.figure(
        forest_plot(
            {arm: {name: row.difference for name, row in rows.items()} for arm, rows in compared.items()},
            {name: f"difference in {FIGURES[name]}" for name in MAIN},
            pairs,
            dict.fromkeys(MAIN, 0.0),
        ),
        f"Differences with 95% intervals; right of the dotted line, {name_of_focus} is better.",
    )
    for name in MAIN:
        rows = {
            pairs[arm]: _difference(by_figure[name], results.test.unit)
            for arm, by_figure in compared.items()
            if name in by_figure
        }
        page.table(share_table(rows, "arms"), f"Difference in {FIGURES[name]}")
    rows = {pairs[arm]: _other_differences(by_figure) for arm, by_figure in compared.items()}
    page.table(share_table(rows, "arms"), "Differences in other figures, with corrected p values (Holm)")


def _other_differences(by_figure: Mapping[str, Comparison]) -> dict[str, str]:
    row = {}
    for name, title in FIGURES.items():
        if name in by_figure and name not in MAIN:
            row[title] = difference_text(by_figure[name].difference)
            if by_figure[name].p_value is not None:
                row[f"p, {title}"] = p_text(by_figure[name].p_holm)
    return row


def _difference(row: Comparison, test_units: str) -> dict[str, str]:
    return {
        "difference": difference_text(row.difference),
        "p": p_text(row.p_value),
        "p, corrected (Holm)": p_text(row.p_holm),
        # units of the worst group are the patients within it
        "main source of uncertainty": main_source(
            row, "patient" if row.figure == "worst_group_accuracy" else test_units
        ),
    }


def _add_sweeps(page: Page, results: ProbeResults, titles: Mapping[str, str]) -> None:
    for sweep, (heading, label, log, reading) in SWEEPS.items():
        points = results.sweeps.get(sweep, ())
        if not points:
            continue
        lines = main_figures(results).get("real", {}) if sweep == "ratio" else {}
        heights = {name: figure.value for name, figure in lines.items()}
        repeats = sorted({point.n for point in points})
        counted = f"{repeats[0]}" if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
        several = {titles.get(point.arm, point.arm): point.num_trainings for point in points}
        generated = any(point.arm in results.generated for point in points)
        page.section(heading)
        page.figure(
            sweep_curves(points, label, titles, log, heights),
            f"Means over {counted} draws{trainings_text(several)}, with 95% intervals over "
            f"{listed(source_names(results.test.unit, several, generated)[1:])}; all points share the test images. "
            f"Points are offset for legibility. {reading}",
        )
        if sweep == "ratio":
            _add_shortage(page, points, titles)


def _add_shortage(page: Page, points: Sequence[SweepPoint], titles: Mapping[str, str]) -> None:
    # a requested ratio is not reached if too few images were sampled
    largest = max(point.point for point in points)
    short_of = [
        f"{titles.get(point.arm, point.arm)} has {point.num_added:,.0f} for {point.num_real:,.0f} real "
        f"images at a ratio of {point.point:g}"
        for point in points
        if point.point == largest and point.num_real and point.num_added
        if point.num_added < 0.95 * point.point * point.num_real
    ]
    if short_of:
        page.notice(
            f"Too few generated images for the largest ratio: {listed(short_of)}. Points beyond that use the same "
            "images.",
            "warning",
        )


def _add_groups(page: Page, results: ProbeResults, titles: Mapping[str, str]) -> None:
    center, label = results.center, results.label
    if any(of_arm.per_center for of_arm in results.arms.values()):
        page.section(
            f"Accuracy by {center}",
            f"Balanced accuracy within each {center}; where there is a single class, the accuracy of that class. No "
            "intervals are given, because groups may be small.",
        )
        _add_accuracies(page, center, {titles[arm]: of_arm.per_center for arm, of_arm in results.arms.items()})
    if any(of_arm.per_class for of_arm in results.arms.values()):
        page.section(f"Accuracy by {label}", f"The share of test images of each {label} that are classified correctly.")
        add_class_accuracies(page, results, titles)


def add_class_accuracies(page: Page, results: ProbeResults, titles: Mapping[str, str]) -> None:
    """Add a table of the share of test images of each class that arms classify correctly (recall); rows are classes."""
    by_class = {title: results.arms[arm].per_class for arm, title in titles.items()}
    _add_accuracies(page, results.label, by_class)


def _add_accuracies(page: Page, column: str, by_arm: Mapping[str, Mapping[str, GroupAccuracy]]) -> None:
    groups: dict[str, GroupAccuracy] = {}
    for of_arm in by_arm.values():
        groups = {**of_arm, **groups}
    rows: dict[str, dict[str, Any]] = {}
    for name, group in sorted(groups.items(), key=lambda item: -item[1].n):
        classes = {} if group.num_classes is None else {"classes": group.num_classes}
        accuracies = {
            title: number(of_arm[name].value if name in of_arm else None, 3) for title, of_arm in by_arm.items()
        }
        rows[name] = {"images": group.n, **classes, **accuracies}
    page.table(share_table(rows, column), max_rows=MOST_ROWS)


def _add_demographics(page: Page, results: ProbeResults, titles: Mapping[str, str]) -> None:
    if not results.demographics:
        return
    page.section(
        "Gaps between demographic groups",
        "Equal opportunity: largest gap in recall between two groups. Equalized odds: the larger of that gap and "
        "the gap in false positive rate. 0 is no gap; smaller is better. For each class, groups with fewer than "
        f"{results.min_count} images are excluded. Intervals cover only the draws of training patients; "
        "with so few test groups, some gap arises by chance.",
    )
    for column in results.demographics:
        gaps = {arm: of_arm.demographics[column] for arm, of_arm in results.arms.items()}
        counts = next(iter(gaps.values())).groups
        groups = [f"{name} (n\u00a0=\u00a0{count:,})" for name, count in counts.items()]
        rows = {
            titles[arm]: {
                "equal opportunity": figure_text(of_arm.equal_opportunity, 3),
                "equalized odds": figure_text(of_arm.equalized_odds, 3),
            }
            for arm, of_arm in gaps.items()
        }
        page.table(share_table(rows, "training data"), f"{column}: {listed(groups) or 'no known group'}")


def _add_data(page: Page, results: ProbeResults, titles: Mapping[str, str]) -> None:
    page.section("Training and test data")
    rows = {
        titles[arm]: {
            "real images": of_arm.training.num_real,
            "images added": of_arm.training.num_added,
            "C, mean": number(of_arm.training.c),
            "converged": of_arm.training.converged,
        }
        for arm, of_arm in results.arms.items()
    }
    page.table(share_table(rows, "training data"), "Means over draws; converged: the fraction of probes")
    test, columns = results.test, [results.label, *results.attributes]
    frame = pd.DataFrame(
        [[*(group.values.get(column) for column in columns), group.n] for group in test.groups],
        columns=[*columns, "images"],
    )
    counts = plural(test.n, "image"), plural(test.patients, "patient"), plural(len(frame), "combination")
    caption = "Test: {} of {} in {}".format(*counts)
    frame = frame.sort_values("images", kind="stable").reset_index(drop=True)
    page.table(frame, f"{caption}, smallest first", MOST_ROWS)
