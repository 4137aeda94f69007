"""Align the features of centers: ComBat, and correlation alignment (CORAL).

Both are estimated on training images. What is then applied to an image depends on its center only, because the class of
a test image is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from medi_monai.evaluation.probes.blocks import Features, release, row_blocks

__all__ = ["CenterMaps", "fit_combat", "fit_coral"]

#: change of all parameters, relative to the spread of a feature, at which the iteration of ComBat stops
TOLERANCE = 1e-6
MAX_ITERATIONS = 1000
#: standard deviation, relative to the mean or 1, up to which a feature is constant
LEAST_SPREAD = 1e-12
#: multiple of the identity added to covariances of standardized features (Sun et al. 2016, algorithm 1)
RIDGE = 1.0


@dataclass(frozen=True)
class CenterMaps:
    """Affine maps of features, one for each center: ``x -> (x - shift) factor + mean``.

    Args:
        mean: ``(D,)`` mean of the training features.
        shifts: by code of the center, ``(D,)``; features of other centers are unchanged.
        factors: by code of the center, ``(D,)`` for a factor of each feature, or a ``(D, D)`` matrix.
    """

    mean: np.ndarray
    shifts: Mapping[int, np.ndarray]
    factors: Mapping[int, np.ndarray]

    def apply(self, features: np.ndarray, centers: np.ndarray) -> np.ndarray:
        """Map features in place, in double precision, and return them.

        Args:
            features: ``(N, D)`` array, which may be a memory map.
            centers: ``(N,)`` codes of their centers.
        """
        for rows, block in row_blocks(features, torch.float64):
            values, codes = block.numpy(), centers[rows]
            for code, shift in self.shifts.items():
                chosen = codes == code
                moved, factor = values[chosen] - shift, self.factors[code]
                values[chosen] = (moved * factor if factor.ndim == 1 else moved @ factor) + self.mean
            features[rows] = values
            release(features)
        return features


@dataclass(frozen=True)
class _Effects:
    # least squares of the features on center and, if given, class: mean (D,) and effects of centers (B, D)
    features: Features
    design: np.ndarray
    codes: np.ndarray
    sizes: np.ndarray
    coefficients: np.ndarray
    mean: np.ndarray
    effects: np.ndarray

    @classmethod
    def of(cls, features: Features, labels: np.ndarray | None, centers: np.ndarray) -> _Effects:
        codes, sizes = np.unique(centers, return_counts=True)
        labels = np.zeros(len(centers), int) if labels is None else labels
        classes = (labels[:, None] == np.unique(labels)[1:]).astype(float)
        design = np.hstack([centers[:, None] == codes, classes - classes.mean(0)])
        moments = np.zeros((design.shape[1], features.shape[1]))
        for rows, block in row_blocks(features, torch.float64):
            moments += design[rows].T @ block.numpy()
        # of all solutions, the pseudoinverse gives the smallest, if classes and centers cannot be told apart
        coefficients = np.linalg.pinv(design.T @ design, hermitian=True) @ moments
        effects = coefficients[: len(codes)]
        mean = sizes @ effects / sizes.sum()
        return cls(features, design, centers, sizes, coefficients, mean, effects - mean)

    def residuals(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # blocks of residuals, each with the codes of its centers
        for rows, block in row_blocks(self.features, torch.float64):
            yield self.codes[rows], block.numpy() - self.design[rows] @ self.coefficients


def fit_combat(features: Features, labels: np.ndarray | None, centers: np.ndarray) -> CenterMaps:
    """Estimate ComBat (Johnson et al. 2007, parametric empirical Bayes).

    Mean and variance of each feature at a center are shrunk toward those of the other features at this center. A center
    with a single image has no variance and is left unchanged.

    Args:
        features: ``(N, D)`` training features.
        labels: ``(N,)`` codes of their classes, whose effects are estimated together with those of centers and are
            kept; None for no covariate.
        centers: ``(N,)`` codes of their centers.
    """
    model = _Effects.of(features, labels, centers)
    codes = np.unique(centers)
    squares = np.zeros_like(model.effects)
    for of_rows, residuals in model.residuals():
        for index, code in enumerate(codes):
            squares[index] += np.square(residuals[of_rows == code]).sum(0)
    spread = np.sqrt(squares.sum(0) / len(centers))
    varied = spread > LEAST_SPREAD * np.maximum(1, np.abs(model.mean))
    spread, effects, squares = spread[varied], model.effects[:, varied], squares[:, varied]
    shifts, factors = {}, {}
    for index, (code, size) in enumerate(zip(codes.tolist(), model.sizes.tolist())):
        if size > 1 and varied.any():
            mean, variance = _posterior(effects[index] / spread, squares[index] / spread**2 / (size - 1), size)
            # a feature that class and center determine is unchanged
            shifts[code], factors[code] = model.mean.copy(), np.ones_like(model.mean)
            shifts[code][varied] += spread * mean
            factors[code][varied] = 1 / np.sqrt(variance)
    return CenterMaps(model.mean, shifts, factors)


def _posterior(mean: np.ndarray, variance: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    # conditional posterior means of Johnson et al. 2007, equations 3.1, iterated from the estimates of each feature;
    # the priors are normal and inverse gamma, with moments over features
    prior, width = mean.mean(), mean.var(ddof=1) if len(mean) > 1 else 0.0
    center, spread = variance.mean(), max(variance.var(ddof=1) if len(variance) > 1 else 0.0, 1e-12)
    shape, scale = 2 + center**2 / spread, center + center**3 / spread
    shrunk, squared = mean, variance
    for _ in range(MAX_ITERATIONS):
        moved = (size * width * mean + squared * prior) / (size * width + squared)
        total = (size - 1) * variance + size * np.square(mean - moved)
        scaled = (scale + total / 2) / (size / 2 + shape - 1)
        change = max(np.abs(moved - shrunk).max(), np.abs(scaled - squared).max())
        shrunk, squared = moved, scaled
        if change < TOLERANCE:
            break
    return shrunk, squared


def fit_coral(features: Features, centers: np.ndarray) -> CenterMaps:
    """Estimate correlation alignment of each center to all centers together (Sun et al. 2016, algorithm 1).

    Features have the same mean at each center, and their covariance there becomes that of all centers:
    ``(C_center + I)^(-1/2) (C_all + I)^(1/2)``, for features of standard deviation 1 within centers. As in the paper,
    classes are not used.

    Args:
        features: ``(N, D)`` training features.
        centers: ``(N,)`` codes of their centers.
    """
    model, dim = _Effects.of(features, None, centers), features.shape[1]
    codes = np.unique(centers)
    products = np.zeros((len(codes), dim, dim))
    for of_rows, residuals in model.residuals():
        for index, code in enumerate(codes):
            chosen = residuals[of_rows == code]
            products[index] += chosen.T @ chosen
    spread = np.sqrt(products.sum(0).diagonal() / len(centers))
    spread[spread <= LEAST_SPREAD * np.maximum(1, np.abs(model.mean))] = 1
    products /= np.outer(spread, spread)
    target = _power(products.sum(0) / len(centers) + RIDGE * np.eye(dim), 0.5)
    shifts, factors = {}, {}
    for index, (code, size) in enumerate(zip(codes.tolist(), model.sizes.tolist())):
        whitening = _power(products[index] / size + RIDGE * np.eye(dim), -0.5)
        shifts[code] = model.mean + model.effects[index]
        factors[code] = whitening @ target / spread[:, None] * spread
    return CenterMaps(model.mean, shifts, factors)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T
