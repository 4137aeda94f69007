"""Intervals and tests that take the patient, not the patch, for the unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = [
    "Z95",
    "PatientSampler",
    "draw_patients",
    "figure",
    "holm",
    "interval_around",
    "mean_figure",
    "normal_interval",
    "paired_test",
    "percentile_interval",
    "wilson_interval",
]

#: the 97.5 % quantile of the standard normal distribution
Z95 = float(stats.norm.ppf(0.975))
#: signs held at a time: thousands of patients would make gigabytes
SIGNS = 2**22


class PatientSampler:
    """Bootstrap samples of a table: as many patients as there are, with replacement, each with all of its rows.

    Args:
        patients: ``(N,)`` patient of every row, none missing.
        strata: ``(N,)``; patients are drawn within each stratum, so that none is lost. A patient whose rows lie in
            several is drawn in each by itself.

    Raises:
        InputError: for rows without a patient or a stratum, or columns of unequal length.
    """

    def __init__(self, patients: np.ndarray, strata: np.ndarray | None = None) -> None:
        patient = _sorted_codes(patients, "patient")
        stratum = np.zeros(len(patient), int) if strata is None else _sorted_codes(strata, "stratum")
        if len(stratum) != len(patient):
            raise InputError(f"{len(stratum)} strata do not match {len(patient)} patients: give one of each per row")
        # a unit is a patient within a stratum; units are in the order of both names, whatever the order of the rows
        units, unit_of = np.unique(stratum * (patient.max(initial=0) + 1) + patient, return_inverse=True)
        self._rows = np.argsort(unit_of, kind="stable")
        self._ends = np.cumsum(np.bincount(unit_of, minlength=len(units)))
        first_of_stratum = np.flatnonzero(np.diff(units // (patient.max(initial=0) + 1), prepend=-1))
        self._strata = [stratum for stratum in np.split(np.arange(len(units)), first_of_stratum) if len(stratum)]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Row numbers of one sample, those of a patient drawn twice twice."""
        if not self._strata:
            return np.empty(0, np.int64)
        drawn = np.concatenate([rng.choice(units, len(units)) for units in self._strata])
        starts = np.concatenate([[0], self._ends[:-1]])[drawn]
        counts = self._ends[drawn] - starts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._rows[np.repeat(starts, counts) + within]


def draw_patients(patients: np.ndarray, rng: np.random.Generator, strata: np.ndarray | None = None) -> np.ndarray:
    """Rows of one sample of :class:`PatientSampler`; for many samples of one table, make the sampler once."""
    return PatientSampler(patients, strata).draw(rng)


def percentile_interval(replicates: np.ndarray, level: float = 0.95) -> list[float] | None:
    """The central ``level`` of replicates, those that are NaN left out; ``None`` where fewer than two are left."""
    known = np.asarray(replicates, float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return None
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]


def interval_around(
    value: float, replicates: np.ndarray, level: float = 0.95, lowest: float = -math.inf
) -> list[float] | None:
    """:func:`percentile_interval` of replicates, shifted from their mean onto ``value``.

    For estimates that resampling biases: repeated images have less spread than new ones, which adds to a distance.

    Args:
        value: the estimate.
        replicates: of its bootstrap; those that are NaN are left out.
        level: of the interval.
        lowest: what the estimated quantity cannot be below, such as 0 for a distance; ends are raised to it.

    Returns:
        Both ends; ``None`` with fewer than two replicates, and for a value that is not finite.
    """
    known = np.asarray(replicates, float)
    known = known[np.isfinite(known)]
    interval = percentile_interval(known, level)
    if interval is None or not math.isfinite(value):
        return None
    return [max(lowest, value + edge - float(known.mean())) for edge in interval]


def normal_interval(
    value: float, standard_error: float, lowest: float = -math.inf, highest: float = math.inf
) -> list[float] | None:
    """The 95 % interval ``value ± 1.96 standard_error``, cut at what can be; ``None`` for an error that is not finite.

    Args:
        value: the estimate.
        standard_error: of the estimate.
        lowest: what the estimated quantity cannot be below.
        highest: what it cannot be above.
    """
    if not math.isfinite(standard_error):
        return None
    return [max(lowest, value - Z95 * standard_error), min(highest, value + Z95 * standard_error)]


