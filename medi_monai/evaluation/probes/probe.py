"""Linear probes: logistic regression on frozen features, solved to its optimum for any number of rows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from medi_monai.evaluation.probes.blocks import Features, Standardizer, checked_features, checked_labels, row_blocks
from medi_monai.evaluation.probes.optimum import Problem, Solution
from medi_monai.utils.errors import InputError

__all__ = ["PATIENCE", "LogisticProbe", "Standardizer", "choose_probe", "fit_path", "fit_probes"]

#: number of values of C in a row that do not lower the loss, after which larger ones are not tried
PATIENCE = 2


class LogisticProbe:
    r"""Softmax regression with scikit-learn's objective, solved to its optimum.

    It minimizes :math:`C \sum_i w_i \ell_i + \frac{1}{2} \lVert W \rVert^2`, where :math:`\ell_i` is the cross-entropy
    of row i; intercepts are not penalized. Two classes have one weight vector, as in scikit-learn.

    With more than two classes, a class without training rows has coefficients of 0 and an intercept of minus infinity,
    and therefore probability 0; scikit-learn leaves it out.

    Args:
        c: inverse strength of the regularizer, above 0.
        max_iter: maximum number of Newton steps.
        tolerance: gradient norm at which the fit stops, as a fraction of the norm of the coefficients (or of 1 if that
            is larger). The penalty makes the objective 1-strongly convex, so with the intercepts at their optimum this
            bounds the relative error of the coefficients.
        device: device of the computation.

    Attributes:
        coefficients: ``(K, D)`` float64 on the CPU; K is the number of classes, or 1 for two classes.
        intercepts: ``(K,)`` float64 on the CPU.
        num_classes: number of classes given to :meth:`fit`; 0 before.
        converged: whether the gradient norm reached the tolerance; if not, a warning is issued.
        iterations: number of Newton steps taken.
        gradient_norm: gradient norm of the objective at the end.
    """

    def __init__(
        self, c: float = 1.0, max_iter: int = 200, tolerance: float = 1e-7, device: str | torch.device = "cpu"
    ) -> None:
        if not (isinstance(c, (int, float, np.integer, np.floating)) and 0 < c < math.inf):
            raise InputError(f"C must be a number above 0, not {c!r}; small values regularize strongly")
        self.c, self.max_iter, self.tolerance, self.device = float(c), max_iter, tolerance, torch.device(device)
        self.coefficients = torch.empty(0, 0, dtype=torch.float64)
        self.intercepts = torch.empty(0, dtype=torch.float64)
        self.num_classes = 0
        self.converged = False
        self.iterations = 0
        self.gradient_norm = math.nan

    def fit(
        self,
        features: Features,
        labels: np.ndarray | torch.Tensor,
        num_classes: int,
        weights: np.ndarray | torch.Tensor | None = None,
        initial: LogisticProbe | None = None,
    ) -> LogisticProbe:
        """Fit the probe and return it.

        Args:
            features: ``(N, D)`` features: an array, memory map or tensor.
            labels: ``(N,)`` integer labels in [0, ``num_classes``).
            num_classes: number of classes, at least 2.
            weights: ``(N,)`` weights of the rows, 0 or more; by default 1.
            initial: fitted probe to start from; it affects the time needed, not the result.

        Raises:
            InputError: for shapes that do not match, values that are not finite, labels or weights out of range, or
                fewer than two classes among the rows with positive weight.
        """
        return self._fit(Problem(features, labels, num_classes, weights, self.device), initial)

    def _fit(self, problem: Problem, initial: LogisticProbe | None) -> LogisticProbe:
        start = None
        if initial is not None:
            start = problem.parameters_of(initial.num_classes, initial.coefficients, initial.intercepts)
        self.take(problem, problem.solve(self.c, start, self.max_iter, self.tolerance))
        if not self.converged:
            warnings.warn(
                f"the linear probe did not converge: after {self.iterations} steps of at most {self.max_iter} the "
                f"gradient norm is {self.gradient_norm:.1e} (C = {self.c:g}); standardize the features, or lower C",
                stacklevel=3,
            )
        return self

    def take(self, problem: Problem, solution: Solution) -> LogisticProbe:
        """Take over the solution of a fit, and return the probe."""
        self.coefficients, self.intercepts = problem.coefficients_of(solution.parameters)
        self.num_classes, self.iterations = problem.num_classes, solution.iterations
        self.converged, self.gradient_norm = solution.converged, solution.gradient_norm
        return self

    @classmethod
    def average(cls, probes: Sequence[LogisticProbe]) -> LogisticProbe:
        """Return the probe with the mean coefficients and intercepts of fitted probes with the same C and classes."""
        mean = cls(probes[0].c, device=probes[0].device)
        mean.coefficients = torch.stack([probe.coefficients for probe in probes]).mean(0)
        mean.intercepts = torch.stack([probe.intercepts for probe in probes]).mean(0)
        mean.num_classes, mean.iterations = probes[0].num_classes, max(probe.iterations for probe in probes)
        mean.converged = all(probe.converged for probe in probes)
        return mean

    @property
    def classes(self) -> torch.Tensor:
        """Classes with training rows: integers in [0, ``num_classes``)."""
        if self.num_classes == 2:
            return torch.arange(2)
        return torch.isfinite(self.intercepts).nonzero()[:, 0]

    def probabilities(self, features: Features) -> torch.Tensor:
        """Return ``(N, num_classes)`` float64 probabilities on the CPU, for any number of rows.

        Raises:
            InputError: for the wrong number of features, or values that are not finite.
        """
        return self._log_probabilities(features).exp_()

    def predictions(self, features: Features) -> torch.Tensor:
        """Return ``(N,)`` most probable classes; the first one in case of ties."""
        return self._log_probabilities(features).argmax(1)

    def _log_probabilities(self, features: Features) -> torch.Tensor:
        if not self.num_classes:
            raise InputError("the probe is not fitted: call fit first")
        features = checked_features(features)
        dim = self.coefficients.shape[1]
        if features.shape[1] != dim:
            raise InputError(f"features have {features.shape[1]} dimensions, the probe has {dim}: use the same encoder")
        weights, intercepts = self.coefficients.to(self.device), self.intercepts.to(self.device)
        result = torch.empty(len(features), self.num_classes, dtype=torch.float64)
        for rows, block in row_blocks(features, torch.float64, self.device):
            scores = torch.addmm(intercepts, block, weights.T)
            if self.num_classes == 2:
                scores = torch.cat([torch.zeros_like(scores), scores], 1)
            result[rows] = scores.log_softmax(1)
        return result


def fit_path(
    features: Features,
    labels: np.ndarray | torch.Tensor,
    num_classes: int,
    c_values: Sequence[float],
    validation_features: Features,
    validation_labels: np.ndarray | torch.Tensor,
    weights: np.ndarray | torch.Tensor | None = None,
    device: str | torch.device = "cpu",
) -> tuple[LogisticProbe, pd.DataFrame]:
    """Fit probes for several values of C, and select one by the loss on validation data only.

    Probes are fitted from strong to weak regularization, each starting from the one before, until :data:`PATIENCE`
    values in a row do not lower the loss: the weakest regularization takes longest. The probe with the lowest
    class-balanced log-loss (mean over classes of the mean negative log-probability) is selected, with ties going to the
    stronger regularization. Validation rows of a class without training rows are uninformative about C and left out.

    Args:
        features: ``(N, D)`` training features.
        labels: ``(N,)`` integer training labels in [0, ``num_classes``).
        num_classes: number of classes, at least 2.
        c_values: values of C to try, at least one.
        validation_features: ``(M, D)`` validation features.
        validation_labels: ``(M,)`` integer validation labels.
        weights: ``(N,)`` weights of the training rows.
        device: device of the computation.

    Returns:
        The probe, and a table with one row per fitted C, ascending: ``c``, ``loss``, ``n`` (validation rows used),
        ``iterations``, ``converged``.

    Raises:
        InputError: as for :meth:`LogisticProbe.fit`, or for validation data without the classes of the training data.
    """
    path = _path(features, labels, num_classes, c_values, weights, device)
    return _selected(path, validation_features, validation_labels, PATIENCE)


def fit_probes(
    features: Features,
    labels: np.ndarray | torch.Tensor,
    num_classes: int,
    c_values: Sequence[float],
    weights: np.ndarray | torch.Tensor | None = None,
    device: str | torch.device = "cpu",
) -> list[LogisticProbe]:
    """Fit probes for all values of C, ascending, each starting from the one before; see :func:`fit_path`."""
    return list(_path(features, labels, num_classes, c_values, weights, device))


def _path(
    features: Features,
    labels: np.ndarray | torch.Tensor,
    num_classes: int,
    c_values: Sequence[float],
    weights: np.ndarray | torch.Tensor | None,
    device: str | torch.device,
) -> Iterator[LogisticProbe]:
    if len(c_values) == 0:
        raise InputError("no value of C is given: give at least one")
    problem = Problem(features, labels, num_classes, weights, torch.device(device))
    probe: LogisticProbe | None = None
    for c in sorted(set(c_values)):
        probe = LogisticProbe(c, device=device)._fit(problem, probe)
        yield probe


def choose_probe(
    probes: Sequence[LogisticProbe], features: Features, labels: np.ndarray | torch.Tensor
) -> tuple[LogisticProbe, pd.DataFrame]:
    """Select a probe by its class-balanced log-loss on validation data; see :func:`fit_path`.

    Args:
        probes: fitted probes, by ascending C.
        features: ``(M, D)`` validation features.
        labels: ``(M,)`` integer validation labels.

    Returns:
        The probe, and the table of :func:`fit_path`.

    Raises:
        InputError: for validation data without the classes of the training data.
    """
    return _selected(probes, features, labels, len(probes))


def _selected(
    probes: Iterable[LogisticProbe], features: Features, labels: np.ndarray | torch.Tensor, patience: int
) -> tuple[LogisticProbe, pd.DataFrame]:
    remaining = iter(probes)
    best = next(remaining)
    features = checked_features(features)
    targets = checked_labels(labels, len(features), best.num_classes)
    counted = torch.isin(targets, best.classes)
    if not counted.any():
        raise InputError("no validation image is of a class in the training data, so C cannot be chosen")
    lowest, above, table = math.inf, 0, []
    for probe in itertools.chain([best], remaining):
        losses = -probe._log_probabilities(features)[counted]
        loss = _class_mean(losses.gather(1, targets[counted, None])[:, 0], targets[counted])
        table.append((probe.c, loss, int(counted.sum()), probe.iterations, probe.converged))
        if loss < lowest:
            best, lowest, above = probe, loss, 0
            continue
        above += 1
        if above == patience:
            break
    return best, pd.DataFrame(table, columns=["c", "loss", "n", "iterations", "converged"])


def _class_mean(values: torch.Tensor, targets: torch.Tensor) -> float:
    _, codes, counts = targets.unique(return_inverse=True, return_counts=True)
    return float((torch.zeros(len(counts), dtype=torch.float64).index_add_(0, codes, values) / counts).mean())
