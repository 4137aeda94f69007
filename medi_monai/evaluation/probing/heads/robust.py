"""Linear probes that are robust to groups: deep feature reweighting, and group DRO."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medi_monai.cohort.groups import rows_by_group
from medi_monai.evaluation.probing.blocks import Features
from medi_monai.evaluation.probing.optimum import Problem, Solution
from medi_monai.evaluation.probing.probe import LogisticProbe, fit_probes

__all__ = ["fit_balanced_subsets", "fit_group_dro"]

#: number of group-balanced subsets to average over (Kirichenko et al. 2022: 10)
NUM_SUBSETS = 10
#: gap between the largest and the weighted loss of groups, relative to the former, at which group DRO stops
GAP = 0.01
#: gap in nats that is small enough whatever the loss
LEAST_GAP = 1e-3
#: maximum number of updates of the weights of groups
MAX_UPDATES = 100
#: maximum number of Newton steps for given weights of groups, and their tolerance as for :class:`LogisticProbe`
MAX_STEPS, ACCURACY = 200, 1e-5


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
    cross-entropy of group g and q are weights with sum 1, updated by exponentiated gradient as in algorithm 1 there:
    :math:`q_g \propto q_g \exp(\eta L_g)`. As the probe is convex, W is solved to its optimum for each q instead of
    taking one step of gradient descent; the value at the optimum is then concave in q, and an update that decreases it
    is repeated with half the step size. The gap between the largest loss and :math:`\sum_g q_g L_g` bounds the distance
    to the minimum.

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
    sizes = torch.bincount(codes).double()
    problem = Problem(features, labels, num_classes, None, torch.device(device))
    shares = torch.full_like(sizes, 1 / len(sizes))
    probes = []
    for c in sorted(set(c_values)):
        probe, shares = _minimax(problem, c, codes, sizes, shares)
        probes.append(probe)
    return probes


def _minimax(
    problem: Problem, c: float, codes: torch.Tensor, sizes: torch.Tensor, shares: torch.Tensor
) -> tuple[LogisticProbe, torch.Tensor]:
    # the probe and the weights of groups, starting from given weights
    solution, losses, value = _response(problem, c, codes, sizes, shares, None)
    step, converged = 1 / max(float(losses.max()), 1e-6), False
    for _ in range(MAX_UPDATES):
        highest = float(losses.max())
        converged = highest - float(shares @ losses) <= max(GAP * highest, LEAST_GAP)
        if converged:
            break
        moved = shares * torch.exp(step * (losses - highest))
        moved /= moved.sum()
        candidate = _response(problem, c, codes, sizes, moved, solution.parameters)
        if candidate[2] < value:
            step /= 2
            continue
        shares, (solution, losses, value) = moved, candidate
        step *= 1.5
    probe = LogisticProbe(c, device=problem.device).take(problem, solution)
    probe.converged &= converged
    return probe, shares


def _response(
    problem: Problem,
    c: float,
    codes: torch.Tensor,
    sizes: torch.Tensor,
    shares: torch.Tensor,
    start: torch.Tensor | None,
) -> tuple[Solution, torch.Tensor, float]:
    # optimum for given weights of groups, the mean loss of each group there, and the objective divided by C N
    count = len(codes)
    problem.weights = (shares / sizes * count)[codes][:, None].to(problem.device)
    solution = problem.solve(c, start, MAX_STEPS, ACCURACY)
    of_rows = -problem.scores.double().log_softmax(1).gather(1, problem.labels)[:, 0].cpu()
    losses = torch.zeros_like(sizes).index_add_(0, codes, of_rows) / sizes
    penalty = float((solution.parameters.square() * problem.penalty).sum()) / 2
    return solution, losses, float(shares @ losses) + penalty / (c * count)
