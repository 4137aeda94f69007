"""Plots of what features reveal, and of accuracy in domain and on unseen combinations."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medi_monai.report.plots import plain_axes
from medi_monai.report.words import short
from medi_monai.results import Figure as ResultFigure
from medi_monai.results.measures import ProbeAccuracy

__all__ = ["accuracy_plot"]

LABEL_COLOR, ATTRIBUTE_COLOR, CHANCE_COLOR = "#0072b2", "#d55e00", "#444"


def accuracy_plot(
    label: str,
    columns: Mapping[str, ProbeAccuracy],
    tests: Mapping[str, ResultFigure],
    chance: float,
) -> Figure:
    """Plot how accurately probes predict class and attributes and, if known, the class in domain and elsewhere.

    Args:
        label: column of the class, one of ``columns``.
        columns: accuracy of a probe for each column.
        tests: accuracy for the class by title of the test set.
        chance: chance of the latter.
    """
    rows = max(len(columns), len(tests))
    figure = Figure(figsize=(10 if tests else 6, 1.2 + 0.42 * rows), layout="constrained")
    panels = figure.subplots(1, 2 if tests else 1, squeeze=False, width_ratios=[3, 2] if tests else [1])[0]
    for height, (name, accuracy) in enumerate(columns.items()):
        _point(panels[0], accuracy, height, LABEL_COLOR if name == label else ATTRIBUTE_COLOR)
        if accuracy.chance is not None:
            panels[0].plot([accuracy.chance] * 2, [height - 0.32, height + 0.32], color=CHANCE_COLOR, lw=1.4, ls=":")
    _finish(panels[0], list(columns), "balanced accuracy of a probe for each column")
    if tests:
        for height, of_test in enumerate(tests.values()):
            _point(panels[1], of_test, height, LABEL_COLOR)
        panels[1].axvline(chance, color=CHANCE_COLOR, lw=1.4, ls=":")
        _finish(panels[1], list(tests), f"balanced accuracy of a probe for {short(label, 20)}")
    return figure


def _point(axes: Axes, figure: ResultFigure, height: float, color: str) -> None:
    if figure.value is None:
        axes.text(0.01, height, "undefined", va="center", fontsize=8, color="#777")
        return
    if figure.ci95:
        axes.plot(figure.ci95, [height, height], color=color, lw=2.4, alpha=0.7, solid_capstyle="butt")
    axes.plot([figure.value], [height], "o", color=color, ms=8, mec="white", mew=0.6)


def _finish(axes: Axes, names: list[str], label: str) -> None:
    axes.set(xlim=(-0.02, 1.02))
    axes.set_xlabel(label, parse_math=False)
    axes.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    plain_axes(axes, "x")
