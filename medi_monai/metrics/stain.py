"""Stain fidelity: regression of the optical densities of generated patches on those of real patches of their center."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medi_monai.utils.errors import InputError

__all__ = ["group_means", "stain_regression"]


def group_means(values: np.ndarray, groups: Sequence) -> dict:
    """Return the mean of each group, ``{group: (D,) array}``, for ``(N, D)`` values and N group names."""
    rows_of: dict = {}
    for group, row in zip(groups, values, strict=True):
        rows_of.setdefault(group, []).append(row)
    return {group: np.mean(rows, axis=0) for group, rows in rows_of.items()}


def stain_regression(real: np.ndarray, generated: np.ndarray, labels: Sequence[str]) -> dict[str, float | int | None]:
    """Regress mean optical densities of generated patches on those of real patches, over centers within each class.

    Each class and channel is centered on its own mean, so that a model that knows only the class does not benefit from
    density differences between classes. The three channels are pooled.

    Args:
        real: ``(G, 3)`` mean optical density per color channel of real patches, one row per class and center.
        generated: ``(G, 3)`` mean optical density of generated patches, in the same order.
        labels: ``G`` class labels; a class with only one center is uninformative and is left out.

    Returns:
        ``slope`` (1: generated centers differ as much as real ones, 0: not at all), Pearson's ``r``, ``slope_pooled``
        and ``r_pooled`` without centering by class, and ``n``, the number of combinations used. Undefined figures are
        ``None``.

    Raises:
        InputError: for shapes that do not match.
    """
    real, generated = np.asarray(real, float), np.asarray(generated, float)
    if real.shape != generated.shape or real.ndim != 2 or len(labels) != len(real):
        raise InputError(f"shapes {real.shape}, {generated.shape} and {len(labels)} labels do not match")
    groups = np.asarray(labels)
    kept = np.array([np.sum(groups == label) > 1 for label in groups], bool)
    centered_real, centered_generated = real.copy(), generated.copy()
    for label in set(groups[kept]):
        centered_real[groups == label] -= real[groups == label].mean(0)
        centered_generated[groups == label] -= generated[groups == label].mean(0)
    slope, r = _fit(centered_real[kept], centered_generated[kept])
    slope_pooled, r_pooled = (None, None) if not len(real) else _fit(real - real.mean(0), generated - generated.mean(0))
    return {"slope": slope, "r": r, "slope_pooled": slope_pooled, "r_pooled": r_pooled, "n": int(kept.sum())}


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    # densities range from 0 to 2.4: a spread below 1e-9 is rounding error
    constant_x, constant_y = (len(values) < 2 or np.abs(values).max() < 1e-9 for values in (x, y))
    if constant_x:
        return None, None
    xx, yy, xy = float((x * x).sum()), float((y * y).sum()), float((x * y).sum())
    return xy / xx, None if constant_y else xy / math.sqrt(xx * yy)
