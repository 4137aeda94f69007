"""Plots that compare arms; each arm has the same color-blind-safe color and marker in all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Affine2DBase, ScaledTranslation

from medi_monai.report.blocks.arms import ARMS, OTHERS, arm_looks
from medi_monai.report.grids import label_cells, write_in_cells
from medi_monai.report.words import arm_title, short
from medi_monai.results import Figure as ResultFigure
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.probing import SweepPoint
from medi_monai.utils.text import plural

__all__ = [
    "arm_legend",
    "combination_dots",
    "correlation_curves",
    "distance_distribution",
    "distance_heat_maps",
    "draw_point",
    "forest_plot",
    "named_styles",
    "plain_axes",
    "sweep_curves",
]

FLOOR_COLOR, UNSEEN_COLOR = "#8a8f94", "#b02a37"
ROW_INCHES = 0.24
FLOOR_TITLE = "Real images of other patients"
#: position, value and interval of each point
Curve: TypeAlias = Sequence[tuple[float, float | None, tuple[float, float] | None]]
#: ratio of the largest to the smallest value above which an axis is logarithmic
WIDE_RANGE = 12
#: maximum number of columns of heat maps that share a figure and have numbers in their cells
NARROW = 18


def named_styles(names: Sequence[str], known: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the color and marker of each name: its own if it is a known one, otherwise the next of :data:`OTHERS`."""
    others = [name for name in names if name not in known]
    return {name: known.get(name) or OTHERS[others.index(name) % len(OTHERS)] for name in names}


