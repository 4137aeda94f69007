"""Summarize the draws of sweeps: accuracy by amount of data, and as class and center become correlated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing.draws import OUTSIDE, Draw, floats, known_interval, known_mean
from medi_monai.metrics import average_performance_drop, integrated_degradation
from medi_monai.results import Figure, Finding
from medi_monai.results.diagnostics import CorrelationArm, CorrelationPoint, CorrelationSweep
from medi_monai.results.probing import SweepPoint

__all__ = ["correlation_sweep", "sweep_points", "without_added"]

#: balanced accuracy at chance in the sweep over the correlation, whose squares have two classes
CHANCE = 0.5
#: titles of the comparisons that draws belong to
SWEEP_WORDS = {
    "main": "Comparison of arms",
    "ratio": "Sweep over the number of generated images",
    "real_per_class": "Sweep over the number of real images",
    "num_centers": "Sweep over the number of centers",
    "correlation": "Correlation of class and center",
}


def sweep_points(draws: Sequence[Draw], sweep: str) -> tuple[SweepPoint, ...]:
    """Return one row per point and arm of a sweep, with points in ascending order."""
    rows = []
    for point in sorted({draw.point for draw in draws if draw.sweep == sweep and draw.point is not None}):
        at_point = [draw for draw in draws if draw.sweep == sweep and draw.point == point]
        for arm in at_point[0].arms:
            of_arm = [draw.arms[arm] for draw in at_point]
            balanced, worst = (
                floats(draw.scores.figures.get(name) for draw in of_arm)
                for name in ("balanced_accuracy", "worst_group_accuracy")
            )
            num_real, num_added = (
                float(np.mean([getattr(draw.training, name) for draw in of_arm])) for name in ("num_real", "num_added")
            )
            rows.append(
                SweepPoint(
                    point,
                    arm,
                    len(of_arm),
                    known_mean(balanced),
                    _range(balanced),
                    known_mean(worst),
                    _range(worst),
                    num_real,
                    num_added,
                )  # fmt: skip
            )
    return tuple(rows)


def without_added(draws: Sequence[Draw], synthetic: Sequence[str]) -> list[Finding]:
    """Return an error for each comparison with draws that added no generated images.

    In these draws, the arms are identical to training on the real images alone.

    Args:
        draws: all draws.
        synthetic: arms that add generated images.
    """
    findings = []
    for sweep, words in SWEEP_WORDS.items():
        by_draw = [[draw.arms[arm].training.num_added for arm in synthetic if arm in draw.arms] for draw in draws
                   if draw.sweep == sweep]  # fmt: skip
        counts = [max(added) for added in by_draw if added]
        empty = counts.count(0)
        if empty:
            share = "all" if empty == len(counts) else f"{empty:,} of {len(counts):,}"
            text = (
                f"{words}: no generated image was added in {share} draws, because an arm has none of some class (from "
                "these centers), or because the ratio asks for less than one image per class. In these draws, arms "
                "with generated images equal the real images alone, whatever the figures say."
            )
            findings.append(Finding("error", text, {"draws": empty, "of": len(counts)}, "no_image_added"))
    return findings


def correlation_sweep(draws: Sequence[Draw], synthetic: Sequence[str] = ()) -> CorrelationSweep:
    """Return accuracy as center and class become correlated, PathoROB's average performance drop, and croma's nIPD.

    Both benchmarks train on several mixtures of class and center with the same number of images, and test on other
    patients of these centers (in-domain) and on other centers (out-of-domain). They fix centers and mixtures for each
    of their data sets; here, a mixture is of two classes at two centers of any cohort, drawn with seeds, and its
    Cramér's V is taken to be the requested level. The probe is that of the other comparisons (standardized features, C
    by log-loss), where the benchmarks choose C by balanced accuracy. The drop of a draw is relative to the same draw,
    and averaged over draws, as in PathoROB. nIPD averages the draws of a square first, as in croma, and then the
    squares, each of which is a task of its own.

    Args:
        draws: all draws.
        synthetic: arms that add generated images; those without draws are listed as left out.
    """
    draws = [draw for draw in draws if draw.sweep == "correlation"]
    if not draws:
        return CorrelationSweep()
    levels = sorted({draw.point for draw in draws if draw.point is not None})
    return CorrelationSweep(
        tuple(levels),
        {arm: _correlation_arm(draws, arm, levels) for arm in draws[0].arms},
        len({draw.square for draw in draws}),
        _sum_over_squares(draws, "num_test"),
        _sum_over_squares(draws, "num_test_known"),
        _sum_over_squares(draws, "num_outside"),
        tuple(arm for arm in synthetic if arm not in draws[0].arms),
    )


def _correlation_arm(draws: Sequence[Draw], arm: str, levels: Sequence[float]) -> CorrelationArm:
    inside, outside = (_by_level(draws, arm, name) for name in ("balanced_accuracy", OUTSIDE))
    points = [inside[level].to_numpy() for level in levels]
    curve = [
        CorrelationPoint(level, known_mean(values), known_interval(values), len(values))
        for level, values in zip(levels, points)
    ]
    return CorrelationArm(tuple(curve), _drop(inside), _nipd(inside), _drop(outside), _nipd(outside))


def _by_level(draws: Sequence[Draw], arm: str, name: str) -> pd.DataFrame:
    # one row per draw of a square, one column per level
    frame = pd.DataFrame(
        {
            "square": [draw.square for draw in draws],
            "repeat": [draw.repeat for draw in draws],
            "level": [draw.point for draw in draws],
            "value": floats(draw.arms[arm].scores.figures.get(name) for draw in draws),
        }
    )
    return frame.pivot(index=["square", "repeat"], columns="level", values="value")


def _drop(accuracies: pd.DataFrame) -> Figure:
    drops = average_performance_drop(accuracies.to_numpy().T)
    return Figure(known_mean(drops), known_interval(drops), int(np.isfinite(drops).sum()))


def _nipd(accuracies: pd.DataFrame) -> Figure:
    levels = accuracies.columns.to_numpy(float)
    by_square = np.array(
        [
            integrated_degradation(of_square.to_numpy().T, levels, CHANCE)
            for _, of_square in accuracies.groupby(level="square")
        ]
    )
    return Figure(known_mean(by_square), None, int(np.isfinite(by_square).sum()))


def _sum_over_squares(draws: Sequence[Draw], name: str) -> int:
    """Return the number of test images of all squares: the mean over the draws of each square, summed."""
    table = pd.DataFrame({"square": [draw.square for draw in draws], "n": [getattr(draw, name) for draw in draws]})
    return round(float(table.groupby("square")["n"].mean().sum()))


def _range(values: np.ndarray) -> tuple[float, float] | None:
    return None if np.isnan(values).all() else (float(np.nanmin(values)), float(np.nanmax(values)))
