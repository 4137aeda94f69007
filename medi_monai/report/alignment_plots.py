"""Plots of an alignment: shares of subgroups with their target, and the distance to the target during tuning."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medi_monai.report.blocks.arms import arm_looks
from medi_monai.report.plots import arm_legend, named_styles, plain_axes
from medi_monai.report.words import arm_title, short
from medi_monai.results import Figure as ResultFigure
from medi_monai.results.alignment import AlignmentMetrics, TuningCurve

__all__ = ["curve_plot", "has_prompts", "proportion_bars"]

#: color and marker of each classifier
CLASSIFIERS = {"guide": ("#e08700", "o"), "validation": ("#86a0b5", "^"), "judge": ("#0072b2", "D")}


def proportion_bars(metrics: AlignmentMetrics, attribute: str) -> Figure:
    """Plot predicted shares by value and arm, and corrected shares if known, with intervals and the target."""
    target, arms = metrics.target.parts[attribute], list(metrics.proportions)
    colors = {arm: color for arm, (color, _) in arm_looks(arms).items()}
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    corrections = {arm: distances[attribute].correction for arm, distances in metrics.distance_to_target.items()}
    shown: dict[str, dict[str, Mapping[str, ResultFigure]]] = {
        "not corrected": {arm: by_part[attribute] for arm, by_part in metrics.proportions.items()}
    }
    if any(corrections.values()):
        shown["corrected for misclassification"] = {
            arm: corrected.proportions if corrected else {} for arm, corrected in corrections.items()
        }
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    width = 0.8 / len(arms)
    for axes, (title, shares) in zip(panels, shown.items()):
        for nth, arm in enumerate(arms):
            for column, value in enumerate(target):
                center = column - 0.4 + (nth + 0.5) * width
                _bar(axes, center, 0.9 * width, shares[arm].get(value), colors[arm])
        for column, share in enumerate(target.values()):
            axes.plot([column - 0.44, column + 0.44], [share, share], color="#111", lw=2)
        axes.set_xticks(range(len(target)), [short(value, 18) for value in target], parse_math=False)
        axes.set_title(title, fontsize=10)
        plain_axes(axes, "y")
    panels[0].set(ylabel=f"share of images, {short(attribute, 24)}", ylim=(0, 1))
    line = Line2D([], [], color="#111", lw=2)
    styles, titles = {arm: (colors[arm], "s") for arm in arms}, {arm: arm_title(arm) for arm in arms}
    arm_legend(figure, arms, styles, titles, [(line, "Target")])
    return figure


def _bar(axes: Axes, center: float, width: float, share: ResultFigure | None, color: str) -> None:
    if share is None or share.value is None:
        axes.text(center, 0.02, "–", ha="center", fontsize=9, color="#777")
        return
    axes.bar(center, share.value, width, color=color, alpha=0.85)
    if share.ci95:
        axes.plot([center, center], share.ci95, color="#222", lw=1.3)


def has_prompts(curve: TuningCurve) -> bool:
    """Return whether the curve has distances of single prompts that differ from the distance of all images."""
    seen = [distance for row in curve.rows for distance in row.classifiers.values()]
    return all(at_update.distance_of_prompts is not None for at_update in seen) and any(
        at_update.distance_of_prompts != at_update.distance for at_update in seen
    )


def curve_plot(curve: TuningCurve) -> Figure:
    """Plot the distance to the target over the updates according to each classifier, and mark the selected update.

    If distances of single prompts are known and differ from those of all images, a second panel shows them.
    """
    names = list(curve.rows[0].classifiers)
    styles = named_styles(names, CLASSIFIERS)
    shown = {"distance": "all images"}
    if has_prompts(curve):
        shown["distance_of_prompts"] = "mean over prompts"
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    for axes, (field, title) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown.items()):
        for name in names:
            seen = [(row.step, getattr(row.classifiers[name], field)) for row in curve.rows if name in row.classifiers]
            color, marker = styles[name]
            axes.plot(*zip(*seen), color=color, marker=marker, ms=6, lw=1.8, mec="white", mew=0.6)
        axes.axvline(curve.kept_step, color="#444", lw=1.2, ls="--")
        axes.set(xlabel="update", title=title if len(shown) > 1 else "")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain_axes(axes, "y")
    figure.axes[0].set_ylabel("distance to the target (total variation)")
    kept = Line2D([], [], color="#444", lw=1.2, ls="--")
    arm_legend(figure, names, styles, {name: name for name in names}, [(kept, f"selected: update {curve.kept_step:,}")])
    return figure