def forest_plot(
    arms: Mapping[str, Mapping[str, ResultFigure | None]],
    figures: Mapping[str, str],
    titles: Mapping[str, str],
    marks: Mapping[str, float | None] | None = None,
) -> Figure:
    """Plot figures of all arms as points with their intervals, one panel per figure.

    A figure of several trainings has a small dot for each of them, above its point.

    Args:
        arms: figures by name, for each arm.
        figures: for each name of a figure, the label of its axis.
        titles: title of each arm.
        marks: for each name of a figure, the position of a dotted line, such as chance.
    """
    styles, order = arm_looks(list(arms)), list(arms)
    figure = Figure(figsize=(10.5, 1.0 + 0.36 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for axes, (name, label) in zip(panels, figures.items()):
        for height, arm in enumerate(order):
            draw_point(axes, arms[arm].get(name), height, styles[arm])
        mark = (marks or {}).get(name)
        if mark is not None:
            axes.axvline(mark, color="#444", lw=1.2, ls=":")
        axes.set(xlabel=label)
        plain_axes(axes, "x")
    panels[0].set_yticks(range(len(order)), [short(titles[arm]) for arm in order], parse_math=False)
    panels[0].set_ylim(len(order) - 0.5, -0.5)
    return figure


def draw_point(axes: Axes, figure: ResultFigure | None, height: float, style: tuple[str, str]) -> None:
    """Draw a figure with its interval at a height, in a color and marker; figures of trainings are small dots above."""
    if figure is None or figure.value is None:
        axes.text(
            0.02, height, "undefined", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#777"
        )
        return
    if figure.ci95:
        axes.plot(figure.ci95, [height, height], color=style[0], lw=2, alpha=0.8, solid_capstyle="butt")
    axes.plot([figure.value], [height], style[1], color=style[0], ms=7, mec="white", mew=0.6)
    trainings = [value for value in getattr(figure, "trainings", ()) if value is not None]
    if len(trainings) > 1:
        axes.plot(trainings, [height - 0.28] * len(trainings), "o", color=style[0], ms=3, alpha=0.6, mew=0)


def sweep_curves(
    points: Sequence[SweepPoint],
    label: str,
    titles: Mapping[str, str],
    log: bool = False,
    lines: Mapping[str, float | None] | None = None,
) -> Figure:
    """Plot balanced accuracy and worst-group accuracy over the points of a sweep, with their intervals.

    Args:
        points: points of the sweep.
        label: label of the axis of points.
        titles: title of each arm.
        log: whether the axis of points is logarithmic.
        lines: for each name of a figure, the height of a dashed line: its value for real images alone.
    """
    arms = list(dict.fromkeys(point.arm for point in points))
    styles = arm_looks(arms)
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    names = {"balanced_accuracy": "balanced accuracy", "worst_group_accuracy": "worst-group accuracy"}
    for axes, (name, title) in zip(panels, names.items()):
        for arm in arms:
            curve = [
                (point.point, getattr(point, name), getattr(point, f"{name}_ci95"))
                for point in points
                if point.arm == arm
            ]
            _curve(axes, curve, styles[arm], _asides(arms)[arm], figure.dpi_scale_trans)
        axes.set(xlabel=label, ylabel=title)
        plain_axes(axes, "y")
        _name_points(axes, sorted({point.point for point in points}), log)
        height = (lines or {}).get(name)
        if height is not None:
            axes.axhline(height, color=ARMS["real"].color, lw=1.2, ls="--")
    arm_legend(figure, arms, styles, titles)
    return figure


def _curve(axes: Axes, curve: Curve, style: tuple[str, str], aside: float, scale: Affine2DBase) -> None:
    shown = [(x, y, interval or (y, y)) for x, y, interval in curve if y is not None]
    # offset in points, independent of the scale of the axis, so that the intervals of several arms do not overlap
    moved = axes.transData + ScaledTranslation(aside / 72, 0, scale)
    for x, y, edges in shown:
        axes.update_datalim([(x, y), *((x, edge) for edge in edges)])
        axes.add_artist(Line2D([x, x], edges, color=style[0], lw=1.6, alpha=0.6, transform=moved))
    xs, ys = [x for x, _, _ in shown], [y for _, y, _ in shown]
    if not shown:
        return
    axes.add_artist(
        Line2D(xs, ys, color=style[0], marker=style[1], ms=6, lw=1.8, mec="white", mew=0.6, transform=moved)
    )
    axes.autoscale_view()


def _asides(arms: Sequence[str]) -> dict[str, float]:
    return {arm: 3.5 * (nth - (len(arms) - 1) / 2) for nth, arm in enumerate(arms)}


def _name_points(axes: Axes, points: Sequence[float], log: bool) -> None:
    if not axes.lines:
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", color="#777")
    if log and min(points) > 0:
        axes.set_xscale("log")
    if len(points) <= 12:
        axes.set_xticks(points, [f"{point:,g}" for point in points])
        axes.xaxis.set_minor_locator(NullLocator())


def correlation_curves(
    correlation: CorrelationSweep,
    titles: Mapping[str, str],
    shown: Sequence[str] | None = None,
    size: tuple[float, float] = (7.5, 4),
) -> Figure:
    """Plot the balanced accuracy of each arm, with intervals, by the correlation of class and center.

    Args:
        correlation: accuracies by correlation.
        titles: title of each arm.
        shown: arms to plot; by default all.
        size: width and height in inches.
    """
    arms = list(correlation.arms) if shown is None else list(shown)
    styles = arm_looks(arms)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for arm in arms:
        curve = [(point.level, point.value, point.ci95) for point in correlation.arms[arm].curve]
        _curve(axes, curve, styles[arm], _asides(arms)[arm], figure.dpi_scale_trans)
    axes.set(xlabel="correlation of class and center in training")
    axes.set(ylabel="balanced accuracy")
    plain_axes(axes, "y")
    _name_points(axes, correlation.levels, False)
    if len(arms) > 1:
        arm_legend(figure, arms, styles, titles)
    return figure


def combination_dots(rows: pd.DataFrame, arms: Sequence[str], label: str) -> Figure:
    """Plot the distances of all arms and the floor, one line per combination; those not in training are on top.

    Args:
        rows: combinations, with ``name``, ``seen``, ``floor`` and one column per arm.
        arms: names of the arms.
        label: label of the axis.
    """
    styles, order = arm_looks(arms), rows.sort_values("seen", kind="stable").reset_index(drop=True)
    figure = Figure(figsize=(9.5, 1.2 + ROW_INCHES * len(order)), layout="constrained")
    axes = figure.subplots()
    num_unseen = int((~order["seen"].astype(bool)).sum())
    if num_unseen:
        axes.axhspan(-0.5, num_unseen - 0.5, color=UNSEEN_COLOR, alpha=0.07, lw=0)
    axes.hlines(range(len(order)), 0, 1, transform=axes.get_yaxis_transform(), color="#e9ecef", lw=0.8, zorder=0)
    heights = np.arange(len(order))
    axes.plot(order["floor"].astype(float), heights, "|", color=FLOOR_COLOR, ms=11, mew=2.5)
    for arm in arms:
        axes.plot(order[arm].astype(float), heights, styles[arm][1], color=styles[arm][0], ms=6, mec="white", mew=0.5)
    names = [
        short(name, 44) + ("" if seen else "  (not in training)") for name, seen in zip(order["name"], order["seen"])
    ]
    axes.set_yticks(heights, names, fontsize=8, parse_math=False)
    for tick, seen in zip(axes.get_yticklabels(), order["seen"]):
        tick.set_color("#222" if seen else UNSEEN_COLOR)
    axes.set_ylim(len(order) - 0.5, -0.5)
    _distance_axis(axes, order[["floor", *arms]].to_numpy(float), label)
    extra = [(Line2D([], [], ls="", marker="|", color=FLOOR_COLOR, ms=11, mew=2.5), FLOOR_TITLE)]
    arm_legend(figure, arms, styles, {arm: arm_title(arm) for arm in arms}, extra)
    return figure


def distance_distribution(rows: pd.DataFrame, arms: Sequence[str], label: str) -> Figure:
    """Plot the share of combinations with at most each distance, separately for those in training and not in training.

    This is for more combinations than fit on a page with :func:`combination_dots`, which has the same arguments.
    """
    styles = arm_looks(arms)
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, seen in zip(panels, (True, False)):
        rows_of_panel = rows[rows["seen"].astype(bool) == seen]
        for arm, color in (("floor", FLOOR_COLOR), *((arm, styles[arm][0]) for arm in arms)):
            values = np.sort(rows_of_panel[arm].astype(float).dropna())
            if len(values):
                axes.step(values, np.arange(1, len(values) + 1) / len(values), where="post", color=color, lw=2)
        axes.set_title(
            f"{'in' if seen else 'not in'} training ({plural(len(rows_of_panel), 'combination')})", fontsize=10
        )
        _distance_axis(axes, rows_of_panel[["floor", *arms]].to_numpy(float), label)
    panels[0].set_ylabel("share of combinations with at most this distance")
    panels[0].set_ylim(0, 1.02)
    extra = [(Line2D([], [], color=FLOOR_COLOR, lw=2), FLOOR_TITLE)]
    arm_legend(figure, arms, styles, {arm: arm_title(arm) for arm in arms}, extra)
    return figure


def _distance_axis(axes: Axes, values: np.ndarray, label: str) -> None:
    given = values[np.isfinite(values) & (values > 0)]
    if len(given) and given.max() > WIDE_RANGE * given.min():
        axes.set_xscale("log")
        _label_powers(axes.xaxis)
        label += " (log scale)"
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(label)
    plain_axes(axes, "x")


def distance_heat_maps(
    tables: Mapping[str, pd.DataFrame], unseen: Collection[tuple[str, str]], label: str
) -> list[Figure]:
    """Draw heat maps of all tables with one color scale; empty cells are white, combinations not in training framed.

    Args:
        tables: distances by title, one row per class and one column per value; all of the same shape.
        unseen: ``(row, column)`` names of combinations that are not in training.
        label: label of the color scale.

    Returns:
        One figure with all maps, or one figure per map if they are wide.
    """
    norm = _shared_norm([table.to_numpy(float) for table in tables.values()])
    columns = next(iter(tables.values())).shape[1]
    figures = [dict(tables)] if columns <= NARROW else [{title: table} for title, table in tables.items()]
    return [_heat_maps(panels, unseen, label, norm) for panels in figures]


def _heat_maps(
    tables: Mapping[str, pd.DataFrame], unseen: Collection[tuple[str, str]], label: str, norm: Normalize
) -> Figure:
    rows, columns = next(iter(tables.values())).shape
    across = min(len(tables), 1 if columns > NARROW else 2 if columns > 9 else 3)
    down = -(-len(tables) // across)
    size = (1.2 + across * (1.3 + (0.25 if columns > NARROW else 0.36) * columns), down * (1.3 + 0.29 * rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(tables) :]:
        axes.set_visible(False)
    for axes, (title, table) in zip(panels, tables.items()):
        values = table.to_numpy(float)
        image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis_r", norm=norm, aspect="auto")
        axes.set_title(short(title), fontsize=10, parse_math=False)
        names = [short(name, 22) for name in table.index], [short(name, 18) for name in table.columns]
        label_cells(axes, *names, fontsize=7.5, rotation=90)
        if columns <= NARROW:
            write_in_cells(axes, values, np.isfinite(values), _distance_text, lambda value: norm(value) > 0.5)
        for row, column in zip(*np.nonzero(np.isfinite(values))):
            if (table.index[row], table.columns[column]) in unseen:
                corner = (column - 0.45, row - 0.45)
                axes.add_patch(Rectangle(corner, 0.9, 0.9, fill=False, ec=UNSEEN_COLOR, lw=1.5))
    bar = figure.colorbar(image, ax=list(panels[: len(tables)]), label=label, shrink=min(1, 4 / size[1]), aspect=16)
    if isinstance(norm, LogNorm):
        _label_powers(bar.ax.yaxis)
    return figure


def _label_powers(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())


def _shared_norm(tables: Sequence[np.ndarray]) -> Normalize:
    values = np.concatenate([table.ravel() for table in tables])
    given = values[np.isfinite(values)]
    if not len(given):
        return Normalize(0, 1)
    positive = given[given > 0]
    if len(positive) == len(given) and given.max() > WIDE_RANGE * given.min():
        return LogNorm(given.min(), given.max())
    return Normalize(min(0, given.min()), given.max() if given.max() > 0 else 1)


def _distance_text(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.2g}"


def plain_axes(axes: Axes, along: Literal["x", "y"]) -> None:
    """Remove the frame at the top and right, and draw light grid lines at the ticks of the axis ``along``."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=along, color="#e9ecef", lw=0.8)
    axes.set_axisbelow(True)


def arm_legend(
    figure: Figure,
    arms: Sequence[str],
    styles: Mapping[str, tuple[str, str]],
    titles: Mapping[str, str],
    extra: Sequence[tuple[Line2D, str]] = (),
) -> None:
    """Add a legend of the arms, with their colors and markers, above the panels; ``extra`` lines come first."""
    handles = [Line2D([], [], color=styles[arm][0], marker=styles[arm][1], ms=7, lw=1.8) for arm in arms]
    # matplotlib omits names that begin with an underscore
    names = [short(titles[arm]).lstrip("_") or arm for arm in arms]
    handles, names = [*(line for line, _ in extra), *handles], [*(name for _, name in extra), *names]
    legend = figure.legend(handles, names, loc="outside upper center", ncols=min(6, len(names)), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
