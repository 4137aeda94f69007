import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from medi_monai.evaluation.probes.heads import fit_balanced_subsets, fit_group_dro, robust

CS = (0.01, 1.0)


def data(sizes=(60, 12, 9, 50, 8, 40), dim=3, seed=0):
    """Six groups, two of each of three classes; the second feature is a shortcut that the larger group has."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(6), sizes)
    labels = groups // 2
    means = rng.standard_normal((6, dim)) + 1.5 * np.eye(3, dim)[np.arange(6) // 2]
    return rng.standard_normal((len(groups), dim)) + means[groups], labels, groups


def by_sklearn(features, labels, c):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(features, labels)


def test_subsets_of_groups_of_the_same_size_are_all_rows():
    features, labels, groups = data(sizes=(20,) * 6)
    probes = fit_balanced_subsets(features, labels, groups, 3, CS, np.random.default_rng(0))
    for c, probe in zip(CS, probes, strict=True):
        expected = by_sklearn(features, labels, c).predict_proba(features)
        np.testing.assert_allclose(probe.probabilities(features), expected, atol=1e-4)


def test_coefficients_are_averages_over_balanced_subsets():
    features, labels, groups = data()
    probes = fit_balanced_subsets(features, labels, groups, 3, CS, np.random.default_rng(3))
    rng, coefficients = np.random.default_rng(3), {c: [] for c in CS}
    for _ in range(robust.NUM_SUBSETS):
        rows = np.concatenate([rng.choice(np.flatnonzero(groups == code), 8, replace=False) for code in range(6)])
        for c in CS:
            coefficients[c].append(by_sklearn(features[rows], labels[rows], c).coef_)
    for c, probe in zip(CS, probes, strict=True):
        np.testing.assert_allclose(probe.coefficients, np.mean(coefficients[c], axis=0), atol=1e-3)
        assert probe.c == c and probe.converged


def objective(weights, biases, features, labels, groups, c):
    """Largest loss of a group and the penalty, divided by C and the number of rows."""
    losses = -log_softmax(features @ weights.T + biases, axis=1)[np.arange(len(labels)), labels]
    of_groups = np.array([losses[groups == code].mean() for code in np.unique(groups)])
    return of_groups, np.sum(weights**2) / (2 * c * len(labels))


@pytest.mark.parametrize("c", [0.01, 0.3, 10.0])
def test_group_dro_minimizes_the_largest_loss_of_a_group(c):
    features, labels, groups = data()
    (probe,) = fit_group_dro(features, labels, groups, 3, [c])
    losses, penalty = objective(probe.coefficients.numpy(), probe.intercepts.numpy(), features, labels, groups, c)

    # the same problem with a bound of all losses as a variable
    def parts(x):
        return objective(x[:9].reshape(3, 3), x[9:12], features, labels, groups, c)

    solved = minimize(
        lambda x: x[12] + parts(x)[1],
        np.append(np.zeros(12), 2.0),
        constraints={"type": "ineq", "fun": lambda x: x[12] - parts(x)[0]},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-10},
    )
    assert solved.success and probe.converged
    assert solved.fun - 1e-6 <= losses.max() + penalty <= solved.fun + max(robust.GAP * losses.max(), robust.LEAST_GAP)
    plain = by_sklearn(features, labels, c)
    assert losses.max() < objective(plain.coef_, plain.intercept_, features, labels, groups, c)[0].max()


def test_two_classes_have_one_vector_and_the_same_objective():
    features, labels, groups = data()
    kept = labels < 2
    features, labels, groups = features[kept], labels[kept], groups[kept]
    (probe,) = fit_group_dro(features, labels, groups, 2, [0.3])
    weights, bias = probe.coefficients.numpy()[0], float(probe.intercepts)

    def parts(w, b):
        losses = np.logaddexp(0, -(features @ w + b) * (2 * labels - 1))
        return np.array([losses[groups == code].mean() for code in range(4)]), np.sum(w**2) / (0.6 * len(labels))

    solved = minimize(
        lambda x: x[4] + parts(x[:3], x[3])[1],
        np.append(np.zeros(4), 2.0),
        constraints={"type": "ineq", "fun": lambda x: x[4] - parts(x[:3], x[3])[0]},
        method="SLSQP",
    )
    losses, penalty = parts(weights, bias)
    assert losses.max() + penalty == pytest.approx(solved.fun, rel=robust.GAP)
