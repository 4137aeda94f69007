"""The linear probe against scikit-learn at its optimum, and what must not change its result."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from medi_monai.evaluation.probes import blocks, optimum
from medi_monai.evaluation.probes.probe import (
    PATIENCE,
    LogisticProbe,
    Standardizer,
    choose_probe,
    fit_path,
    fit_probes,
)
from medi_monai.utils.errors import InputError


def make_data(rows=600, dim=12, classes=4, gap=0.5, noise=0.0, shares=None, seed=0):
    """Gaussian classes with correlated features and a part of the labels drawn anew."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, rows, p=shares)
    labels[:classes] = range(classes)
    mixing = rng.standard_normal((dim, dim))
    features = (rng.standard_normal((rows, dim)) + gap * rng.standard_normal((classes, dim))[labels]) @ mixing
    labels = np.where(rng.random(rows) < noise, rng.integers(0, classes, rows), labels)
    return (features - features.mean(0)) / features.std(0) + 0.3, labels


def oracle(features, labels, c, weights=None, solver="lbfgs"):
    with warnings.catch_warnings():
        # at this tolerance its line search ends in rounding errors, and it says so
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000, solver=solver)
        return model.fit(features, labels, sample_weight=weights)


def assert_same_model(probe, model, features, labels):
    assert probe.converged
    np.testing.assert_allclose(probe.coefficients, model.coef_, atol=1e-3 * max(1, np.abs(model.coef_).max()))
    if len(model.classes_) > 2:
        np.testing.assert_allclose(
            probe.intercepts - probe.intercepts.mean(), model.intercept_ - model.intercept_.mean(), atol=1e-3
        )
    else:
        np.testing.assert_allclose(probe.intercepts, model.intercept_, atol=1e-3)
    np.testing.assert_allclose(probe.probabilities(features), model.predict_proba(features), atol=1e-4)
    accuracy = float((probe.predictions(features).numpy() == labels).mean())
    assert accuracy == pytest.approx(model.score(features, labels), abs=1e-6)


CASES = {
    "separable": {"gap": 3.0},
    "noisy": {"gap": 0.5, "noise": 0.4},
    "unbalanced": {"gap": 0.6, "noise": 0.1, "shares": [0.9, 0.06, 0.03, 0.01]},
    "many classes": {"rows": 1500, "classes": 30, "gap": 0.8},
    "two classes": {"classes": 2, "gap": 0.4, "noise": 0.1},
    "two classes, separable": {"classes": 2, "gap": 3.0},
    "fewer rows than dimensions": {"rows": 40, "dim": 90, "gap": 0.3},
}


@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_optimum_is_that_of_scikit_learn(case, c):
    features, labels = make_data(**case)
    probe = LogisticProbe(c).fit(features, labels, int(labels.max()) + 1)
    assert_same_model(probe, oracle(features, labels, c), features, labels)


@pytest.mark.parametrize("classes", [2, 4])
def test_weights_are_those_of_scikit_learn(classes):
    features, labels = make_data(classes=classes, noise=0.2)
    weights = np.random.default_rng(1).gamma(0.5, size=len(labels)) * (np.arange(len(labels)) % 5 > 0)
    probe = LogisticProbe(2.0).fit(features, labels, classes, weights)
    assert_same_model(probe, oracle(features, labels, 2.0, weights), features, labels)
    assert not torch.allclose(
        probe.coefficients, LogisticProbe(2.0).fit(features, labels, classes).coefficients, atol=1e-2
    )


