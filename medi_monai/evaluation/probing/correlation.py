"""Summarize the draws of the sweep over the correlation: accuracy lost as class and center become correlated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing.draws import OUTSIDE, Draw, TestedPatients, arms_of, floats, mean_and_interval
from medi_monai.evaluation.shortcuts.intervals import patient_strata
from medi_monai.metrics import average_performance_drop, cluster_weights, degradation_gradient, integrated_degradation
from medi_monai.results import Figure
from medi_monai.results.diagnostics import CorrelationArm, CorrelationPoint, CorrelationSweep
from medi_monai.utils.seeding import seed_from

__all__ = ["correlation_sweep"]

#: balanced accuracy at chance in the sweep over the correlation, whose squares have two classes
CHANCE = 0.5


def correlation_sweep(
    draws: Sequence[Draw],
    trainings: Mapping[str, Sequence[str]] | None = None,
    num_replicates: int = 0,
    seed: int = 0,
) -> CorrelationSweep:
    """Return accuracy as center and class become correlated, PathoROB's average performance drop, and croma's nIPD.

    Both benchmarks train on several mixtures of class and center with the same number of images, and test on other
    patients of these centers (in-domain) and on other centers (out-of-domain). They fix centers and mixtures for each
    of their data sets; here, a mixture is of two classes at two centers of any cohort, drawn with seeds, and its
    Cramér's V is taken to be the requested level. The probe is that of the other comparisons (standardized features, C
    by log-loss), where the benchmarks choose C by balanced accuracy. The drop of a draw is relative to the same draw,
    and averaged over draws, as in PathoROB. nIPD averages the draws of a square first, as in croma, and then the
    squares, each of which is a task of its own. Draws of all trainings count alike in both.

    Intervals are those of the other comparisons (:func:`medi_monai.metrics.estimate`). Each draw, with training
    patients of its own, is a mean over the squares, which other studies of the cohort would share. Test patients are
    resampled within class and center, the same sample in all squares and draws, as for the robustness index. The
    variance of nIPD, a ratio of means, is that of its linearization.

    Args:
        draws: all draws.
        trainings: for each arm with generated images, the names of its trainings in the draws; arms without draws are
            listed as left out.
        num_replicates: bootstrap samples of the test patients; with 0, intervals do not count that these would differ.
        seed: seed of the samples.
    """
    draws = [draw for draw in draws if draw.sweep == "correlation"]
    if not draws:
        return CorrelationSweep()
    levels = sorted({float(draw.point) for draw in draws if draw.point is not None})
    arms = arms_of(draws[0], trainings)
    tests = [_Test.of(draws, outside, num_replicates, seed) for outside in (False, True)]
    return CorrelationSweep(
        tuple(levels),
        {arm: _correlation_arm(draws, names, levels, tests) for arm, names in arms.items()},
        len({draw.square for draw in draws}),
        _sum_over_squares(draws, "num_test"),
        _sum_over_squares(draws, "num_test_known"),
        _sum_over_squares(draws, "num_outside"),
        tuple(arm for arm in trainings or {} if arm not in arms),
    )


def _correlation_arm(
    draws: Sequence[Draw], names: Sequence[str], levels: list[float], tests: Sequence[_Test]
) -> CorrelationArm:
    inside, outside = (
        _Accuracies.of(draws, names, levels, name, test) for name, test in zip(("balanced_accuracy", OUTSIDE), tests)
    )
    num_draws = inside.values.shape[1] * inside.values.shape[2]
    curve = [CorrelationPoint(level, *inside.mean_of(itemgetter(at))[:2], num_draws) for at, level in enumerate(levels)]
    return CorrelationArm(
        tuple(curve), inside.drop(), inside.nipd(levels), outside.drop(), outside.nipd(levels), len(names)
    )


@dataclass(frozen=True)
class _Test:
    """Test patients of all draws, inside or outside the centers in training, with their bootstrap samples.

    ``unit`` is the unit of a patient by code, ``weights`` ``(B, U)``.
    """

    outside: bool
    unit: Mapping[int, int]
    weights: np.ndarray
    df: int

    @classmethod
    def of(cls, draws: Sequence[Draw], outside: bool, num_replicates: int, seed: int) -> _Test:
        pool = {
            (patient, label, center)
            for draw in draws
            if draw.tested is not None
            for patient, label, center, other in zip(*_columns(draw.tested)[:4])
            if other == outside
        }
        if not pool or num_replicates < 2:
            return cls(outside, {}, np.empty((0, 0)), 0)
        patients, labels, centers = np.array(sorted(pool)).T
        unit, strata = patient_strata(patients, labels * (centers.max() + 1) + centers)
        rng = np.random.default_rng(seed_from("patients of the correlation sweep", seed, outside))
        weights, df = cluster_weights(np.arange(len(strata)), strata, num_replicates, rng)
        return cls(outside, dict(zip(patients.tolist(), unit.tolist())), weights, df)

    def accuracies(self, tested: TestedPatients, right: Sequence[int]) -> np.ndarray:
        """Return the ``(B,)`` balanced accuracies of the samples; NaN where a class has no images."""
        patients, labels, _, outside, counts = (np.array(column) for column in _columns(tested))
        recalls = []
        for label in np.unique(labels):
            rows = np.flatnonzero((outside == self.outside) & (labels == label))
            weights = self.weights[:, [self.unit[patient] for patient in patients[rows].tolist()]]
            totals = weights @ counts[rows]
            of_right = weights @ np.array(right)[rows]
            recalls.append(np.divide(of_right, totals, out=np.full(len(totals), np.nan), where=totals > 0))
        return np.mean(recalls, axis=0)


def _columns(tested: TestedPatients) -> tuple[Sequence[int], ...]:
    return tested.patients, tested.labels, tested.centers, tested.outside, tested.counts


@dataclass(frozen=True)
class _Accuracies:
    """Accuracies of an arm: ``values`` ``(T, S, J, L)`` of trainings, squares, draws and levels, NaN where undefined.

    ``replicates`` ``(T, S, J, L, B)`` are those in samples of the test patients, with ``df`` degrees of freedom; B is 0
    if they were not measured.
    """

    values: np.ndarray
    replicates: np.ndarray
    df: int

    @classmethod
    def of(
        cls, draws: Sequence[Draw], names: Sequence[str], levels: list[float], figure: str, test: _Test
    ) -> _Accuracies:
        squares, repeats = sorted({str(draw.square) for draw in draws}), sorted({draw.repeat for draw in draws})
        values = np.full((len(names), len(squares), len(repeats), len(levels)), np.nan)
        replicates = np.full((*values.shape, len(test.weights)), np.nan)
        for draw in draws:
            at = squares.index(str(draw.square)), repeats.index(draw.repeat), levels.index(float(draw.point or 0))
            for training, name in enumerate(names):
                scores = draw.arms[name].scores
                (values[(training, *at)],) = floats([scores.figures.get(figure)])
                if len(test.weights) and draw.tested is not None:
                    replicates[(training, *at)] = test.accuracies(draw.tested, scores.right)
        return cls(values, replicates, test.df)

    def mean_of(
        self, function: Callable[[np.ndarray], np.ndarray], lowest: float = 0.0, highest: float = 1.0
    ) -> tuple[float | None, tuple[float, float] | None, int]:
        """Return mean, interval and number of draws of a function of the ``(L, N)`` accuracies of N draws."""
        shape, num = self.values.shape[:3], self.replicates.shape[-1]
        values = function(np.moveaxis(self.values, -1, 0).reshape(len(self.values[0, 0, 0]), -1)).reshape(shape)
        known = np.isfinite(values).all((0, 2))
        if not known.any():
            return None, None, 0
        samples = None
        if num:
            flat = np.moveaxis(self.replicates, -2, 0)
            samples = function(flat.reshape(len(flat), -1)).reshape(*shape, num)[:, known].mean(1)
        value, interval, _ = mean_and_interval(values[:, known].mean(1), samples, self.df, (lowest, highest))
        return value, interval, int(known.sum()) * shape[2]

    def drop(self) -> Figure:
        """Return PathoROB's average performance drop."""
        return Figure(*self.mean_of(average_performance_drop, -1.0, np.inf))

    def nipd(self, levels: list[float]) -> Figure:
        """Return croma's nIPD, a mean over squares, whose number is the figure's."""
        num_trainings, num_squares, num_draws, num_levels = self.values.shape
        points, parts = np.array(levels), []
        for at in range(num_squares):
            of_square = self.values[:, at].reshape(-1, num_levels)
            value = integrated_degradation(of_square.T, points, CHANCE)
            if np.isfinite(value):
                mean = of_square.mean(0)
                gradient = degradation_gradient(mean, points, CHANCE)
                samples = np.moveaxis(self.replicates[:, at], -1, -2) - mean
                parts.append((value + (self.values[:, at] - mean) @ gradient, value + samples @ gradient))
        if not parts:
            return Figure(None, None, 0)
        values, samples = (np.mean(part, axis=0) for part in zip(*parts))
        interval = mean_and_interval(values, samples if samples.shape[-1] else None, self.df, (-np.inf, np.inf))
        return Figure(*interval[:2], len(parts))


def _sum_over_squares(draws: Sequence[Draw], name: str) -> int:
    """Return the number of test images of all squares: the mean over the draws of each square, summed."""
    table = pd.DataFrame({"square": [draw.square for draw in draws], "n": [getattr(draw, name) for draw in draws]})
    return round(float(table.groupby("square")["n"].mean().sum()))
