"""Figures of an overview: accuracy by arm, and small plots of fidelity, shortcuts and cohort side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from medi_monai.report.blocks.arms import FAMILIES, REFERENCE, arm_family, arm_looks, arm_title, arm_words
from medi_monai.report.blocks.forest import Forest, ForestCell, ForestColumn, ForestRow
from medi_monai.report.plots import FLOOR_COLOR, correlation_curves, plain_axes
from medi_monai.report.words import class_text, difference_text, figure_text, p_statement, short
from medi_monai.results.experiment import SplitCounts
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ALPHA, Comparison, ProbeResults, RepeatedFigure
from medi_monai.utils.text import plural

__all__ = [
    "SMALL",
    "accuracy_caption",
    "accuracy_forest",
    "cohort_bars",
    "fidelity_overview",
    "main_arms",
    "shortcut_overview",
]

#: size in inches of the small plots, which share a row
SMALL = (3.9, 2.5)


def main_arms(probe: ProbeResults) -> list[str]:
    """Return the arms of the question: real images alone, and each kind of generated images."""
    return [arm for arm in probe.arms if arm == "real" or arm in probe.generated]


def accuracy_forest(probe: ProbeResults) -> Forest:
    """Return the balanced accuracy of every arm, and how much the focus differs from it, as a forest plot.

    The arms of the question come first, the others by family, and those for reference last. The dotted line of the
    accuracies is chance.
    """
    first = main_arms(probe)
    ranks = ["", *FAMILIES, REFERENCE]
    others = sorted((arm for arm in probe.arms if arm not in first), key=lambda arm: ranks.index(arm_family(arm)))
    compared = {row.arms[1]: row for row in probe.comparisons if row.figure == "balanced_accuracy"}
    looks = arm_looks(list(probe.arms))
    cells = {arm: [_accuracy_cell(probe.arms[arm].balanced_accuracy)] for arm in probe.arms}
    columns = [
        ForestColumn.of(
            "balanced accuracy, 95% interval", [of_arm[0] for of_arm in cells.values()], probe.training.chance
        )
    ]
    if compared:
        for arm, of_arm in cells.items():
            of_arm.append(_difference_cell(compared.get(arm)))
        heading = f"advantage of {arm_title(probe.focus)}, 95% interval"
        columns.append(ForestColumn.of(heading, [of_arm[1] for of_arm in cells.values()], 0.0))
    rows = [
        ForestRow(
            arm_title(arm, probe.generated),
            looks[arm][0],
            cells[arm],
            "main comparison" if arm in first else arm_family(arm),
            _row_words(arm),
            arm_family(arm) == REFERENCE,
        )
        for arm in (*first, *others)
    ]
    return Forest(columns, rows, "method", FAMILIES)


def _row_words(arm: str) -> str:
    # all arms train on real images, so the words do not repeat it
    return "" if arm == "real" else re.sub(r"^real images(; |, and |, | )", "", arm_words(arm))


def accuracy_caption(probe: ProbeResults) -> str:
    """Return the caption of :func:`accuracy_forest`."""
    caption = f"Classifiers of {class_text(probe.label)}, tested on {probe.test.what}. Dotted line on the left: chance."
    if probe.num_trainings > 1:
        caption += " Small dots: single trainings."
    compared = [row for row in probe.comparisons if row.figure == "balanced_accuracy"]
    if compared:
        caption += (
            " Both methods in a row are tested on the same images, so a difference can be significant even if "
            f"the accuracy intervals overlap. p values are corrected for {plural(len(compared), 'comparison')} "
            f"(bold: below {ALPHA}); intervals are not."
        )
    return caption


def _accuracy_cell(accuracy: RepeatedFigure) -> ForestCell:
    trainings = [value for value in accuracy.trainings if value is not None]
    return ForestCell(accuracy, figure_text(accuracy, 2), False, trainings if len(trainings) > 1 else ())


def _difference_cell(row: Comparison | None) -> ForestCell:
    if row is None:
        return ForestCell()
    text = f"{difference_text(row.difference, 2)}, {p_statement(row.p_holm)}"
    return ForestCell(row.difference, text, bool(row.significant))


def fidelity_overview(metrics: ArmsMetrics, titles: Mapping[str, str]) -> Figure:
    """Plot the mean Fréchet distance of each arm to real images, for combinations in training and not in training.

    Filled markers are combinations in training, open ones those that are not, ticks real images of other patients.
    """
    looks = arm_looks(list(metrics.arms))
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.subplots()
    for row, (arm, measured) in enumerate(metrics.arms.items()):
        distance, (color, marker) = measured.frechet_distance, looks[arm]
        kinds = (
            (distance.seen, distance.floor_seen, -0.16, color),
            (distance.unseen, distance.floor_unseen, 0.16, "white"),
        )
        for mean, floor, shift, face in kinds:
            if mean.ci95:
                axes.plot(mean.ci95, [row + shift] * 2, color=color, lw=2, alpha=0.8, solid_capstyle="butt")
            if mean.value is not None:
                axes.plot([mean.value], [row + shift], marker, color=color, ms=8, mfc=face, mew=1.4)
            if floor.value is not None:
                axes.plot([floor.value], [row + shift], "|", color=FLOOR_COLOR, ms=11, mew=2.5)
    axes.set_yticks(range(len(metrics.arms)), [short(titles[arm], 18) for arm in metrics.arms], parse_math=False)
    axes.set_ylim(len(metrics.arms) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("Fréchet distance (smaller: more similar)")
    plain_axes(axes, "x")
    keys = [
        (Line2D([], [], ls="", marker="o", color="#444", ms=7), "in training"),
        (Line2D([], [], ls="", marker="o", color="#444", mfc="white", ms=7), "not in training"),
        (Line2D([], [], ls="", marker="|", color=FLOOR_COLOR, ms=11, mew=2.5), "real, other patients"),
    ]
    figure.legend([line for line, _ in keys], [name for _, name in keys], loc="outside upper center", ncols=3,
                  frameon=False, fontsize=9, columnspacing=1, handletextpad=0.2)  # fmt: skip
    return figure


def shortcut_overview(probe: ProbeResults, titles: Mapping[str, str]) -> Figure:
    """Plot accuracy as center and class become correlated; if not measured, how well both are read from features."""
    correlation = probe.shortcut.correlation
    shown = [arm for arm in main_arms(probe) if arm in correlation.arms]
    if shown:
        return correlation_curves(correlation, titles, shown, SMALL)
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.subplots()
    read = {probe.label: probe.shortcut.label_probe_accuracy, probe.center: probe.shortcut.center_probe_accuracy}
    for row, accuracy in enumerate(read.values()):
        axes.barh(row, accuracy.value or 0, 0.5, color="#5f6368")
        if accuracy.chance is not None:
            axes.plot([accuracy.chance] * 2, [row - 0.35, row + 0.35], color="#444", lw=1.6, ls=":")
    axes.set_yticks(range(len(read)), [short(name, 18) for name in read], parse_math=False)
    axes.set(xlim=(0, 1), xlabel="balanced accuracy on real images (dotted: chance)")
    axes.set_ylim(len(read) - 0.5, -0.5)
    plain_axes(axes, "x")
    return figure


def cohort_bars(counts: Mapping[str, SplitCounts], names: Sequence[str] = ("patients", "patches")) -> Figure:
    """Plot the numbers of patients and patches of each split."""
    figure = Figure(figsize=SMALL, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names):
        numbers = [getattr(of_split, name) for of_split in counts.values()]
        bars = axes.barh(range(len(numbers)), numbers, 0.6, color="#5f6368")
        axes.bar_label(bars, [f"{count:,}" for count in numbers], padding=3, fontsize=9)
        axes.set_xlim(0, 1.3 * max([*numbers, 1]))
        axes.set_yticks(range(len(numbers)), list(counts))
        axes.set_xticks([])
        axes.set_xlabel(name)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.axes[0].set_ylim(len(counts) - 0.5, -0.5)
    return figure
