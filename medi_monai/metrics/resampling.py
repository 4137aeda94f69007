"""Confidence intervals and tests with the patient, not the patch, as the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = [
    "FEWEST_PATIENTS",
    "Z95",
    "PatientSampler",
    "draw_patients",
    "figure",
    "holm",
    "interval_around",
    "mean_interval",
    "mean_figure",
    "normal_interval",
    "paired_test",
    "percentile_interval",
    "wilson_interval",
]

#: 97.5% quantile of the standard normal distribution
Z95 = float(stats.norm.ppf(0.975))
#: number of patients below which resampling them does not tell how much a distance would differ for others
FEWEST_PATIENTS = 4
#: number of signs held in memory at once, because thousands of patients would need gigabytes
SIGNS = 2**22


class PatientSampler:
    """Draws bootstrap samples of patients, as many as there are and with replacement, each with all its rows.

    Args:
        patients: ``(N,)`` patient of every row, none missing.
        strata: ``(N,)`` stratum of every row; patients are drawn within each stratum, so that no stratum is lost. A
            patient with rows in several strata is drawn independently in each.

    Raises:
        InputError: for rows without a patient or stratum, or columns of unequal length.
    """

    def __init__(self, patients: np.ndarray, strata: np.ndarray | None = None) -> None:
        patient = _sorted_codes(patients, "patient")
        stratum = np.zeros(len(patient), int) if strata is None else _sorted_codes(strata, "stratum")
        if len(stratum) != len(patient):
            raise InputError(f"{len(stratum)} strata do not match {len(patient)} patients: give one of each per row")
        # a unit is a patient within a stratum; units are sorted by both names, whatever the order of the rows
        units, unit_of = np.unique(stratum * (patient.max(initial=0) + 1) + patient, return_inverse=True)
        self._rows = np.argsort(unit_of, kind="stable")
        self._ends = np.cumsum(np.bincount(unit_of, minlength=len(units)))
        first_of_stratum = np.flatnonzero(np.diff(units // (patient.max(initial=0) + 1), prepend=-1))
        self._strata = [stratum for stratum in np.split(np.arange(len(units)), first_of_stratum) if len(stratum)]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the row numbers of one sample; those of a patient drawn twice occur twice."""
        if not self._strata:
            return np.empty(0, np.int64)
        drawn = np.concatenate([rng.choice(units, len(units)) for units in self._strata])
        starts = np.concatenate([[0], self._ends[:-1]])[drawn]
        counts = self._ends[drawn] - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._rows[np.repeat(starts, counts) + within]


