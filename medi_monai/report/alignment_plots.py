"""Plots of an alignment: shares of subgroups with their target, and the distance to it during tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from medi_monai.report.plots import OTHERS, arm_legend, plain_axes
from medi_monai.report.words import arm_title, edges_of, known, short

__all__ = ["corrected_distance", "curve_plot", "proportion_bars"]

FIXED_COLORS = {"before": "#8a8f94", "after": "#0072b2"}
READERS = {"guide": ("#e08700", "o"), "validation": ("#86a0b5", "^"), "judge": ("#0072b2", "D")}


def corrected_distance(distance: Mapping[str, Any]) -> Mapping[str, Any]:
    """The distance corrected for misclassification; empty where it could not be corrected."""
    corrected: Mapping[str, Any] = distance.get("corrected") or {}
    return {} if corrected.get("undefined") else corrected


def proportion_bars(content: Mapping[str, Any], attribute: str) -> Figure:
    """Predicted shares by value and arm, and corrected ones where they are known, with intervals and the target."""
    target, arms = content["target"]["parts"][attribute], list(content["proportions"])
    colors = _colors(arms)
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    distances = content["distance_to_target"]
    corrected = {arm: corrected_distance(one[attribute]).get("proportions", {}) for arm, one in distances.items()}
    shown = {"not corrected": {arm: one[attribute] for arm, one in content["proportions"].items()}}
    shown |= {"corrected for misclassification": corrected} if any(corrected.values()) else {}
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
    arm_legend(
        figure,
        arms,
        {arm: (colors[arm], "s") for arm in arms},
        {arm: arm_title(arm) for arm in arms},
        [(line, "Target")],
    )
    return figure


def _bar(axes: Any, center: float, width: float, share: Mapping[str, Any] | None, color: str) -> None:
    value = known((share or {}).get("value"))
    if value is None:
        axes.text(center, 0.02, "–", ha="center", fontsize=9, color="#777")
        return
    axes.bar(center, value, width, color=color, alpha=0.85)
    interval = edges_of(share)
    if interval:
        axes.plot([center, center], interval, color="#222", lw=1.3)


def _colors(arms: Sequence[str]) -> dict[str, str]:
    others = [arm for arm in arms if arm not in FIXED_COLORS]
    return {arm: FIXED_COLORS.get(arm) or OTHERS[others.index(arm) % len(OTHERS)][0] for arm in arms}


def has_prompts(curve: Mapping[str, Any]) -> bool:
    """Whether the curve tells the distance within prompts from that of all images."""
    looks = [look for row in curve["rows"] for name, look in row.items() if name != "step"]
    return all("distance_of_prompts" in look for look in looks) and any(
        look["distance_of_prompts"] != look["distance"] for look in looks
    )


def curve_plot(curve: Mapping[str, Any]) -> Figure:
    """Distances to the target over the updates, of every classifier that looked, with the kept update marked.

    Args:
        curve: ``rows`` with ``step`` and by reader ``distance``, and ``kept_step``. Where the rows have
            ``distance_of_prompts`` and it is another, a second plot shows it.
    """
    names = [name for name in curve["rows"][0] if name != "step"]
    strangers = [name for name in names if name not in READERS]
    styles = {name: READERS.get(name) or OTHERS[strangers.index(name) % len(OTHERS)] for name in names}
    shown = {"distance": "all images"}
    if has_prompts(curve):
        shown["distance_of_prompts"] = "mean over prompts"
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown.items()):
        for name in names:
            points = [(row["step"], row[name][key]) for row in curve["rows"] if name in row]
            color, marker = styles[name]
            axes.plot(*zip(*points), color=color, marker=marker, ms=6, lw=1.8, mec="white", mew=0.6)
        axes.axvline(curve["kept_step"], color="#444", lw=1.2, ls="--")
        axes.set(xlabel="update", title=title if len(shown) > 1 else "")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain_axes(axes, "y")
    figure.axes[0].set_ylabel("distance to the target (total variation)")
    kept = Line2D([], [], color="#444", lw=1.2, ls="--")
    arm_legend(
        figure, names, styles, {name: name for name in names}, [(kept, f"selected: update {curve['kept_step']:,}")]
    )
    return figure
