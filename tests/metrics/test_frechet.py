import doctest

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from medi_monai.metrics import frechet
from medi_monai.metrics.frechet import frechet_distance, frechet_distance_of_moments, frechet_distance_with_interval
from medi_monai.metrics.moments import Moments
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)


class Unchanged(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.num_features = dim

    def forward(self, features):
        return features


def gaussian(mean, covariance):
    """Moments that are those of the distribution itself."""
    moments = Moments(len(mean))
    moments.count = 1001
    moments.mean = torch.as_tensor(mean, dtype=torch.float64)
    moments.scatter = torch.as_tensor(covariance, dtype=torch.float64) * 1000
    return moments


def draw(count, dim, offset=0.0, decades=2, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) * np.logspace(0, -decades / 2, dim)
    return rng.normal(size=(count, dim)) @ mixing.T + offset


def by_torchmetrics(first, second):
    metric = FrechetInceptionDistance(feature=Unchanged(first.shape[1]))
    metric.update(torch.as_tensor(first, dtype=torch.float64), real=True)
    metric.update(torch.as_tensor(second, dtype=torch.float64), real=False)
    return float(metric.compute())


def by_scipy(first, second):
    covariance, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return apart + np.trace(covariance + other - 2 * sqrtm(covariance @ other).real)


def test_gaussians_of_one_dimension_equal_the_closed_form():
    distance = frechet_distance_of_moments(gaussian([1.0], [[4.0]]), gaussian([3.5], [[9.0]]))
    assert distance == pytest.approx(2.5**2 + (2 - 3) ** 2, rel=1e-14)


@pytest.mark.parametrize("decades", [0, 4, 10])
def test_gaussians_whose_covariances_commute_equal_the_closed_form(decades):
    """sum (sqrt a - sqrt b)^2 over the eigenvalues, and the distance of the means."""
    dim = 60
    axes = np.linalg.qr(RNG.normal(size=(dim, dim)))[0]
    variances = np.logspace(0, -decades, dim) * RNG.uniform(0.5, 2, dim)
    others = variances * RNG.uniform(0.8, 1.25, dim)
    means = RNG.normal(0, 0.01, (2, dim))
    closed = ((np.sqrt(variances) - np.sqrt(others)) ** 2).sum() + ((means[0] - means[1]) ** 2).sum()
    covariances = [(axes * values) @ axes.T for values in (variances, others)]
    distance = frechet_distance_of_moments(*(gaussian(mean, s) for mean, s in zip(means, covariances)))
    assert distance == pytest.approx(closed, rel=1e-9)


def test_singular_covariances_equal_the_closed_form():
    dim = 40
    axes = np.linalg.qr(RNG.normal(size=(dim, dim)))[0]
    variances, others = np.zeros(dim), np.zeros(dim)
    variances[:25], others[15:] = RNG.uniform(0.5, 2, (2, 25))
    covariances = [(axes * values) @ axes.T for values in (variances, others)]
    distance = frechet_distance_of_moments(*(gaussian(np.zeros(dim), s) for s in covariances))
    assert distance == pytest.approx(((np.sqrt(variances) - np.sqrt(others)) ** 2).sum(), rel=1e-10)


def test_large_samples_of_gaussians_come_near_the_closed_form():
    rng = np.random.default_rng(1)
    deviations = np.array([[1.0, 2.0, 0.5], [1.5, 1.0, 0.5]])
    first, second = (
        rng.normal([0, 0, 0], deviations[0], (200_000, 3)),
        rng.normal([1, 0, 0], deviations[1], (200_000, 3)),
    )
    assert frechet_distance(first, second) == pytest.approx(1 + ((deviations[0] - deviations[1]) ** 2).sum(), rel=0.02)


@pytest.mark.parametrize(("dim", "decades"), [(3, 0), (64, 2), (128, 4)])
def test_equals_torchmetrics_on_the_same_features(dim, decades):
    """Never skipped: the extractor is the identity, so that no weights are needed."""
    first, second = draw(700, dim, decades=decades), draw(500, dim, 0.3, decades=decades, seed=1)
    assert frechet_distance(first, second) == pytest.approx(by_torchmetrics(first, second), rel=1e-6)


@pytest.mark.parametrize("dim", [2, 30])
def test_equals_the_root_of_scipy(dim):
    first, second = draw(300, dim), draw(200, dim, 0.5, seed=1)
    assert frechet_distance(first, second) == pytest.approx(by_scipy(first, second), rel=1e-8)


@pytest.mark.parametrize("decades", [0, 2, 4])
def test_both_ways_to_the_trace_agree_and_the_slower_is_taken_where_digits_are_lost(monkeypatch, decades):
    first, second = draw(300, 50, decades=decades), draw(300, 50, 0.1, decades=decades, seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(frechet, "_root", None)
        fast = frechet_distance(first, second)
    monkeypatch.setattr(frechet, "TOLERANCE", -1)
    assert fast == pytest.approx(frechet_distance(first, second), rel=1e-9)
    monkeypatch.undo()
    # singular, and hardly different
    for pair in ((draw(40, 50), second), (first, first + 1e-6)):
        with monkeypatch.context() as patched, pytest.raises(TypeError):
            patched.setattr(frechet, "_root", None)
            frechet_distance(*pair)


@pytest.mark.parametrize(("count", "other"), [(10, 30), (30, 10), (2, 2), (39, 39), (2, 39)])
def test_fewer_images_than_dimensions_equal_the_path_of_moments(count, other):
    first, second = draw(count, 40), draw(other, 40, 0.5, seed=1)
    through_moments = frechet_distance_of_moments(Moments.of(first), Moments.of(second))
    assert frechet_distance(first, second) == pytest.approx(through_moments, rel=1e-10)
    assert frechet_distance(first, second) == pytest.approx(by_torchmetrics(first, second), rel=1e-4)


@pytest.mark.parametrize("count", [20, 200])
def test_alike_sets_are_at_distance_0_and_order_does_not_matter(count):
    first, second = draw(count, 40), draw(count + 7, 40, 0.2, seed=1)
    size = np.var(first, axis=0).sum()
    assert frechet_distance(first, first[::-1].copy()) == pytest.approx(0, abs=1e-10 * size)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)
    assert frechet_distance(first + 5, second + 5) == pytest.approx(frechet_distance(first, second), rel=1e-9)
    assert frechet_distance(10 * first, 10 * second) == pytest.approx(100 * frechet_distance(first, second), rel=1e-9)


def test_streamed_moments_equal_one_array():
    first, second = draw(300, 20), draw(400, 20, 0.5, seed=1)
    streamed = Moments(20)
    for batch in np.split(first[RNG.permutation(300)], [7, 80]):
        streamed.merge(Moments.of(batch))
    assert frechet_distance_of_moments(streamed, Moments.of(second)) == pytest.approx(frechet_distance(first, second))


@pytest.mark.parametrize("count", [3, 50])
def test_constant_features_are_no_error(count):
    constant, other = np.full((count, 10), 2.0), draw(count, 10)
    assert frechet_distance(constant, constant) == 0
    assert frechet_distance(constant, constant + 1) == pytest.approx(10)
    expected = other.var(0, ddof=1).sum() + ((other.mean(0) - 2) ** 2).sum()
    assert frechet_distance(constant, other) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(other, constant) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dim", [2, 9])
def test_too_few_images_are_one_error(dim):
    for pair in ((draw(1, dim), draw(5, dim)), (draw(5, dim), draw(1, dim)), (draw(0, dim), draw(5, dim))):
        with pytest.raises(InputError, match="at least two images, not [01]"):
            frechet_distance(*pair)


def test_other_dimensions_and_values_that_are_not_finite_are_one_error():
    with pytest.raises(InputError, match="of 3 and 4 dimensions"):
        frechet_distance(draw(5, 3), draw(5, 4))
    with pytest.raises(InputError, match="of 3 and 4 dimensions"):
        frechet_distance_of_moments(Moments(3), Moments(4))
    for dim in (3, 9):
        spoiled = draw(5, dim)
        spoiled[2, 1] = np.nan
        with pytest.raises(InputError, match="1 of 5 images"):
            frechet_distance(draw(5, dim), spoiled)


@pytest.mark.parametrize("dim", [3, 9])
def test_features_too_large_for_a_square_are_no_0(dim):
    with pytest.raises(InputError, match="5 of 5 images .* beyond 1e.40"):
        frechet_distance(draw(5, dim) * 1e200, draw(5, dim, seed=1))


def test_the_interval_holds_the_value_where_that_of_the_percentiles_lies_above():
    real, generated = RNG.normal(size=(120, 24)), RNG.normal(0.2, 1, (120, 24))
    distance = frechet_distance_with_interval(real, generated)
    assert distance["value"] == frechet_distance(real, generated) and distance["n"] == 120
    low, high = distance["ci95"]
    assert low < distance["value"] < high
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 120, (40, 2, 120))
    plain = [frechet_distance(real[first], generated[second]) for first, second in rows]
    assert np.quantile(plain, 0.025) > distance["value"], "or this test shows little"
    # as wide as that of the percentiles, at another place
    assert high - low == pytest.approx(np.subtract(*np.quantile(plain, [0.975, 0.025])), rel=0.4)