def draw_patients(patients: np.ndarray, rng: np.random.Generator, strata: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of one sample of :class:`PatientSampler`; for many samples, create the sampler once instead."""
    return PatientSampler(patients, strata).draw(rng)


def percentile_interval(replicates: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Return the central ``level`` interval of replicates, ignoring NaN; ``None`` for fewer than two of them."""
    known = np.asarray(replicates, float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return None
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]


def interval_around(
    value: float, replicates: np.ndarray, level: float = 0.95, lowest: float = -math.inf
) -> list[float] | None:
    """Return the :func:`percentile_interval` of replicates, shifted from their mean to ``value``.

    This is for estimates that resampling biases: repeated images vary less than new ones, which increases a distance.

    Args:
        value: estimate.
        replicates: bootstrap replicates of the estimate; NaN is ignored.
        level: confidence level.
        lowest: smallest possible value of the quantity, such as 0 for a distance, at which the interval is truncated.

    Returns:
        Both ends; ``None`` for fewer than two replicates, or a value that is not finite.
    """
    known = np.asarray(replicates, float)
    known = known[np.isfinite(known)]
    interval = percentile_interval(known, level)
    if interval is None or not math.isfinite(value):
        return None
    return [max(lowest, value + edge - float(known.mean())) for edge in interval]


def mean_interval(values: Sequence[float], lowest: float = -math.inf) -> list[float] | None:
    """Return Student's 95% interval of the mean of independent values; ``None`` for fewer than two.

    Args:
        values: the values.
        lowest: smallest possible value of the quantity, at which the interval is truncated.
    """
    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    mean = float(np.mean(values))
    return [max(lowest, mean - half), mean + half]


def normal_interval(
    value: float, standard_error: float, lowest: float = -math.inf, highest: float = math.inf
) -> list[float] | None:
    """Return the truncated 95% interval ``value ± 1.96 standard_error``; ``None`` if the error is not finite.

    Args:
        value: estimate.
        standard_error: standard error of the estimate.
        lowest: smallest possible value of the quantity.
        highest: largest possible value of the quantity.
    """
    if not math.isfinite(standard_error):
        return None
    return [max(lowest, value - Z95 * standard_error), min(highest, value + Z95 * standard_error)]


def wilson_interval(count: float, n: float) -> list[float] | None:
    """Return Wilson's 95% interval of a share ``count / n`` (Wilson 1927); ``None`` if n is 0.

    For a weighted share, ``n`` is the effective sample size, ``(sum of weights)^2 / sum of squares`` (Kish 1965), and
    ``count`` the share times ``n``.
    """
    if n == 0:
        return None
    # scipy's binomtest(count, n).proportion_ci(method="wilson") gives the same, but accepts only whole numbers
    share, spread = count / n, Z95 * Z95 / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def figure(value: float | None, replicates: np.ndarray | None = None, n: int | None = None) -> dict:
    """Return a figure as JSON, ``{"value", "ci95", "n"}``.

    Args:
        value: the figure; if it is None or not finite, value and interval are ``None``.
        replicates: replicates for the 95% interval, as for :func:`percentile_interval`; None for no interval.
        n: number of units that the figure was measured on.
    """
    if value is None or not math.isfinite(value):
        return {"value": None, "ci95": None, "n": n}
    interval = None if replicates is None else percentile_interval(replicates)
    return {"value": float(value), "ci95": interval, "n": n}


def mean_figure(values: np.ndarray | None) -> dict:
    """Return the mean of ``(N,)`` values as a figure with a normal 95% interval; undefined without values."""
    if values is None or not len(values):
        return figure(None, n=0)
    value, n = float(np.mean(values)), len(values)
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    return {"value": value, "ci95": None if half is None else [value - half, value + half], "n": n}


def paired_test(first: Sequence[float], second: Sequence[float], num_flips: int = 20000, seed: int = 0) -> dict:
    """Compare paired figures of two arms by a sign-flip permutation test, with a t interval of the mean difference.

    Under the null hypothesis, each difference is as likely as its negative. All ``2^n`` assignments of signs are used
    if there are at most ``num_flips`` of them; otherwise ``num_flips`` assignments are drawn.

    Args:
        first: figures of one arm, one per repeat.
        second: figures of the other arm, in the same order. Pairs with a NaN are left out.
        num_flips: maximum number of sign assignments.
        seed: seed of the draw.

    Returns:
        ``difference`` (mean of first - second) as a figure with a 95% interval (Student's t), ``p_value`` (two-sided)
        and ``n`` pairs; ``None`` for fewer than two pairs. The smallest possible p value is ``2^(1 - n)``.

    Raises:
        InputError: for lists of unequal length.
    """
    first_figures, second_figures = np.asarray(first, float), np.asarray(second, float)
    if first_figures.ndim != 1 or first_figures.shape != second_figures.shape:
        shapes = f"{first_figures.shape} and {second_figures.shape}"
        raise InputError(f"paired values must be two lists of the same length, not {shapes}")
    differences = first_figures - second_figures
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n < 2:
        return {"difference": figure(float(differences.mean()) if n else None, n=n), "p_value": None, "n": n}
    mean = float(differences.mean())
    half = float(stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / math.sqrt(n))
    difference = {"value": mean, "ci95": [mean - half, mean + half], "n": n}
    return {"difference": difference, "p_value": _sign_flip_p_value(differences, num_flips, seed), "n": n}


def _sign_flip_p_value(differences: np.ndarray, num_flips: int, seed: int) -> float:
    n = len(differences)
    if 2**n <= num_flips:
        exact = stats.permutation_test(
            (differences,), _extremity, permutation_type="samples", n_resamples=num_flips, alternative="greater"
        )
        return float(exact.pvalue)
    # not computed by scipy, which would need gigabytes for thousands of patients, and whose random stream would give
    # other p values than earlier versions
    edge = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    rng, extreme, rows = np.random.default_rng(seed_from("sign flips", seed)), 0, max(1, SIGNS // n)
    for start in range(0, num_flips, rows):
        signs = rng.choice([-1.0, 1.0], (min(rows, num_flips - start), n))
        extreme += int((np.abs(signs @ differences) >= edge).sum())
    # the observed assignment counts as well, so that no p value is 0 (Phipson & Smyth 2010)
    return (extreme + 1) / (num_flips + 1)


def _extremity(differences: np.ndarray, axis: int) -> np.ndarray:
    # scipy treats statistics as equal if they differ by rounding relative to their size: adding the sum of absolute
    # values, which no sign change affects, makes this the rounding of the differences even if they cancel
    return np.abs(differences.sum(axis)) + np.abs(differences).sum(axis)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted for multiple testing (Holm 1979), in the given order.

    ``None`` and NaN stand for tests that could not be performed: they become ``None`` and do not count.
    """
    known = {index: float(value) for index, value in enumerate(p_values) if value is not None and not math.isnan(value)}
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(known, key=known.__getitem__)):
        worst = max(worst, min(1.0, (len(known) - rank) * known[index]))
        adjusted[index] = worst
    return adjusted


def _sorted_codes(column: np.ndarray, kind: str) -> np.ndarray:
    # codes of sorted names, so that a draw does not depend on the order of the rows
    codes = pd.factorize(np.asarray(column), sort=True)[0]
    if (codes < 0).any():
        raise InputError(f"{int((codes < 0).sum())} of {len(codes)} rows have no {kind}: remove them, or fill it in")
    return codes