def wilson_interval(count: float, n: float) -> list[float] | None:
    """The 95 % interval of a share ``count / n`` (Wilson 1927); ``None`` for n of 0.

    Of a weighted share, ``n`` is the effective number, ``(sum of weights)^2 / sum of squares`` (Kish 1965), and
    ``count`` the share of it.
    """
    if n == 0:
        return None
    # scipy's binomtest(count, n).proportion_ci(method="wilson") gives the same for whole numbers, and takes no others
    share, spread = count / n, Z95 * Z95 / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def figure(value: float | None, replicates: np.ndarray | None = None, n: int | None = None) -> dict:
    """``{"value", "ci95", "n"}`` as JSON: what is undefined is ``None`` with its count."""
    if value is None or not math.isfinite(value):
        return {"value": None, "ci95": None, "n": n}
    interval = None if replicates is None else percentile_interval(replicates)
    return {"value": float(value), "ci95": interval, "n": n}


def mean_figure(values: np.ndarray | None) -> dict:
    """The mean of ``(N,)`` values as a figure with its 95 % interval by the normal law; undefined for no value."""
    if values is None or not len(values):
        return figure(None, n=0)
    value, n = float(np.mean(values)), len(values)
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    return {"value": value, "ci95": None if half is None else [value - half, value + half], "n": n}


def paired_test(first: Sequence[float], second: Sequence[float], num_flips: int = 20000, seed: int = 0) -> dict:
    """Whether paired figures of two arms differ: sign-flip permutation test and t interval of the mean difference.

    Under the null hypothesis each difference is as likely as its negative. All ``2^n`` assignments of signs are looked
    at where there are no more than ``num_flips`` of them; else so many are drawn.

    Args:
        first: one figure per repeat.
        second: of the other arm, in the same order. Pairs in which either is NaN are left out.
        num_flips: bound on the assignments.
        seed: of the draw.

    Returns:
        ``difference`` (mean of first - second) as a figure with a 95 % interval (Student's t), ``p_value`` (two-sided)
        and ``n`` pairs; ``None`` where there are fewer than two pairs. The smallest p value of ``n`` pairs is
        ``2^(1 - n)``.

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
    # drawn here and not by scipy, whose draws take a generator of another kind of stream and gigabytes for thousands of
    # patients: p values stay those of earlier versions
    edge = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    rng, extreme, rows = np.random.default_rng(seed_from("sign flips", seed)), 0, max(1, SIGNS // n)
    for start in range(0, num_flips, rows):
        signs = rng.choice([-1.0, 1.0], (min(rows, num_flips - start), n))
        extreme += int((np.abs(signs @ differences) >= edge).sum())
    # the assignment at hand counts as well, so that no p value is 0 (Phipson & Smyth 2010)
    return (extreme + 1) / (num_flips + 1)


def _extremity(differences: np.ndarray, axis: int) -> np.ndarray:
    # scipy takes statistics for equal that differ by rounding of their own size: with the sum of the absolute values,
    # which no sign changes, that is the rounding of the differences, also where they cancel
    return np.abs(differences.sum(axis)) + np.abs(differences).sum(axis)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979), in the order given.

    ``None`` and NaN are tests that could not be made: they become ``None`` and do not count.
    """
    known = {index: float(value) for index, value in enumerate(p_values) if value is not None and not math.isnan(value)}
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(known, key=known.__getitem__)):
        worst = max(worst, min(1.0, (len(known) - rank) * known[index]))
        adjusted[index] = worst
    return adjusted


def _sorted_codes(column: np.ndarray, kind: str) -> np.ndarray:
    # of sorted names, so that a draw does not depend on the order of the rows
    codes = pd.factorize(np.asarray(column), sort=True)[0]
    if (codes < 0).any():
        raise InputError(f"{int((codes < 0).sum())} of {len(codes)} rows have no {kind}: remove them, or fill it in")
    return codes
