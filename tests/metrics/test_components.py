"""Variance by source, against closed forms and simulations of what another study would draw anew."""

import numpy as np
import pytest
from scipy import stats

from medi_monai.metrics import cluster_weights, estimate
from medi_monai.utils.errors import InputError


def test_one_training_has_the_t_interval_of_its_draws():
    values = np.random.default_rng(0).normal(size=(1, 8))
    found = estimate(values)
    # the variance of one draw, as a bootstrap sample stands for a study, and that of the mean of eight
    expected = stats.t.interval(0.95, 7, values.mean(), values.std(ddof=1) * np.sqrt(1 + 1 / 8))
    assert found.interval() == pytest.approx(expected) and found.df == pytest.approx(7)
    assert set(found.sources) == {"draws"} and found.value == pytest.approx(values.mean())
    edge = found.value - found.interval()[0]
    assert found.p_value() == pytest.approx(2 * stats.t.sf(abs(found.value) / found.standard_error, 7))
    assert estimate(values - values.mean() + edge).p_value() == pytest.approx(0.05)


def test_sources_of_a_balanced_design_are_those_of_the_analysis_of_variance():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 6)) + 0.3 * rng.normal(size=(5, 6))
    rows, columns = values.mean(1), values.mean(0)
    ms_rows, ms_columns = 6 * rows.var(ddof=1), 5 * columns.var(ddof=1)
    ms_error = (((values - rows[:, None] - columns + values.mean()) ** 2).sum()) / 20
    found = estimate(values).sources
    assert found["trainings"].variance == pytest.approx((ms_rows - ms_error) / 6 / 5) and found["trainings"].df == 4
    assert found["images"].variance == pytest.approx(ms_error / 5 * (1 + 1 / 6)) and found["images"].df == 20
    assert found["draws"].variance == pytest.approx((ms_columns - ms_error) / 5 * (1 + 1 / 6))
    # identical trainings have no variance of their own
    assert estimate(np.tile(values[:1], (4, 1))).sources["trainings"].variance == 0


def test_weights_of_clusters_give_the_unbiased_variance_of_a_sum():
    clusters, strata = np.array([0, 0, 1, 2, 3, 3, 4, 9]), np.array([0, 0, 0, 0, 1, 1, 1, 2])
    numbers = np.random.default_rng(2).normal(size=8)
    weights, df = cluster_weights(clusters, strata, 200_000, np.random.default_rng(3))
    sums = np.array([numbers[clusters == name].sum() for name in (0, 1, 2, 3, 4)])
    expected = 3 * sums[:3].var(ddof=1) + 2 * sums[3:].var(ddof=1)
    assert df == 3 and (weights[:, 7] == 1).all() and (weights[:, 0] == weights[:, 1]).all()
    assert (weights @ numbers).var() == pytest.approx(expected, rel=0.02)
    assert weights.mean(0) == pytest.approx(np.ones(8), abs=0.01)


def simulated(rng, difference=0.0, trainings=3, draws=4, clusters=(2, 2, 3, 3), sd=(0.01, 0.01, 0.015, 0.05)):
    """Differences of two arms in another study: what trainings, images, training patients and test clusters add."""
    of_trainings, of_images, of_draws, of_tests = sd
    strata = np.repeat(np.arange(len(clusters)), clusters)
    units = rng.normal(size=len(strata)) * of_tests
    sizes = np.bincount(strata)[strata] * len(clusters)
    study = difference + of_draws * rng.normal()
    own = of_trainings * rng.normal(size=(trainings, 1)) + of_images * rng.normal(size=(trainings, 1))
    # draws are bootstrap samples: around what this study has
    values = study + own + of_draws * rng.normal(size=(1, draws)) + of_images * rng.normal(size=(trainings, draws))
    weights, df = cluster_weights(np.arange(len(strata)), strata, 200, rng)
    return estimate(values + (units / sizes).sum(), weights @ (units / sizes), df)


@pytest.mark.parametrize("sizes", [{}, {"trainings": 10, "draws": 12}, {"clusters": (8, 8, 8, 8)}])
def test_intervals_cover_and_tests_hold_their_level(sizes):
    rng = np.random.default_rng(4)
    found = [simulated(rng, **sizes) for _ in range(1500)]
    covered = np.mean([low <= 0 <= high for low, high in (one.interval() for one in found)])
    assert 0.93 <= covered <= 0.985
    assert np.mean([one.p_value() < 0.05 for one in found]) <= 0.06
    # at the margin itself, equivalence is claimed in no more than 5 %
    edge = [simulated(rng, 0.1, **sizes).p_value(margin=0.1) < 0.05 for _ in range(1500)]
    assert np.mean(edge) <= 0.06


def test_planted_differences_are_found():
    rng = np.random.default_rng(5)
    found = np.mean([simulated(rng, 0.15, 10, 12).p_value() < 0.05 for _ in range(300)])
    assert found > 0.8
    assert np.mean([simulated(rng, 0.0, 10, 12, sd=(0.005, 0.005, 0.005, 0.02)).p_value(0.05) < 0.05
                    for _ in range(300)]) > 0.8  # fmt: skip


def test_what_cannot_be_known_has_no_interval():
    assert estimate(np.ones((2, 1))).interval() is None and estimate(np.ones((1, 4)), np.ones(5), 0).interval() is None
    assert np.isnan(estimate(np.ones((3, 1))).standard_error) and estimate(np.ones((3, 1))).p_value() is None
    same = estimate(np.full((2, 3), 0.2))
    assert same.interval() == pytest.approx((0.2, 0.2)) and same.p_value() < 1e-9
    assert same.p_value(0.1) > 1 - 1e-9 and same.p_value(0.3) < 1e-9
    assert estimate(np.zeros((1, 3))).p_value() == 1
    with pytest.raises(InputError, match="matrix"):
        estimate(np.ones(4))
