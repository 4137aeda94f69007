"""Plots of what features reveal, and of accuracy in domain and on unseen combinations."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medi_monai.report.plots import plain_axes
from medi_monai.report.words import short
from medi_monai.results import Figure as ResultFigure
from medi_monai.results.measures import ProbeAccuracy

__all__ = ["column_plot", "domain_plot"]

LABEL_COLOR, ATTRIBUTE_COLOR, CHANCE_COLOR = "#0072b2", "#d55e00", "#444"


def column_plot(label: str, columns: Mapping[str, ProbeAccuracy]) -> Figure:
    """Plot how accurately probes predict class and attributes, each with its chance.

    Args:
        label: column of the class, one of ``columns``.
        columns: accuracy of a probe for each column.
    """
    figure = Figure(figsize=(5.8, 1.1 + 0.4 * len(columns)), layout="constrained")
    axes = figure.subplots()
    for height, (name, accuracy) in enumerate(columns.items()):
        _point(axes, accuracy, height, LABEL_COLOR if name == label else ATTRIBUTE_COLOR)
        if accuracy.chance is not None:
            axes.plot([accuracy.chance] * 2, [height - 0.32, height + 0.32], color=CHANCE_COLOR, lw=1.4, ls=":")
    _finish(axes, list(columns), "balanced accuracy of a probe for each column")
    return figure


def domain_plot(label: str, tests: Mapping[str, ResultFigure], chance: float) -> Figure:
    """Plot how accurately a probe predicts the class on each test set.

    Args:
        label: column of the class.
        tests: accuracy by title of the test set.
        chance: accuracy expected by chance.
    """
    figure = Figure(figsize=(5.4, 1.1 + 0.4 * len(tests)), layout="constrained")
    axes = figure.subplots()
    for height, accuracy in enumerate(tests.values()):
        _point(axes, accuracy, height, LABEL_COLOR)
    axes.axvline(chance, color=CHANCE_COLOR, lw=1.4, ls=":")
    _finish(axes, list(tests), f"balanced accuracy of a probe for {short(label, 20)}")
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
