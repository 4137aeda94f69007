"""Uncertainty of a mean over trainings and draws of training data, as the sum of its sources of variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from medi_monai.utils.errors import InputError

__all__ = ["Estimate", "Source", "cluster_weights", "estimate"]


@dataclass(frozen=True)
class Source:
    """A source of variance: its contribution to the variance of the estimate, and the degrees of freedom it has."""

    variance: float
    df: float


@dataclass(frozen=True)
class Estimate:
    """An estimate with the sources of its variance.

    Args:
        value: the estimate.
        sources: sources of variance by name; empty if it is unknown.
    """

    value: float
    sources: Mapping[str, Source]

    @property
    def standard_error(self) -> float:
        """Standard error of the estimate; NaN if it is unknown."""
        return math.sqrt(sum(source.variance for source in self.sources.values())) if self.sources else math.nan

    @property
    def df(self) -> float:
        """Degrees of freedom of the standard error (Satterthwaite 1946); infinite if nothing varies."""
        weights = sum(source.variance**2 / source.df for source in self.sources.values() if source.variance > 0)
        return self.standard_error**4 / weights if weights else math.inf

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the interval by Student's t distribution; None if the standard error is unknown."""
        if not math.isfinite(self.standard_error):
            return None
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.standard_error if self.standard_error else 0.0
        return self.value - half, self.value + half

    def p_value(self, margin: float = 0.0) -> float | None:
        """Return the p value of a test; None if the standard error is unknown.

        Args:
            margin: with 0, the two-sided test of no difference; otherwise the test of equivalence (two one-sided tests,
                Schuirmann 1987), whose p value is small if the estimate is certainly between ``-margin`` and
                ``margin``.
        """
        if not math.isfinite(self.standard_error):
            return None
        if self.standard_error == 0:
            return float(self.value == 0 if margin == 0 else abs(self.value) >= margin)
        if margin == 0:
            return float(2 * stats.t.sf(abs(self.value) / self.standard_error, self.df))
        return float(stats.t.sf((margin - abs(self.value)) / self.standard_error, self.df))


def estimate(values: np.ndarray, test_replicates: np.ndarray | None = None, test_df: float = 0) -> Estimate:
    """Estimate a mean over trainings of a model and draws of training data, and its variance by source.

    Each draw is a bootstrap sample of the training data, the same for all trainings. It differs from the data as these
    do from another study's, so the variance between draws counts in full, and once more, divided by their number, for
    having drawn so few of them. The variance between trainings, and the interaction of training and draw, which
    contains the choice of generated images, is divided by the number of trainings (two-way random effects; Searle et
    al. 1992, chapter 4).

    Trainings and draws also act on each test unit in its own way. That variance is part of what test units differ by,
    and of what trainings and draws differ by. It is counted once, with the test units: how much of the mean squares it
    makes up is measured by the mean squares of the replicates.

    Args:
        values: ``(T, J)`` figure of T trainings in J draws; T is 1 for a figure without trainings, or with one, whose
            variance between trainings is unknown and missing.
        test_replicates: ``(T, J, B)`` bootstrap replicates of each value, the same samples of test units for all, drawn
            by :func:`cluster_weights`; None if other test data are not accounted for. Samples with NaN are ignored.
        test_df: degrees of freedom of the test units: their number minus that of the strata.

    Returns:
        The estimate, with the sources ``draws``, which contains the generated images if T is 1; with more trainings
        also ``trainings`` and ``images``; with replicates also ``test``. Without sources if there is one draw, or if
        ``test_df`` is 0.

    Raises:
        InputError: for values that are not a matrix, or replicates of another shape.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.size:
        raise InputError(f"values of trainings and draws must be a matrix (T, J), not {values.shape}")
    mean, num_draws = float(values.mean()), values.shape[1]
    if num_draws < 2 or not np.isfinite(mean):
        return Estimate(mean, {})
    squares = mean_squares(values)
    if test_replicates is None:
        return Estimate(mean, _sources(squares, *values.shape))
    replicates = np.asarray(test_replicates, float)
    if replicates.ndim != 3 or replicates.shape[:2] != values.shape:
        raise InputError(f"replicates must be (T, J, B) for values of {values.shape}, not {replicates.shape}")
    replicates = replicates[..., np.isfinite(replicates).all((0, 1))]
    if test_df <= 0 or replicates.shape[2] < 2:
        return Estimate(mean, {})
    of_test = mean_squares(replicates - replicates.mean(2, keepdims=True))
    squares = MeanSquares(*(np.maximum(0, own - of_units.mean()) for own, of_units in zip(squares, of_test)))
    test = Source(float(replicates.mean((0, 1)).var(ddof=1)), test_df)
    return Estimate(mean, {**_sources(squares, *values.shape), "test": test})


class MeanSquares(NamedTuple):
    """Variance of the means of trainings, of the means of draws, and of what remains of their interaction."""

    trainings: np.ndarray
    draws: np.ndarray
    mixed: np.ndarray


def mean_squares(values: np.ndarray) -> MeanSquares:
    """Return the mean squares of ``(T, J, ...)`` values over their first two axes; 0 for a single training."""
    num_trainings, num_draws = values.shape[:2]
    rows, columns = values.mean(1), values.mean(0)
    draws = columns.var(0, ddof=1)
    if num_trainings == 1:
        return MeanSquares(np.zeros_like(draws), draws, np.zeros_like(draws))
    residuals = values - columns[None] - rows[:, None] + rows.mean(0)
    mixed = (residuals**2).sum((0, 1)) / ((num_trainings - 1) * (num_draws - 1))
    return MeanSquares(rows.var(0, ddof=1), draws, mixed)


def _sources(squares: MeanSquares, num_trainings: int, num_draws: int) -> dict[str, Source]:
    trainings, draws, mixed = (float(value) for value in squares)
    of_draws = Source(max(0.0, draws - mixed / num_trainings) * (1 + 1 / num_draws), num_draws - 1)
    if num_trainings == 1:
        return {"draws": of_draws}
    free = (num_trainings - 1) * (num_draws - 1)
    return {
        "trainings": Source(max(0.0, trainings - mixed / num_draws) / num_trainings, num_trainings - 1),
        "images": Source(mixed / num_trainings * (1 + 1 / num_draws), free),
        "draws": of_draws,
    }


def cluster_weights(
    clusters: np.ndarray, strata: np.ndarray, num: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Draw bootstrap weights of clusters within strata (Rao and Wu 1988).

    Of the k clusters of a stratum, k - 1 are drawn with replacement and weighted by k / (k - 1), so that the variance
    of a sum over replicates is that of its unbiased estimate, however few clusters there are. The only cluster of a
    stratum always has a weight of 1, and contributes no variance.

    Args:
        clusters: ``(N,)`` integer codes of the clusters of all rows.
        strata: ``(N,)`` integer codes of the strata; each cluster lies in one.
        num: number of replicates.
        rng: random generator.

    Returns:
        ``(num, N)`` weights of the rows, and the degrees of freedom: the number of clusters minus that of strata.
    """
    names, first, code = np.unique(clusters, return_index=True, return_inverse=True)
    weights = np.ones((num, len(names)))
    df = 0
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata[first] == stratum)
        size = len(members)
        if size > 1:
            drawn = rng.multinomial(size - 1, np.full(size, 1 / size), size=num)
            weights[:, members] = drawn * (size / (size - 1))
            df += size - 1
    return weights[:, code], df
