"""Kernel distance: squared maximum mean discrepancy under a polynomial kernel, unbiased, with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medi_monai.metrics.moments import Features, as_features
from medi_monai.utils.errors import InputError

__all__ = ["KernelDistance", "kernel_distance"]

#: number of rows of the kernel matrix held in memory at once
BLOCK = 2048


@dataclass(frozen=True)
class KernelDistance:
    """An estimate with its jackknife standard error; it may be negative if both sets have the same distribution.

    The standard error is NaN if leaving out an image, or a patient, leaves fewer than two images in a set.
    """

    value: float
    standard_error: float


def kernel_distance(
    first: Features,
    second: Features,
    degree: int = 3,
    first_patients: np.ndarray | None = None,
    second_patients: np.ndarray | None = None,
) -> KernelDistance:
    """Return the unbiased squared MMD with ``k(x, y) = (x·y / D + 1)^degree`` (Bińkowski et al. 2018).

    All pairs are used instead of random subsets, so the result is deterministic. The standard error is a jackknife over
    the units of both sets: images, or patients with unequal numbers of images (Busing, Meijer & van der Leeden 1999).
    Memory is bounded by blocks of rows.

    Args:
        first: ``(N1, D)`` features of one set, with at least two images.
        second: ``(N2, D)`` features of the other set, with at least two images.
        degree: degree of the polynomial, at least 1.
        first_patients: ``(N1,)`` patients, whose images are left out together; images of a single patient are left out
            individually.
        second_patients: ``(N2,)`` patients of the second set.

    Raises:
        InputError: for a set of fewer than two images, different dimensions, values that are not finite, or patients
            that do not match the images.
    """
    first = as_features(first)
    second = as_features(second).to(first)
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"features of {first.shape[1]} and {second.shape[1]} dimensions: use the same encoder for both"
        )
    if degree < 1:
        raise InputError(f"the degree of the kernel has to be 1 or more, not {degree}")
    m, n = len(first), len(second)
    if min(m, n) < 2:
        raise InputError(f"a kernel distance needs at least two images per set, not {m} and {n}")
    units, other_units = _units(first_patients, first), _units(second_patients, second)
    a, removed_first, sizes = _within(first, degree, units)
    b, removed_second, other_sizes = _within(second, degree, other_units)
    across_first, across_second = _across(first, second, degree)
    c = across_first.sum()
    value = _estimate(a, b, c, m, n)
    without_unit = _estimate(a - removed_first, b, c - _by_unit(across_first, units), m - sizes, n)
    without_other_unit = _estimate(a, b - removed_second, c - _by_unit(across_second, other_units), m, n - other_sizes)
    # for large features, the squares of both errors would overflow
    error = math.hypot(_jackknife(value, without_unit, m, sizes), _jackknife(value, without_other_unit, n, other_sizes))
    return KernelDistance(float(value), error)


def _units(patients: np.ndarray | None, features: torch.Tensor) -> torch.Tensor:
    # unit code of every image
    images = torch.arange(len(features), device=features.device)
    if patients is None:
        return images
    names, codes = np.unique(np.asarray(patients), return_inverse=True)
    if codes.shape != images.shape:
        raise InputError(f"{codes.size} patients do not match {len(images)} images: give one patient per image")
    return torch.from_numpy(codes).to(images.device) if len(names) > 1 else images


def _by_unit(values: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    return torch.zeros(int(units.max()) + 1).to(values).index_add_(0, units, values)


def _estimate(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, m: Any, n: Any) -> torch.Tensor:
    return a / (m * (m - 1)) + b / (n * (n - 1)) - 2 * c / (m * n)


def _jackknife(value: torch.Tensor, without: torch.Tensor, count: int, sizes: torch.Tensor) -> float:
    # standard error from the leave-one-unit-out estimates of a set
    if count - int(sizes.max()) < 2:
        return math.nan
    share = sizes / count
    center = len(sizes) * value - ((1 - share) * without).sum()
    pseudo = value / share - (1 / share - 1) * without
    errors = (pseudo - center) / (1 / share - 1).sqrt() / math.sqrt(len(sizes))
    largest = float(errors.abs().max())
    return largest * float((errors / largest).square().sum().sqrt()) if largest else 0.0


def _within(rows: torch.Tensor, degree: int, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # sum of the kernel matrix without its diagonal, contribution of each unit's rows and columns, and unit sizes
    scaled, itself = rows.T / rows.shape[1], _kernel_of_itself(rows, degree)
    by_row, of_own = [], []
    for block_of_rows, block_units in zip(rows.split(BLOCK), units.split(BLOCK)):
        block = (block_of_rows @ scaled).add_(1).pow_(degree)
        by_row.append(block.sum(1))
        of_own.append(block.masked_fill_(block_units[:, None] != units, 0).sum(1))
    sizes = _by_unit(torch.ones_like(itself), units)
    total, twice = torch.cat(by_row) - itself, torch.cat(of_own) - itself
    # pairs within a unit are in both its rows and its columns, but are removed only once
    return total.sum(), _by_unit(2 * total - twice, units), sizes


def _across(rows: torch.Tensor, columns: torch.Tensor, degree: int) -> tuple[torch.Tensor, torch.Tensor]:
    # row and column sums of the kernel matrix
    scaled = columns.T / rows.shape[1]
    by_row, by_column = [], torch.zeros(len(columns)).to(rows)
    for block_of_rows in rows.split(BLOCK):
        block = (block_of_rows @ scaled).add_(1).pow_(degree)
        by_row.append(block.sum(1))
        by_column += block.sum(0)
    return torch.cat(by_row), by_column


def _kernel_of_itself(features: torch.Tensor, degree: int) -> torch.Tensor:
    return (features.square().sum(1) / features.shape[1] + 1).pow(degree)
