"""The Hessian that speeds up a fit: against automatic differentiation, and without effect on the optimum."""

import numpy as np
import pytest
import torch

from medi_monai.evaluation.probes import optimum
from medi_monai.evaluation.probes.optimum import Problem


def make_problem(classes=3, rows=400, dim=6, seed=0):
    """A problem with weights, classes of different sizes, and features that are strongly correlated."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows) * rng.integers(0, 2, rows)
    labels[:classes] = range(classes)
    features = rng.standard_normal((rows, dim)) ** 5 @ np.diag(0.8 ** np.arange(dim)) @ rng.standard_normal((dim, dim))
    features += rng.standard_normal((classes, dim))[labels]
    return Problem(features, labels, classes, rng.uniform(0, 2, rows), torch.device("cpu"))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_hessian_is_that_of_automatic_differentiation(classes):
    problem = make_problem(classes)
    parameters = torch.randn(classes, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem._gradient(parameters, 1.0)

    def loss(flat):
        table = flat.view(classes, 7)
        scores = problem.rotated @ table[:, :-1].T + table[:, -1]
        return (problem.weights * -scores.log_softmax(1).gather(1, problem.labels)).sum()

    expected = torch.autograd.functional.hessian(loss, parameters.flatten())
    # products of rows are in single precision
    torch.testing.assert_close(problem._curvature(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("classes", [3, 5])
def test_the_hessian_saves_products_and_keeps_the_optimum(monkeypatch, classes):
    with_hessian, products = solve_counting(monkeypatch, classes)
    monkeypatch.setattr(optimum, "MAX_HESSIAN", 0)
    without, products_without = solve_counting(monkeypatch, classes)
    torch.testing.assert_close(with_hessian, without, rtol=1e-5, atol=1e-5)
    assert products < products_without


@pytest.mark.parametrize("classes", [2, 4])
def test_beyond_many_parameters_the_blocks_of_the_hessian_are_formed(monkeypatch, classes):
    problem = make_problem(classes)
    parameters = torch.randn(classes, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem._gradient(parameters, 1.0)
    whole = problem._curvature().view(classes, 7, classes, 7)
    monkeypatch.setattr(optimum, "MAX_HESSIAN", 0)
    blocks = problem._curvature()
    expected = torch.stack([whole[one, :, one] for one in range(classes)])
    torch.testing.assert_close(blocks, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    # the Hessian is at most twice its blocks, which bounds the number of products
    scale = torch.linalg.cholesky(torch.block_diag(*blocks) + 1e-3 * torch.eye(7 * classes)).inverse()
    assert torch.linalg.eigvalsh(scale @ whole.reshape(7 * classes, -1) @ scale.T).max() < 2 + 1e-4


@pytest.mark.parametrize("classes", [2, 4])
def test_blocks_save_products_and_keep_the_optimum(monkeypatch, classes):
    monkeypatch.setattr(optimum, "MAX_HESSIAN", 0)
    with_blocks, products = solve_counting(monkeypatch, classes)
    monkeypatch.setattr(optimum, "BLOCKS_BYTES", 0)
    without, products_without = solve_counting(monkeypatch, classes)
    torch.testing.assert_close(with_blocks, without, rtol=1e-5, atol=1e-5)
    assert products < products_without


def test_products_in_single_precision_keep_the_optimum(monkeypatch):
    exact, _ = solve_counting(monkeypatch, 3)
    monkeypatch.setattr(optimum, "SINGLE_ENTRIES", 0)
    single, _ = solve_counting(monkeypatch, 3)
    torch.testing.assert_close(single, exact, rtol=1e-6, atol=1e-6)
    assert make_problem().single.dtype == torch.float32


def solve_counting(monkeypatch, classes):
    """Solve two problems with one object, and return the last optimum and the number of Hessian products."""
    problem, counted = make_problem(classes, rows=2000, dim=40), []
    product = problem._hessian_product

    def counting(vectors, c):
        counted.append(c)
        return product(vectors, c)

    monkeypatch.setattr(problem, "_hessian_product", counting)
    solutions = [problem.solve(c, None, 100, 1e-8) for c in (1.0, 1000.0)]
    assert all(solution.converged for solution in solutions)
    return solutions[-1].parameters, len(counted)