def test_the_optimum_is_exact_to_the_digits_of_newtons_method():
    features, labels = make_data(noise=0.2)
    probe = LogisticProbe(0.5).fit(features, labels, 4)
    model = oracle(features, labels, 0.5, solver="newton-cholesky")
    np.testing.assert_allclose(probe.coefficients, model.coef_, atol=1e-7)
    np.testing.assert_allclose(probe.probabilities(features), model.predict_proba(features), atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_by_numpy_is_zero_at_the_optimum(classes):
    features, labels = make_data(classes=classes, noise=0.1)
    probe = LogisticProbe(3.0).fit(features, labels, classes)
    residuals = probe.probabilities(features).numpy() - np.eye(classes)[labels]
    residuals = residuals[:, -len(probe.coefficients) :]
    gradient = 3.0 * residuals.T @ features + probe.coefficients.numpy()
    assert np.abs(gradient).max() < 1e-5
    assert np.abs(residuals.sum(0)).max() < 1e-5
    assert probe.gradient_norm < 1e-5


def test_equal_rows_count_as_a_weight():
    features, labels = make_data(rows=200)
    twice = np.concatenate([features, features[:50]]), np.concatenate([labels, labels[:50]])
    weights = np.where(np.arange(200) < 50, 2, 1)
    repeated, weighted = LogisticProbe().fit(*twice, 4), LogisticProbe().fit(features, labels, 4, weights)
    torch.testing.assert_close(repeated.coefficients, weighted.coefficients, atol=1e-6, rtol=0)


@pytest.mark.parametrize("classes", [2, 5])
def test_rows_read_in_blocks_give_the_same_probe(monkeypatch, tmp_path, classes):
    features, labels = make_data(rows=3000, dim=20, classes=classes, noise=0.2)
    features = features.astype(np.float32)
    whole = LogisticProbe().fit(features, labels, classes)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    monkeypatch.setattr(optimum, "KEPT_BYTES", 0)
    monkeypatch.setattr(optimum, "SAMPLE_ROWS", 500)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 20 * 8 * 170)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (features, mapped, torch.from_numpy(features)):
            streamed = LogisticProbe().fit(source, labels, classes)
            torch.testing.assert_close(streamed.coefficients, whole.coefficients, atol=1e-6, rtol=0)
            torch.testing.assert_close(streamed.probabilities(source), whole.probabilities(features), atol=1e-6, rtol=0)
    assert_same_model(streamed, oracle(features.astype(np.float64), labels, 1.0), features, labels)