def test_the_interval_of_a_distance_holds_its_expectation_in_most_draws():
    def sets(seed):
        rng = np.random.default_rng(seed)
        return rng.normal(size=(60, 3)), rng.normal(0.7, 1, (60, 3))

    expected = np.mean([frechet_distance(*sets(seed)) for seed in range(1000, 1400)])
    intervals = np.array([frechet_distance_with_interval(*sets(seed), num_replicates=60)["ci95"] for seed in range(80)])
    held = (intervals[:, 0] <= expected) & (expected <= intervals[:, 1])
    assert 0.85 <= held.mean() <= 1


def test_patients_make_the_interval_wider_than_images():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), 10)
    real, generated = rng.normal(size=(12, 4))[patients] + 0.1 * rng.normal(size=(120, 4)), rng.normal(size=(200, 4))
    widths = [
        np.subtract(*frechet_distance_with_interval(real, generated, units)["ci95"][::-1]) for units in (None, patients)
    ]
    assert widths[1] > 1.5 * widths[0]
    # a single patient is taken by image
    single = frechet_distance_with_interval(real, generated, np.zeros(120))
    assert single == frechet_distance_with_interval(real, generated)
    assert frechet_distance_with_interval(real, real.copy())["ci95"][0] == 0


def test_an_interval_needs_replicates_and_a_patient_of_each_image():
    with pytest.raises(InputError, match="two replicates"):
        frechet_distance_with_interval(draw(5, 3), draw(5, 3), num_replicates=1)
    with pytest.raises(InputError, match="4 patients do not match 5 images"):
        frechet_distance_with_interval(draw(5, 3), draw(5, 3), np.arange(4))


def test_the_example_of_the_documentation_runs():
    assert doctest.testmod(frechet).attempted > 3 and doctest.testmod(frechet).failed == 0
