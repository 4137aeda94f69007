"""Linear probes that are robust to groups: deep feature reweighting, and group DRO."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize

from medi_monai.cohort.groups import rows_by_group
from medi_monai.evaluation.probes.blocks import Features
from medi_monai.evaluation.probes.optimum import Problem, Solution
from medi_monai.evaluation.probes.probe import LogisticProbe, fit_probes

__all__ = ["fit_balanced_subsets", "fit_group_dro"]

#: number of group-balanced subsets to average over (Kirichenko et al. 2022: 10)
NUM_SUBSETS = 10
#: gap between the largest and the weighted loss of groups at which group DRO stops, relative to the former and in nats
GAP, LEAST_GAP = 0.01, 1e-3
#: first and largest rate of the weights of groups, times the largest loss, and maximum number of their updates
RATE, MAX_RATE, MAX_UPDATES = 4.0, 64.0, 40
#: logarithm of the smallest weight of a group from which an update starts
LEAST_LOG = math.log(1e-4)
#: maximum number of steps per update, and relative change of the objective at which they end
MAX_STEPS, ACCURACY = 1000, 1e-9


def fit_balanced_subsets(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    num_classes: int,
    c_values: Sequence[float],
    rng: np.random.Generator,
    device: str | torch.device = "cpu",
) -> list[LogisticProbe]:
    """Fit deep feature reweighting (Kirichenko et al. 2022) for several values of C.

    Each of several subsets has as many images of every group as the smallest group has. Coefficients and intercepts are
    averaged over the probes of these subsets. The penalty is that of all probes, L2, where the paper has L1.

    Args:
        features: ``(N, D)`` training features.
        labels: ``(N,)`` integer labels in [0, ``num_classes``).
        groups: ``(N,)`` integer codes of the groups.
        num_classes: number of classes, at least 2.
        c_values: values of C.
        rng: random generator of the subsets.
        device: device of the computation.

    Returns:
        The averaged probes, by ascending C.
    """
    members = [rows for rows in rows_by_group(groups) if len(rows)]
    smallest = min(map(len, members))
    by_subset = []
    for _ in range(NUM_SUBSETS):
        rows = np.sort(np.concatenate([rng.choice(rows, smallest, replace=False) for rows in members]))
        by_subset.append(fit_probes(features[rows], labels[rows], num_classes, c_values, device=device))
    return [LogisticProbe.average(probes) for probes in zip(*by_subset)]


def fit_group_dro(
    features: Features,
    labels: np.ndarray,
    groups: np.ndarray,
    num_classes: int,
    c_values: Sequence[float],
    device: str | torch.device = "cpu",
) -> list[LogisticProbe]:
    r"""Fit probes that minimize the largest loss of a group (group DRO, Sagawa et al. 2020), for several values of C.

    The objective is :math:`\max_q C N \sum_g q_g L_g(W) + \frac{1}{2} \lVert W \rVert^2`, where :math:`L_g` is the mean
    cross-entropy of group g and q are weights with sum 1. As in algorithm 1 there, q is updated by exponentiated
    gradient, :math:`q_g \propto q_g \exp(\eta L_g)`. Because the problem is convex, W is not changed by single steps of
    gradient descent: it is solved together with each update of q, so that :math:`L_g` are the losses after the update,
    which converges at any rate :math:`\eta` (Tseng and Bertsekas 1993). The gap between the largest loss and
    :math:`\sum_g q_g L_g` bounds the distance to the minimum.

    Args:
        features: ``(N, D)`` training features.
        labels: ``(N,)`` integer labels in [0, ``num_classes``).
        groups: ``(N,)`` integer codes of the groups.
        num_classes: number of classes, at least 2.
        c_values: values of C.
        device: device of the computation.

    Returns:
        The probes, by ascending C; ``converged`` is false where the gap stayed above 1% of the largest loss.
    """
    codes = torch.from_numpy(np.unique(groups, return_inverse=True)[1].ravel())
    problem = Problem(features, labels, num_classes, None, torch.device(device))
    logs = torch.zeros(int(codes.max()) + 1, dtype=torch.float64)
    parameters = np.zeros(len(problem.classes) * len(problem.penalty))
    probes = []
    for c in sorted(set(c_values)):
        probe, parameters, logs = _minimax(problem, c, codes, parameters, logs)
        probes.append(probe)
    return probes


def _minimax(
    problem: Problem, c: float, codes: torch.Tensor, start: np.ndarray, logs: torch.Tensor
) -> tuple[LogisticProbe, np.ndarray, torch.Tensor]:
    # the probe, its parameters and the logarithms of the weights of groups, starting from given ones
    objective = _Objective(problem, c, codes)
    scaled, converged, options = start / objective.scale, False, {"maxiter": MAX_STEPS, "ftol": ACCURACY, "gtol": 1e-7}
    rate = RATE / max(float(objective.losses(start)[1].max()), LEAST_GAP)
    iterations = 0
    for _ in range(MAX_UPDATES):
        found = minimize(objective, scaled, (rate, logs), "L-BFGS-B", jac=True, options=options)
        scaled, iterations = found.x, iterations + found.nit
        losses = objective.losses(scaled * objective.scale)[1]
        logs = torch.log_softmax(logs + rate * losses, 0)
        highest = float(losses.max())
        converged = highest - float(logs.exp() @ losses) <= max(GAP * highest, LEAST_GAP)
        if converged:
            break
        # a group that becomes the worst again would take long to recover from a weight near 0
        logs = logs.clamp(min=LEAST_LOG)
        rate = min(2 * rate, MAX_RATE / max(highest, LEAST_GAP))
    parameters = scaled * objective.scale
    solution = Solution(objective.tensor(parameters), converged, iterations, float(np.linalg.norm(found.jac)))
    return LogisticProbe(c, device=problem.device).take(problem, solution), parameters, logs


class _Objective:
    # log(sum_g q_g exp(rate L_g)) / rate + |W|^2 / (2 C N), and its gradient, for parameters divided by their scale

    def __init__(self, problem: Problem, c: float, codes: torch.Tensor) -> None:
        self.problem, self.codes = problem, codes.to(problem.device)
        self.sizes = torch.bincount(self.codes).double()
        self.penalty = problem.penalty / (c * len(codes))
        # about the inverse square root of the curvature along the axes, which makes the problem well conditioned
        spectrum = torch.cat([problem.variances, torch.ones_like(problem.variances[:1])])
        scale = 1 / (spectrum / 4 + self.penalty).sqrt()
        self.scale = np.tile(scale.cpu().numpy(), len(problem.classes))

    def losses(self, parameters: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residuals of all rows, ``(N, K)``, and the mean loss of each group."""
        weights = self.tensor(parameters)
        residuals = torch.empty(len(self.codes), len(weights), dtype=torch.float64, device=self.problem.device)
        of_rows = torch.empty(len(self.codes), dtype=torch.float64, device=self.problem.device)
        for rows, block in self.problem.axis_rows():
            scores = torch.addmm(weights[:, -1], block, weights[:, :-1].T).log_softmax(1)
            labels = self.problem.labels[rows]
            of_rows[rows] = -scores.gather(1, labels)[:, 0]
            residuals[rows] = scores.exp_().scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float64))
        totals = torch.zeros_like(self.sizes).index_add_(0, self.codes, of_rows)
        return residuals, (totals / self.sizes).cpu()

    def __call__(self, scaled: np.ndarray, rate: float, logs: torch.Tensor) -> tuple[float, np.ndarray]:
        parameters = scaled * self.scale
        residuals, losses = self.losses(parameters)
        exponents = logs + rate * losses
        moved = torch.softmax(exponents, 0).to(self.sizes.device)
        residuals *= (moved / self.sizes)[self.codes][:, None]
        weights = self.tensor(parameters)
        gradient = weights * self.penalty
        for rows, block in self.problem.axis_rows():
            gradient[:, :-1] += residuals[rows].T @ block
            gradient[:, -1] += residuals[rows].sum(0)
        value = float(torch.logsumexp(exponents, 0)) / rate + float((weights.square() * self.penalty).sum()) / 2
        return value, gradient.cpu().numpy().ravel() * self.scale

    def tensor(self, parameters: np.ndarray) -> torch.Tensor:
        """Return parameters as ``(K, R + 1)``, as in :class:`Problem`."""
        shape = (len(self.problem.classes), len(self.problem.penalty))
        return torch.from_numpy(parameters.reshape(shape)).to(self.problem.device)
