"""Kernel distance: squared maximum mean discrepancy under a polynomial kernel, unbiased, with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from medi_monai.metrics.moments import Features, as_features
from medi_monai.utils.errors import InputError

__all__ = ["KernelDistance", "kernel_distance"]

#: rows of a kernel matrix held at a time
BLOCK = 2048


@dataclass(frozen=True)
class KernelDistance:
    """An estimate with its jackknife standard error; it may be negative where both sets come from one distribution.

    The standard error is NaN where either set has two images alone.
    """

    value: float
    standard_error: float


def kernel_distance(first: Features, second: Features, degree: int = 3) -> KernelDistance:
    """Unbiased squared MMD with ``k(x, y) = (x·y / D + 1)^degree`` (Bińkowski et al. 2018).

    All pairs are used instead of random subsets, so that there is nothing to draw; the standard error is the jackknife
    over images of both sets. Memory is bounded by blocks of rows.

    Args:
        first: ``(N1, D)``, two images or more.
        second: ``(N2, D)``.
        degree: of the polynomial, 1 or more.

    Raises:
        InputError: for fewer than two images in either, other dimensions, or values that are not finite.
    """
    first = as_features(first)
    second = as_features(second).to(first)
    if first.shape[1] != second.shape[1]:
        raise InputError(f"features of {first.shape[1]} and of {second.shape[1]} dimensions: use one encoder for both")
    if degree < 1:
        raise InputError(f"the degree of the kernel is 1 or more, not {degree}")
    m, n = len(first), len(second)
    if min(m, n) < 2:
        raise InputError(f"a kernel distance needs two images or more of either set, not {m} and {n}")
    within_first = _sums(first, first, degree)[0] - _kernel_of_itself(first, degree)
    within_second = _sums(second, second, degree)[0] - _kernel_of_itself(second, degree)
    across_first, across_second = _sums(first, second, degree)
    a, b, c = within_first.sum(), within_second.sum(), across_first.sum()
    value = float(_estimate(a, b, c, m, n))
    if min(m, n) < 3:
        return KernelDistance(value, math.nan)
    # leaving image i out takes its row and its column away
    without_first = _estimate(a - 2 * within_first, b, c - across_first, m - 1, n)
    without_second = _estimate(a, b - 2 * within_second, c - across_second, m, n - 1)
    variance = sum((len(left) - 1) * float(left.var(correction=0)) for left in (without_first, without_second))
    return KernelDistance(value, math.sqrt(variance))


def _estimate(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, m: int, n: int) -> torch.Tensor:
    return a / (m * (m - 1)) + b / (n * (n - 1)) - 2 * c / (m * n)


def _sums(rows: torch.Tensor, columns: torch.Tensor, degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    # of the kernel matrix, by row and by column
    scaled = columns.T / rows.shape[1]
    by_row, by_column = [], torch.zeros(len(columns)).to(rows)
    for part in rows.split(BLOCK):
        block = (part @ scaled).add_(1).pow_(degree)
        by_row.append(block.sum(1))
        by_column += block.sum(0)
    return torch.cat(by_row), by_column


def _kernel_of_itself(features: torch.Tensor, degree: int) -> torch.Tensor:
    return (features.square().sum(1) / features.shape[1] + 1).pow(degree)
