"""ComBat and CORAL against loops over features and centers, as the papers state them."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from medi_monai.evaluation.probes.heads import centers as module
from medi_monai.evaluation.probes.heads import fit_combat, fit_coral


def data(rows=240, dim=5, seed=0):
    """Features with effects of class and center, which are correlated, and another spread at each center."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    centers = np.where(rng.random(rows) < 0.5, labels, rng.integers(0, 4, rows))
    features = rng.standard_normal((rows, dim)) * (0.5 + 0.4 * centers[:, None])
    features += 3 * rng.standard_normal((3, dim))[labels] + rng.standard_normal((4, dim))[centers] + 10
    return features, labels, centers


def combat_by_loops(features, labels, centers):
    """Mean and standard deviation of every center and feature, shrunk as in Johnson et al. 2007."""
    rows, dim = features.shape
    codes = np.unique(centers)
    classes = np.eye(3)[labels] if labels is not None else np.ones((rows, 1))
    design = np.hstack([np.eye(4)[centers], classes[:, 1:]])
    shifts, factors = np.empty((len(codes), dim)), np.empty((len(codes), dim))
    standardized, grand, sigma = np.empty_like(features), np.empty(dim), np.empty(dim)
    for g in range(dim):
        beta = np.linalg.lstsq(design, features[:, g], rcond=None)[0]
        fitted = design @ beta
        sigma[g] = np.sqrt(np.mean((features[:, g] - fitted) ** 2))
        grand[g] = np.mean(design[:, :4] @ beta[:4])
        standardized[:, g] = (features[:, g] - grand[g] - design[:, 4:] @ beta[4:]) / sigma[g]
    for i, code in enumerate(codes):
        z = standardized[centers == code]
        n, gamma, delta = len(z), z.mean(0), z.var(0, ddof=1)
        gamma_bar, tau = gamma.mean(), gamma.var(ddof=1)
        mean, variance = delta.mean(), delta.var(ddof=1)
        lam, theta = (mean**2 + 2 * variance) / variance, (mean**3 + mean * variance) / variance
        for g in range(dim):
            location, scale = gamma[g], delta[g]
            for _ in range(200):
                location = (n * tau * gamma[g] + scale * gamma_bar) / (n * tau + scale)
                scale = (theta + 0.5 * np.sum((z[:, g] - location) ** 2)) / (n / 2 + lam - 1)
            shifts[i, g], factors[i, g] = location, np.sqrt(scale)
    return sigma, shifts, factors


@pytest.mark.parametrize("with_class", [True, False])
def test_combat_shrinks_as_the_paper_says(with_class):
    features, labels, centers = data()
    labels = labels if with_class else None
    sigma, locations, scales = combat_by_loops(features, labels, centers)
    maps = fit_combat(features, labels, centers)
    np.testing.assert_allclose(maps.mean, features.mean(0))
    for code in range(4):
        np.testing.assert_allclose(maps.shifts[code], maps.mean + sigma * locations[code], rtol=1e-5)
        np.testing.assert_allclose(maps.factors[code], 1 / scales[code], rtol=1e-5)


def test_combat_keeps_the_effect_of_the_class_that_a_center_is_correlated_with():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 0, 1, 1], [900, 100, 100, 900])
    centers = np.repeat([0, 1, 0, 1], [900, 100, 100, 900])
    features = rng.standard_normal((2000, 4)) + 4 * labels[:, None] + 2 * centers[:, None]
    gaps = []
    for covariate in (labels, None):
        changed = fit_combat(features, covariate, centers).apply(features.copy(), centers)
        of_class = [changed[(labels == label) & (centers == center)].mean(0) for label in (0, 1) for center in (0, 1)]
        gaps.append((np.abs(of_class[1] - of_class[0]).max(), np.abs(of_class[2] - of_class[0] - 4).max()))
    # with the class, centers agree and the gap of 4 is kept; without, the center takes most of it along
    assert gaps[0][0] < 0.2 and gaps[0][1] < 0.2
    assert gaps[1][0] > 2


def test_a_center_without_training_images_or_with_one_is_unchanged():
    features, labels, centers = data()
    centers[0] = 5
    maps = fit_combat(features, labels, centers)
    new = features[:6].astype(np.float32)
    changed = maps.apply(new.copy(), np.array([0, 1, 2, 3, 5, 9]))
    assert (changed[:4] != new[:4]).all() and np.array_equal(changed[4:], new[4:])
    expected = (features[0] - maps.shifts[0]) * maps.factors[0] + maps.mean
    np.testing.assert_allclose(changed[0], expected, rtol=1e-5)


def test_a_constant_feature_is_unchanged_and_changes_no_other():
    features, labels, centers = data()
    others = fit_combat(features, labels, centers).apply(features.copy(), centers)
    with_constant = np.insert(features, 2, 7, axis=1)
    for maps in (fit_combat(with_constant, labels, centers), fit_coral(with_constant, centers)):
        changed = maps.apply(with_constant.copy(), centers)
        assert np.isfinite(changed).all()
        np.testing.assert_allclose(changed[:, 2], 7)
    changed = fit_combat(with_constant, labels, centers).apply(with_constant.copy(), centers)
    np.testing.assert_allclose(np.delete(changed, 2, axis=1), others)


def test_coral_is_the_algorithm_of_the_paper():
    features, _, centers = data()
    centered = features.copy()
    for code in range(4):
        centered[centers == code] -= features[centers == code].mean(0)
    scale = centered.std(0)
    target = centered / scale
    changed = fit_coral(features, centers).apply(features.copy(), centers)
    for code in range(4):
        source = (centered / scale)[centers == code]
        c_source, c_target = (np.cov(part.T, bias=True) + np.eye(5) for part in (source, target))
        expected = source @ fractional_matrix_power(c_source, -0.5) @ fractional_matrix_power(c_target, 0.5)
        np.testing.assert_allclose(changed[centers == code], expected * scale + features.mean(0), rtol=1e-8)


def test_without_the_ridge_centers_have_the_same_mean_and_covariance(monkeypatch):
    monkeypatch.setattr(module, "RIDGE", 0.0)
    features, _, centers = data()
    changed = fit_coral(features, centers).apply(features.copy(), centers)
    covariances = [np.cov(changed[centers == code].T, bias=True) for code in range(4)]
    for code in range(4):
        np.testing.assert_allclose(changed[centers == code].mean(0), features.mean(0))
        np.testing.assert_allclose(covariances[code], covariances[0], atol=1e-9)