def test_features_far_from_zero_read_in_blocks(monkeypatch):
    features, labels = make_data(rows=1000, noise=0.2)
    features = (features + 50).astype(np.float32)
    whole = LogisticProbe().fit(features, labels, 4)
    monkeypatch.setattr(optimum, "KEPT_BYTES", 0)
    streamed = LogisticProbe().fit(features, labels, 4)
    assert whole.converged and streamed.converged
    torch.testing.assert_close(streamed.coefficients, whole.coefficients, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_arrays_and_tensors_of_any_float_type_give_the_same(kind):
    features, labels = make_data()
    features = features.astype(kind)
    of_array = LogisticProbe().fit(features, labels, 4)
    of_tensor = LogisticProbe().fit(torch.from_numpy(features), torch.from_numpy(labels).int(), 4)
    assert torch.equal(of_array.coefficients, of_tensor.coefficients)
    assert of_array.coefficients.dtype == of_array.probabilities(features).dtype == torch.float64


@pytest.mark.parametrize("classes", [2, 4])
def test_a_warm_start_ends_where_a_cold_one_does(classes):
    features, labels = make_data(classes=classes, noise=0.3)
    near = LogisticProbe(4.0).fit(features, labels, classes)
    cold, warm = LogisticProbe(5.0), LogisticProbe(5.0)
    cold.fit(features, labels, classes)
    warm.fit(features, labels, classes, initial=near)
    torch.testing.assert_close(warm.coefficients, cold.coefficients, atol=1e-6, rtol=0)
    torch.testing.assert_close(warm.intercepts, cold.intercepts, atol=1e-6, rtol=0)
    assert warm.iterations < cold.iterations
    again = LogisticProbe(5.0).fit(features, labels, classes, initial=cold)
    assert again.iterations <= 1


@pytest.mark.parametrize("factor", [30, 1e4, 1e9])
def test_a_start_far_away_does_no_harm(factor):
    features, labels = make_data(noise=0.1)
    far, cold = LogisticProbe().fit(features, labels, 4), LogisticProbe(0.01).fit(features, labels, 4)
    far.coefficients *= factor
    far.intercepts *= -factor
    warm = LogisticProbe(0.01).fit(features, labels, 4, initial=far)
    assert warm.converged
    torch.testing.assert_close(warm.coefficients, cold.coefficients, atol=1e-6, rtol=0)


def test_a_fit_is_deterministic():
    features, labels = make_data()
    first, second = (LogisticProbe().fit(features, labels, 4) for _ in range(2))
    assert torch.equal(first.coefficients, second.coefficients) and torch.equal(first.intercepts, second.intercepts)


def test_the_order_of_rows_does_not_matter():
    features, labels = make_data()
    order = np.random.default_rng(0).permutation(len(labels))
    straight, shuffled = (
        LogisticProbe().fit(features, labels, 4),
        LogisticProbe().fit(features[order], labels[order], 4),
    )
    torch.testing.assert_close(straight.coefficients, shuffled.coefficients, atol=1e-7, rtol=0)


@pytest.mark.parametrize("present", [(0, 2), (0, 2, 3)])
def test_a_class_without_rows_has_the_probability_zero(present):
    features, labels = make_data()
    rows = np.isin(labels, present)
    probe = LogisticProbe().fit(features[rows], labels[rows], 5)
    model = oracle(features[rows], labels[rows], 1.0)
    expected = np.zeros((len(features), 5))
    expected[:, list(present)] = model.predict_proba(features)
    np.testing.assert_allclose(probe.probabilities(features), expected, atol=1e-5)
    assert probe.coefficients.shape == (5, 12) and torch.isneginf(probe.intercepts[1])
    warm = LogisticProbe().fit(features, labels, 5, initial=probe)
    cold = LogisticProbe().fit(features, labels, 5)
    torch.testing.assert_close(warm.coefficients, cold.coefficients, atol=1e-6, rtol=0)


def test_a_class_whose_rows_weigh_nothing_is_absent():
    features, labels = make_data()
    probe = LogisticProbe().fit(features, labels, 4, weights=labels != 1)
    other = LogisticProbe().fit(features[labels != 1], labels[labels != 1], 4)
    torch.testing.assert_close(probe.probabilities(features), other.probabilities(features), atol=1e-6, rtol=0)


def test_constant_and_equal_features_are_harmless():
    features, labels = make_data(noise=0.1)
    features = np.concatenate([features, features[:, :3], np.full((len(features), 1), 7.0)], 1)
    probe = LogisticProbe().fit(features, labels, 4)
    assert_same_model(probe, oracle(features, labels, 1.0), features, labels)
    assert probe.coefficients[:, -1].abs().max() < 1e-6


def test_a_fit_that_stops_early_says_so():
    features, labels = make_data()
    with pytest.warns(UserWarning, match="did not converge: after 2 steps"):
        probe = LogisticProbe(max_iter=2).fit(features, labels, 4)
    assert not probe.converged and probe.iterations == 2 and probe.gradient_norm > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LogisticProbe().fit(features, labels, 4).converged


def test_the_path_takes_the_lowest_balanced_loss_on_validation():
    features, labels = make_data(rows=400, dim=30, noise=0.3, shares=[0.7, 0.1, 0.1, 0.1])
    c_values = [10.0, 0.001, 0.1, 1.0, 0.01]
    best, table = fit_path(features[:150], labels[:150], 4, c_values, features[150:], labels[150:])
    assert list(table["c"]) == sorted(c_values) and table["converged"].all() and (table["n"] == 250).all()
    weights = 1 / np.bincount(labels[150:])[labels[150:]]
    models = [oracle(features[:150], labels[:150], c) for c in table["c"]]
    losses = [log_loss(labels[150:], m.predict_proba(features[150:]), sample_weight=weights) for m in models]
    np.testing.assert_allclose(table["loss"], losses, rtol=1e-4)
    assert best.c == table["c"][int(np.argmin(losses))]
    assert 0 < int(np.argmin(losses)) < len(c_values) - 1, "the choice lies inside, or this test shows little"
    assert_same_model(best, models[int(np.argmin(losses))], features[:150], labels[:150])


def test_the_path_ends_when_the_loss_keeps_rising():
    features, labels = make_data(rows=400, dim=30, noise=0.3, shares=[0.7, 0.1, 0.1, 0.1])
    c_values = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]
    best, table = fit_path(features[:150], labels[:150], 4, c_values, features[150:], labels[150:])
    probes = fit_probes(features[:150], labels[:150], 4, c_values)
    chosen, whole = choose_probe(probes, features[150:], labels[150:])
    lowest = int(whole["loss"].argmin())
    assert len(whole) == 7 > len(table) == lowest + 1 + PATIENCE and best.c == chosen.c == c_values[lowest]
    pd.testing.assert_frame_equal(table, whole.head(len(table)))


def test_of_equal_losses_the_stronger_regularizer_is_taken():
    features, labels = make_data(rows=100, classes=2)
    same = np.zeros_like(features)
    balanced = np.arange(100) % 2
    best, table = fit_path(same, balanced, 2, [1.0, 0.1, 10.0], features, labels)
    assert best.c == 0.1 and table["loss"].tolist() == pytest.approx([math.log(2)] * 3, abs=1e-12)


