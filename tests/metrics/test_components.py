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


def simulated(rng, difference=0.0, trainings=3, draws=4, clusters=(2, 2, 3, 3), sd=(0.01, 0.01, 0.015, 0.05), own=0.0):
    """Differences of two arms in another study: what trainings, images, training patients and test clusters add.

    ``own``: standard deviation of what training patients, and each training, add to a single test cluster.
    """
    of_trainings, of_images, of_draws, of_tests = sd
    strata = np.repeat(np.arange(len(clusters)), clusters)
    sizes = np.bincount(strata)[strata] * len(clusters)
    shape = (trainings, draws, len(strata))
    units = rng.normal(size=len(strata)) * of_tests + own * rng.normal(size=len(strata))
    units = units + own * (rng.normal(size=(trainings, 1, len(strata))) + rng.normal(size=(1, *shape[1:])))
    study = difference + of_draws * rng.normal()
    of_models = of_trainings * rng.normal(size=(trainings, 1)) + of_images * rng.normal(size=(trainings, 1))
    # draws are bootstrap samples: around what this study has
    values = study + of_models + of_draws * rng.normal(size=(1, draws)) + of_images * rng.normal(size=shape[:2])
    weights, df = cluster_weights(np.arange(len(strata)), strata, 200, rng)
    return estimate(values + (units / sizes).sum(2), values[..., None] + (units / sizes) @ weights.T, df)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"trainings": 10, "draws": 12}, {"clusters": (8, 8, 8, 8)}, {"own": 0.05}, {"trainings": 1, "own": 0.1}],
)
def test_intervals_cover_and_tests_hold_their_level(sizes):
    rng = np.random.default_rng(4)
    found = [simulated(rng, **sizes) for _ in range(1500)]
    covered = np.mean([low <= 0 <= high for low, high in (one.interval() for one in found)])
    # 95 % and 5 %; of 1,500 studies, shares have a standard error of 0.6 %
    assert 0.93 <= covered <= 0.97
    assert np.mean([one.p_value() < 0.05 for one in found]) <= 0.07
    # at the margin itself, arms are called equivalent no more often
    edge = [simulated(rng, 0.1, **sizes).p_value(margin=0.1) < 0.05 for _ in range(1500)]
    assert np.mean(edge) <= 0.07


def test_what_acts_on_single_test_units_counts_once():
    rng = np.random.default_rng(6)
    # nothing but interactions with 400 test units: trainings and draws have no variance of their own
    units = rng.normal(size=(3, 6, 400)) + rng.normal(size=(3, 1, 400)) + rng.normal(size=(1, 6, 400))
    weights, df = cluster_weights(np.arange(400), np.zeros(400, int), 2000, rng)
    found = estimate(units.mean(2), units @ weights.T / 400, df)
    alone = estimate(units.mean(2))
    assert found.sources["test"].variance == pytest.approx((1 / 18 + 1 / 3 + 1 / 6) / 400, rel=0.15)
    assert sum(found.sources[name].variance for name in alone.sources) < 0.5 * alone.standard_error**2
    # replicates that are the same for all values leave the variance between these as it is
    same = estimate(units.mean(2), np.broadcast_to(rng.normal(size=50), (3, 6, 50)), df)
    assert {name: same.sources[name] for name in alone.sources} == pytest.approx(alone.sources)


def test_planted_differences_are_found():
    rng = np.random.default_rng(5)
    found = np.mean([simulated(rng, 0.15, 10, 12).p_value() < 0.05 for _ in range(300)])
    assert found > 0.8
    assert np.mean([simulated(rng, 0.0, 10, 12, sd=(0.005, 0.005, 0.005, 0.02)).p_value(0.05) < 0.05
                    for _ in range(300)]) > 0.8  # fmt: skip


def test_what_cannot_be_known_has_no_interval():
    assert estimate(np.ones((2, 1))).interval() is None
    assert estimate(np.ones((1, 4)), np.ones((1, 4, 5)), 0).interval() is None
    assert np.isnan(estimate(np.ones((3, 1))).standard_error) and estimate(np.ones((3, 1))).p_value() is None
    same = estimate(np.full((2, 3), 0.2))
    assert same.interval() == pytest.approx((0.2, 0.2)) and same.p_value() < 1e-9
    assert same.p_value(0.1) > 1 - 1e-9 and same.p_value(0.3) < 1e-9
    assert estimate(np.zeros((1, 3))).p_value() == 1
    with pytest.raises(InputError, match="matrix"):
        estimate(np.ones(4))
    with pytest.raises(InputError, match=r"\(T, J, B\)"):
        estimate(np.ones((2, 4)), np.ones((4, 5)))
