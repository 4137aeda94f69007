"""Solver of a softmax regression: the data of a fit, in coordinates suited to Newton's method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from medi_monai.evaluation.probes.blocks import (
    Features,
    block_views,
    checked_features,
    checked_labels,
    checked_weights,
    row_blocks,
)
from medi_monai.utils.errors import InputError

__all__ = ["Problem", "Solution"]

#: largest size in bytes of features kept on the CPU in double precision; larger ones are read again in every pass
KEPT_BYTES = 2 * 2**30
#: number of rows from which the principal axes are estimated; affects the speed of a fit, not its result
SAMPLE_ROWS = 65_536
#: maximum number of products with the Hessian in one Newton step
MAX_PRODUCTS = 500
#: largest number of parameters for which the Hessian is formed; beyond, its diagonal blocks are, one for each class
MAX_HESSIAN = 2048
#: largest size in bytes of these blocks in double precision
BLOCKS_BYTES = 2**29
#: number of features in memory from which Hessian products are in single precision
SINGLE_ENTRIES = 2**20


@dataclass(frozen=True)
class Solution:
    """Solution of a fit: parameters ``(K, R + 1)`` as in :class:`Problem`, and the state of convergence."""

    parameters: torch.Tensor
    converged: bool
    iterations: int
    gradient_norm: float


class Problem:
    """Data of a softmax regression, in coordinates suited to the solver; C is an argument of :meth:`solve`.

    Parameters ``(K, R + 1)`` are coefficients along the principal axes of the centered features, and intercepts. The
    rotation does not change the penalty, centering is absorbed by the intercepts, and the Hessian is nearly diagonal
    along these axes. K is the number of classes with rows. For two classes, there are two opposite vectors of half the
    length here: with the penalty doubled, the optimum is that of the single vector.
    """

    def __init__(
        self,
        features: Features,
        labels: np.ndarray | torch.Tensor,
        num_classes: int,
        weights: np.ndarray | torch.Tensor | None,
        device: torch.device,
    ) -> None:
        self.features, self.device, self.num_classes = checked_features(features), device, num_classes
        count = len(features)
        self.dim = features.shape[1]
        targets = checked_labels(labels, count, num_classes)
        weight = checked_weights(weights, count)
        self.classes = targets[weight > 0].unique()
        if len(self.classes) < 2:
            raise InputError(
                f"a probe needs at least two classes, but the rows with positive weight have {len(self.classes)}"
            )
        # a class whose rows all have weight 0 is treated as absent; its rows have no effect under any label
        codes = torch.searchsorted(self.classes, targets).clamp(max=len(self.classes) - 1)
        self.labels, self.weights = codes[:, None].to(device), weight[:, None].to(device)
        self.classes = self.classes.to(device)
        keep = count * self.dim * 8 <= _kept_bytes(device)
        self.mean, self.axes, self.variances = _principal_axes(self.features, weight.to(device), reduce=keep)
        self.rotated = self._rotated() if keep else None
        # for many features, Hessian products use single precision, which is twice as fast and affects only the path to
        # the optimum, which is defined by gradients in double precision
        few = self.rotated is not None and self.rotated.numel() < SINGLE_ENTRIES
        self.dtype = torch.float64 if few else torch.float32
        self.single = None if few or self.rotated is None else self.rotated.float()
        shape = (count, len(self.classes))
        self.scores = torch.empty(shape, dtype=self.dtype, device=device)
        self.shares = torch.empty_like(self.scores)
        self.penalty = torch.full((self.axes.shape[1] + 1,), 1.0 if shape[1] > 2 else 2.0, dtype=torch.float64)
        self.penalty[-1] = 0
        self.penalty = self.penalty.to(device)
        self.curvature: torch.Tensor | None = None
        # Cholesky factor of the preconditioner for one value of C; no factor if it failed
        self.factor: tuple[float, torch.Tensor | None] | None = None

    def parameters_of(self, num_classes: int, coefficients: torch.Tensor, intercepts: torch.Tensor) -> torch.Tensor:
        """Return the parameters of a fitted probe to start from, the inverse of :meth:`coefficients_of`."""
        expected = (1 if self.num_classes == 2 else self.num_classes, self.dim)
        if num_classes != self.num_classes or tuple(coefficients.shape) != expected:
            raise InputError(
                f"a probe of {num_classes} classes and {tuple(coefficients.shape)} coefficients cannot be "
                f"the start of one of {self.num_classes} classes and {expected}"
            )
        weights, intercepts = coefficients.to(self.device), intercepts.to(self.device)
        if self.num_classes == 2:
            weights, intercepts = torch.cat([-weights, weights]) / 2, torch.cat([-intercepts, intercepts]) / 2
        weights, intercepts = weights[self.classes], intercepts[self.classes].nan_to_num(neginf=0.0)
        start = torch.cat([weights @ self.axes, (intercepts + weights @ self.mean)[:, None]], 1)
        return start - start.mean(0)

    def coefficients_of(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(K, D)`` coefficients and ``(K,)`` intercepts of all classes on the CPU; K = 1 for two classes."""
        weights = parameters[:, :-1] @ self.axes.T
        intercepts = parameters[:, -1] - weights @ self.mean
        if self.num_classes == 2:
            return (weights[1:] - weights[:1]).cpu(), (intercepts[1:] - intercepts[:1]).cpu()
        coefficients = torch.zeros(self.num_classes, self.dim, dtype=torch.float64)
        biases = torch.full((self.num_classes,), -torch.inf, dtype=torch.float64)
        coefficients[self.classes.cpu()], biases[self.classes.cpu()] = weights.cpu(), intercepts.cpu()
        return coefficients, biases

    def solve(self, c: float, start: torch.Tensor | None, max_iter: int, tolerance: float) -> Solution:
        """Solve by Newton's method with preconditioned conjugate gradients (Nocedal and Wright 2006, algorithm 7.1)."""
        shape = (len(self.classes), len(self.penalty))
        parameters = torch.zeros(shape, dtype=torch.float64, device=self.device) if start is None else start
        # below this norm a gradient is rounding error
        spread = float(self.variances.sum().sqrt()) + 1
        floor = torch.finfo(torch.float64).eps * c * float(self.weights.sum()) * spread
        norm, first = math.inf, math.inf
        for iteration in range(max_iter + 1):
            gradient = self._gradient(parameters, c)
            norm = float(gradient.norm())
            first = norm if iteration == 0 else first
            if norm <= max(tolerance * max(1.0, float(parameters[:, :-1].norm())), floor):
                return Solution(parameters, True, iteration, norm)
            if start is not None and not norm <= 100 * first:
                return self.solve(c, None, max_iter, tolerance)
            if iteration == max_iter or not math.isfinite(norm):
                break
            accuracy = max(min(0.1, math.sqrt(norm / first)), 0.0 if self.dtype == torch.float64 else 1e-3)
            direction, change = self._newton_direction(gradient, c, accuracy)
            if start is not None and not direction.any():
                # every row is certain at the start: there is no curvature to use
                return self.solve(c, None, max_iter, tolerance)
            parameters = parameters + direction * self._step(parameters, gradient, direction, change, c)
        return Solution(parameters, False, iteration, norm)

    def _gradient(self, parameters: torch.Tensor, c: float) -> torch.Tensor:
        weights, intercepts = self._on_features(parameters)
        total, bias = torch.zeros_like(weights), torch.zeros_like(intercepts)
        for rows, block in self._rows(torch.float64):
            scores = torch.addmm(intercepts, block, weights.T)
            shares = scores.softmax(1)
            self.scores[rows], self.shares[rows] = scores, shares
            labels = self.labels[rows]
            residuals = shares.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float64))
            residuals *= self.weights[rows]
            total += residuals.T @ block
            bias += residuals.sum(0)
        return self._on_axes(total, bias) * c + parameters * self.penalty

    def _newton_direction(self, gradient: torch.Tensor, c: float, accuracy: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a step ``(K, R + 1)``, and the resulting change of scores ``(N, K)``."""
        precondition = self._preconditioner(c)
        direction, change = torch.zeros_like(gradient), torch.zeros_like(self.scores)
        residual = -gradient
        scaled = precondition(residual)
        search, power = scaled, (residual * scaled).sum()
        wanted = accuracy**2 * power
        for number in range(1, MAX_PRODUCTS + 1):
            product, moved = self._hessian_product(search, c)
            bend = (search * product).sum()
            if not bend > 0:
                break
            length = power / bend
            direction += length * search
            change.add_(moved, alpha=float(length))
            residual = residual - length * product
            renewed = number == self._products_per_curvature
            if renewed:
                self.curvature, self.factor = self._curvature(), None
                precondition = self._preconditioner(c)
                wanted = accuracy**2 * (gradient * precondition(gradient)).sum()
            scaled = precondition(residual)
            previous, power = power, (residual * scaled).sum()
            if power <= wanted:
                break
            search = scaled if renewed else scaled + power / previous * search
        return direction, change

    @property
    def _products_per_curvature(self) -> int | None:
        # about this many products cost as much as the Hessian or its blocks: a step that needs more should form them
        num, size = len(self.classes), len(self.penalty)
        if self.rotated is None or (not self._is_small and num * size**2 * 8 > BLOCKS_BYTES):
            return None
        num_blocks = num * (num - 1) // 2 if self._is_small else num
        return max(8, num_blocks * size // (16 * num))

    @property
    def _is_small(self) -> bool:
        return len(self.classes) * len(self.penalty) <= MAX_HESSIAN

    def _preconditioner(self, c: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return an approximate inverse of the Hessian, from its last evaluation if there is one, or its diagonal."""
        if self.curvature is not None:
            if self.factor is None or self.factor[0] != c:
                self.factor = c, self._factorized(c, self.curvature)
            factor = self.factor[1]
            if factor is not None:
                shape = (*factor.shape[:-1], 1)
                return lambda steps: _centered(torch.cholesky_solve(steps.reshape(shape), factor).view_as(steps))
        curvatures = [(self.weights[rows] * shares * (1 - shares)).sum(0) for rows, shares in block_views(self.shares)]
        spectrum = torch.cat([self.variances, torch.ones_like(self.variances[:1])])
        diagonal = c * torch.outer(torch.stack(curvatures).sum(0), spectrum) + self.penalty
        # intercepts have no penalty, and no curvature if every row is certain
        diagonal.clamp_(min=torch.finfo(torch.float64).eps * float(diagonal.max()))
        return lambda steps: _centered(steps / diagonal)

    def _factorized(self, c: float, curvature: torch.Tensor) -> torch.Tensor | None:
        last, num = len(self.penalty) - 1, len(self.classes)
        if self._is_small:
            hessian = c * curvature + torch.diag(self.penalty.repeat(num))
            # intercepts have no penalty, and adding the same number to all of them changes nothing
            hessian[last :: last + 1, last :: last + 1] += float(hessian.diagonal().mean())
        else:
            hessian = c * curvature + torch.diag(self.penalty)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        return None if failed.any() else factor

    def _curvature(self) -> torch.Tensor:
        """Return the Hessian of the cross-entropy at the last gradient, ``(K (R + 1), K (R + 1))``.

        For many parameters, return only its diagonal blocks ``(K, R + 1, R + 1)``, one for each class. Without the
        others, which are negative semidefinite and sum to minus the block on the diagonal, the preconditioned Hessian
        has eigenvalues of at most 2. It only preconditions, so products of rows are in single precision.
        """
        return self._hessian() if self._is_small else self._diagonal_blocks()

    def _hessian(self) -> torch.Tensor:
        # blocks of one class sum to 0 over the other classes, which gives those on the diagonal
        num, size = len(self.classes), len(self.penalty)
        total = torch.zeros(num, size, num, size, dtype=torch.float64, device=self.device)
        for block, shares, weights in self._curved_rows():
            for one, other in itertools.combinations(range(num), 2):
                total[one, :, other] -= block.T @ (shares[:, [one]] * shares[:, [other]] * weights * block)
        for one, other in itertools.combinations(range(num), 2):
            total[other, :, one] = total[one, :, other]
        for one, blocks in enumerate(-total.sum(2)):
            total[one, :, one] = blocks
        return total.view(num * size, num * size)

    def _diagonal_blocks(self) -> torch.Tensor:
        num, size = len(self.classes), len(self.penalty)
        total = torch.zeros(num, size, size, dtype=torch.float64, device=self.device)
        for block, shares, weights in self._curved_rows():
            for one in range(num):
                share = shares[:, [one]]
                total[one] += block.T @ (share * (1 - share) * weights * block)
        return total

    def _curved_rows(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        # blocks of rows with a 1 for the intercept, probabilities, and weights
        for rows, block in self._rows(torch.float32):
            block = torch.cat([block, torch.ones_like(block[:, :1])], 1).float()
            yield block, self.shares[rows].float(), self.weights[rows].float()

    def _hessian_product(self, vectors: torch.Tensor, c: float) -> tuple[torch.Tensor, torch.Tensor]:
        weights, intercepts = self._on_features(vectors)
        total, bias = torch.zeros_like(weights), torch.zeros_like(intercepts)
        weights, intercepts = weights.to(self.dtype), intercepts.to(self.dtype)
        changes = torch.empty_like(self.scores)
        for rows, block in self._rows(self.dtype):
            change = torch.addmm(intercepts, block, weights.T)
            shares = self.shares[rows]
            changes[rows] = change
            weighted = shares * change
            # P (V - <P, V>), the Hessian of the cross-entropy
            bent = weighted.sub_(shares * weighted.sum(1, keepdim=True)).mul_(self.weights[rows])
            total += bent.T @ block
            bias += bent.sum(0)
        return self._on_axes(total, bias) * c + vectors * self.penalty, changes

    def _step(
        self, parameters: torch.Tensor, gradient: torch.Tensor, direction: torch.Tensor, change: torch.Tensor, c: float
    ) -> float:
        """Return a step length at which the slope is at most half the initial slope; scores are linear in it."""
        # while no score moves by more than 0.2, the curvature changes by less than half, so the full step qualifies
        if float(change.abs().max()) <= 0.2:
            return 1.0
        before = float((gradient * direction).sum())
        linear = float((parameters * direction * self.penalty).sum())
        square = float((direction.square() * self.penalty).sum())
        length, low, high = 1.0, 0.0, math.inf
        for _ in range(50):
            slope = linear + length * square + c * self._slope(change, length)
            if abs(slope) <= 0.5 * abs(before):
                break
            low, high = (length, high) if slope < 0 else (low, length)
            length = 2 * length if high == math.inf else (low + high) / 2
        return length

    def _slope(self, change: torch.Tensor, length: float) -> float:
        slope = 0.0
        for rows, _ in block_views(self.shares):
            moved, labels = change[rows], self.labels[rows]
            shares = (self.scores[rows] + length * moved).softmax(1)
            slopes = (shares * moved).sum(1, keepdim=True) - moved.gather(1, labels)
            slope += float((slopes * self.weights[rows]).sum())
        return slope

    def _rotated(self) -> torch.Tensor:
        shape = (len(self.features), self.axes.shape[1])
        rotated = torch.empty(shape, dtype=torch.float64, device=self.device)
        for rows, block in row_blocks(self.features, torch.float64, self.device):
            torch.matmul(block - self.mean, self.axes, out=rotated[rows])
        return rotated

    def axis_rows(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield blocks of centered rows along the principal axes, in double precision, each with its slice."""
        if self.rotated is not None:
            yield from block_views(self.rotated)
            return
        for rows, block in row_blocks(self.features, torch.float64, self.device):
            yield rows, (block - self.mean) @ self.axes

    def _rows(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        if self.rotated is None:
            return row_blocks(self.features, dtype, self.device)
        return block_views(self.rotated if dtype == torch.float64 or self.single is None else self.single)

    def _on_features(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, intercepts = parameters[:, :-1], parameters[:, -1]
        if self.rotated is not None:
            return weights, intercepts
        weights = weights @ self.axes.T
        return weights, intercepts - weights @ self.mean

    def _on_axes(self, weights: torch.Tensor, intercepts: torch.Tensor) -> torch.Tensor:
        if self.rotated is None:
            weights = (weights - torch.outer(intercepts, self.mean)) @ self.axes
        return torch.cat([weights, intercepts[:, None]], 1)


def _centered(steps: torch.Tensor) -> torch.Tensor:
    # adding the same vector to all classes changes no probability; the Hessian is far from diagonal along it
    return steps - steps.mean(0)


def _principal_axes(
    features: Features, weights: torch.Tensor, reduce: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean ``(D,)``, principal axes ``(D, R)`` and variances ``(R,)``, estimated from every n-th row.

    R is D; with ``reduce``, it is the number of rows if that is smaller, because the optimum lies in the span of the
    centered rows.
    """
    step = -(-len(features) // SAMPLE_ROWS)
    features, weights = features[::step], weights[::step]
    sample = torch.empty(tuple(features.shape), dtype=torch.float64, device=weights.device)
    for rows, block in row_blocks(features, torch.float64, weights.device):
        sample[rows] = block
    total = weights.sum().clamp(min=1e-300)
    mean = weights @ sample / total
    sample -= mean
    span = torch.linalg.qr(sample.T).Q if reduce and len(features) < features.shape[1] else None
    if span is not None:
        sample = sample @ span
    sample *= weights[:, None].sqrt()
    variances, axes = torch.linalg.eigh(sample.T @ sample / total)
    return mean, axes if span is None else span @ axes, variances.clamp(min=0)


def _kept_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else KEPT_BYTES