def test_validation_of_a_class_that_training_lacks_is_left_out():
    features, labels = make_data(noise=0.1)
    train = (np.arange(600) < 300) & (labels != 3)
    known = (np.arange(600) >= 300) & (labels != 3)
    all_rows = np.arange(600) >= 300
    c_values = [0.01, 1.0]
    _, table = fit_path(features[train], labels[train], 4, c_values, features[all_rows], labels[all_rows])
    _, expected = fit_path(features[train], labels[train], 4, c_values, features[known], labels[known])
    np.testing.assert_allclose(table["loss"], expected["loss"], rtol=1e-9)
    assert table["n"].tolist() == [known.sum()] * 2
    with pytest.raises(InputError, match="C cannot be chosen"):
        fit_path(features[train], labels[train], 4, c_values, features[labels == 3], labels[labels == 3])


def test_the_scale_is_that_of_scikit_learn(monkeypatch, tmp_path):
    features, _ = make_data(rows=1001)
    features = np.concatenate([features * 3 + 100, np.full((1001, 1), 0.1), np.zeros((1001, 1))], 1)
    monkeypatch.setitem(blocks.BLOCK_BYTES, "cpu", 14 * 8 * 64)
    ours, theirs = Standardizer().fit(features), StandardScaler().fit(features)
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.scale, theirs.scale_, rtol=1e-12)
    assert ours.scale[-1] == ours.scale[-2] == 1
    np.testing.assert_allclose(ours.transform(features), theirs.transform(features), atol=1e-10)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, features.shape)
    assert ours.transform(features, out) is out
    np.testing.assert_allclose(out, theirs.transform(features), atol=1e-5)


BAD = np.where(np.arange(7200).reshape(600, 12) == 30, np.nan, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": BAD}, "1 of 600 images have features that are not finite"),
        ({"features": BAD * np.inf}, "600 of 600 images"),
        ({"features": np.ones(600)}, r"of shape \(600,\)"),
        ({"features": np.ones((600, 0))}, r"of shape \(600, 0\)"),
        ({"features": np.ones((0, 12))}, r"not features of shape \(0, 12\)"),
        ({"features": [[1.0]] * 600}, "real numbers in an array or tensor"),
        ({"features": np.full((600, 2), "a")}, "real numbers in an array or tensor"),
        ({"features": np.full((600, 2), 1e300)}, "600 of 600 images have features that are not finite"),
        ({"labels": np.zeros(599, int)}, r"600 rows .* not labels of shape \(599,\)"),
        ({"labels": np.zeros(600)}, "must be integers, not float64"),
        ({"labels": np.arange(600) % 5}, "labels range from 0 to 4; with 4 classes they must be 0 to 3"),
        ({"labels": np.arange(600) % 4 - 1}, "labels range from -1"),
        ({"labels": np.full(600, 2)}, "needs at least two classes"),
        ({"weights": np.arange(600) % 4 == 1}, "rows with positive weight have 1"),
        ({"weights": np.arange(600) - 1.0}, "1 of 600 weights are negative"),
        ({"weights": np.full(600, np.nan)}, "600 of 600 weights"),
        ({"weights": np.ones(3)}, r"weights of shape \(3,\)"),
        ({"num_classes": 1}, "at least two classes, not 1"),
        ({"initial": LogisticProbe()}, "cannot be the start"),
    ],
)
def test_a_mistake_is_one_error(change, message):
    features, labels = make_data()
    labels = np.arange(600) % 4
    with pytest.raises(InputError, match=message):
        LogisticProbe().fit(**{"features": features, "labels": labels, "num_classes": 4, **change})


@pytest.mark.parametrize("c", [0, -1.0, math.nan, math.inf, "1"])
def test_a_strength_that_is_none(c):
    with pytest.raises(InputError, match="number above 0"):
        LogisticProbe(c)


def test_mistakes_after_the_fit():
    features, labels = make_data()
    with pytest.raises(InputError, match="call fit first"):
        LogisticProbe().probabilities(features)
    probe = LogisticProbe().fit(features, labels, 4)
    with pytest.raises(InputError, match="7 dimensions, the probe has 12"):
        probe.predictions(features[:, :7])
    with pytest.raises(InputError, match="not finite"):
        probe.probabilities(BAD)
    with pytest.raises(InputError, match="at least one"):
        fit_path(features, labels, 4, [], features, labels)
    with pytest.raises(InputError, match="do not fit a standardizer of 12"):
        Standardizer().fit(features).transform(features[:, :7])
