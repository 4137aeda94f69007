"""Summarize the draws of the sweep over the correlation: accuracy lost as class and center become correlated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing.draws import OUTSIDE, Draw, arms_of, floats, known_mean, mean_and_interval
from medi_monai.metrics import average_performance_drop, integrated_degradation
from medi_monai.results import Figure
from medi_monai.results.diagnostics import CorrelationArm, CorrelationPoint, CorrelationSweep

__all__ = ["correlation_sweep"]

#: balanced accuracy at chance in the sweep over the correlation, whose squares have two classes
CHANCE = 0.5
#: the average performance drop is at least a loss of everything
DROPS = (-1.0, np.inf)


def correlation_sweep(draws: Sequence[Draw], trainings: Mapping[str, Sequence[str]] | None = None) -> CorrelationSweep:
    """Return accuracy as center and class become correlated, PathoROB's average performance drop, and croma's nIPD.

    Both benchmarks train on several mixtures of class and center with the same number of images, and test on other
    patients of these centers (in-domain) and on other centers (out-of-domain). They fix centers and mixtures for each
    of their data sets; here, a mixture is of two classes at two centers of any cohort, drawn with seeds, and its
    Cramér's V is taken to be the requested level. The probe is that of the other comparisons (standardized features, C
    by log-loss), where the benchmarks choose C by balanced accuracy. The drop of a draw is relative to the same draw,
    and averaged over draws, as in PathoROB. nIPD averages the draws of a square first, as in croma, and then the
    squares, each of which is a task of its own. Draws of all trainings count alike in both.

    Intervals are those of the other comparisons (:func:`medi_monai.metrics.estimate`): each draw is a mean over the
    squares, which other studies of the same cohort would share.

    Args:
        draws: all draws.
        trainings: for each arm with generated images, the names of its trainings in the draws; arms without draws are
            listed as left out.
    """
    draws = [draw for draw in draws if draw.sweep == "correlation"]
    if not draws:
        return CorrelationSweep()
    levels = sorted({float(draw.point) for draw in draws if draw.point is not None})
    arms = arms_of(draws[0], trainings)
    return CorrelationSweep(
        tuple(levels),
        {arm: _correlation_arm(draws, names, levels) for arm, names in arms.items()},
        len({draw.square for draw in draws}),
        _sum_over_squares(draws, "num_test"),
        _sum_over_squares(draws, "num_test_known"),
        _sum_over_squares(draws, "num_outside"),
        tuple(arm for arm in trainings or {} if arm not in arms),
    )


def _correlation_arm(draws: Sequence[Draw], names: Sequence[str], levels: list[float]) -> CorrelationArm:
    inside, outside = (_accuracies(draws, names, name, levels) for name in ("balanced_accuracy", OUTSIDE))
    num_draws = inside.shape[1] * inside.shape[2]
    curve = [
        CorrelationPoint(level, *mean_and_interval(_over_squares(inside[..., at]))[:2], num_draws)
        for at, level in enumerate(levels)
    ]
    return CorrelationArm(
        tuple(curve), _drop(inside), _nipd(inside, levels), _drop(outside), _nipd(outside, levels), len(names)
    )


def _accuracies(draws: Sequence[Draw], names: Sequence[str], figure: str, levels: list[float]) -> np.ndarray:
    """Return ``(T, S, J, L)`` values of a figure, of trainings, squares, draws and levels; NaN where undefined."""
    squares, repeats = sorted({str(draw.square) for draw in draws}), sorted({draw.repeat for draw in draws})
    values = np.full((len(names), len(squares), len(repeats), len(levels)), np.nan)
    for draw in draws:
        at = squares.index(str(draw.square)), repeats.index(draw.repeat), levels.index(float(draw.point or 0))
        values[(slice(None), *at)] = floats(draw.arms[name].scores.figures.get(figure) for name in names)
    return values


def _over_squares(values: np.ndarray) -> np.ndarray:
    """Return the mean ``(T, J)`` over the squares whose ``(T, S, J)`` values are all defined; NaN without one."""
    known = np.isfinite(values).all((0, 2))
    return values[:, known].mean(1) if known.any() else np.full(values[:, 0].shape, np.nan)


def _drop(accuracies: np.ndarray) -> Figure:
    shape = accuracies.shape[:-1]
    drops = average_performance_drop(accuracies.reshape(-1, accuracies.shape[-1]).T).reshape(shape)
    value, interval, _ = mean_and_interval(_over_squares(drops), bounds=DROPS)
    return Figure(value, interval, int(np.isfinite(drops).all(0).sum()))


def _nipd(accuracies: np.ndarray, levels: list[float]) -> Figure:
    by_square = np.array(
        [
            integrated_degradation(accuracies[:, at].reshape(-1, len(levels)).T, np.array(levels), CHANCE)
            for at in range(accuracies.shape[1])
        ]
    )
    return Figure(known_mean(by_square), None, int(np.isfinite(by_square).sum()))


def _sum_over_squares(draws: Sequence[Draw], name: str) -> int:
    """Return the number of test images of all squares: the mean over the draws of each square, summed."""
    table = pd.DataFrame({"square": [draw.square for draw in draws], "n": [getattr(draw, name) for draw in draws]})
    return round(float(table.groupby("square")["n"].mean().sum()))
