import itertools
import json
import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medi_monai.metrics import resampling
from medi_monai.metrics.resampling import (
    PatientSampler,
    draw_patients,
    figure,
    holm,
    interval_around,
    mean_figure,
    normal_interval,
    paired_test,
    percentile_interval,
    wilson_interval,
)
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
PATIENTS = np.array([f"p{number}" for number in RNG.integers(0, 9, 50)])
STRATA = np.array(list("abc"))[RNG.integers(0, 3, 50)]


def drawn_patients(rows, patients=PATIENTS):
    """How often each patient was drawn, once it is seen that each came with all of its rows."""
    counts = {}
    for patient in set(patients):
        own = np.flatnonzero(patients == patient)
        times = np.bincount(rows, minlength=len(patients))[own]
        assert len(set(times)) == 1
        counts[patient] = int(times[0])
    return counts


def test_as_many_patients_as_there_are_each_with_all_rows():
    for seed in range(20):
        counts = drawn_patients(draw_patients(PATIENTS, np.random.default_rng(seed)))
        assert sum(counts.values()) == 9


def test_every_patient_is_as_likely_as_any():
    sampler, rng = PatientSampler(PATIENTS), np.random.default_rng(1)
    total = pd.DataFrame([drawn_patients(sampler.draw(rng)) for _ in range(2000)]).sum()
    assert stats.chisquare(total).pvalue > 1e-3


def test_strata_keep_their_number_of_patients():
    sampler, rng = PatientSampler(PATIENTS, STRATA), np.random.default_rng(1)
    for _ in range(20):
        rows = sampler.draw(rng)
        for stratum in "abc":
            own = np.isin(STRATA, [stratum])
            counts = drawn_patients(rows[own[rows]], np.where(own, PATIENTS, "other"))
            counts.pop("other")
            assert sum(counts.values()) == len(set(PATIENTS[own]))


def test_patients_drawn_do_not_depend_on_the_order_of_rows():
    order = RNG.permutation(50)
    for strata in (None, STRATA):
        first = draw_patients(PATIENTS, np.random.default_rng(3), strata)
        second = draw_patients(PATIENTS[order], np.random.default_rng(3), None if strata is None else strata[order])
        assert sorted(first) == sorted(order[second])


def test_one_sampler_draws_what_single_draws_would():
    sampler, rng, other = PatientSampler(PATIENTS, STRATA), np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(3):
        assert np.array_equal(sampler.draw(rng), draw_patients(PATIENTS, other, STRATA))


def test_columns_of_pandas_and_no_rows():
    frame = pd.DataFrame({"patient": PATIENTS, "stratum": STRATA})
    drawn = draw_patients(frame["patient"], np.random.default_rng(0), frame["stratum"])
    assert np.array_equal(drawn, draw_patients(PATIENTS, np.random.default_rng(0), STRATA))
    assert len(draw_patients(np.array([], str), np.random.default_rng(0))) == 0


def test_missing_patients_and_columns_of_unequal_length_are_refused():
    with pytest.raises(InputError, match="1 of 3 rows have no patient"):
        PatientSampler(np.array(["a", None, "b"], object))
    with pytest.raises(InputError, match="1 of 2 rows have no stratum"):
        PatientSampler(np.array(["a", "b"]), np.array([1, np.nan]))
    with pytest.raises(InputError, match="3 strata do not match 2 patients"):
        PatientSampler(np.array(["a", "b"]), np.zeros(3))


def test_intervals_leave_out_what_is_nan():
    replicates = np.append(np.arange(101.0), [np.nan, np.inf])
    assert percentile_interval(replicates) == pytest.approx([2.5, 97.5])
    assert percentile_interval(replicates, 0.5) == pytest.approx([25, 75])
    assert interval_around(10, replicates) == pytest.approx([10 + 2.5 - 50, 10 + 97.5 - 50])
    for undefined in ([], [1.0], [1.0, np.nan]):
        assert percentile_interval(undefined) is None and interval_around(1, undefined) is None
    assert interval_around(float("nan"), replicates) is None


def test_the_shifted_interval_holds_the_truth_where_resampling_is_biased():
    """The squared mean of noise: its bootstrap adds as much bias again as the estimate has."""
    held = {"shifted": 0, "plain": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = rng.normal(0.1, 1, (40, 30))
        replicates = [(values[rng.integers(0, 40, 40)].mean(0) ** 2).sum() for _ in range(200)]
        truth = 30 * 0.1**2 + 30 / 40  # what the estimate is on average
        for name, interval in (
            ("shifted", interval_around((values.mean(0) ** 2).sum(), replicates)),
            ("plain", percentile_interval(replicates)),
        ):
            held[name] += interval[0] <= truth <= interval[1]
    assert held["shifted"] >= 180 and held["plain"] < 120


def test_figures_are_json():
    assert figure(np.float64(2), np.arange(101.0), 7) == {"value": 2.0, "ci95": pytest.approx([2.5, 97.5]), "n": 7}
    assert figure(1.0, n=3) == {"value": 1.0, "ci95": None, "n": 3}
    for undefined in (None, float("nan"), float("inf"), np.float32("nan")):
        assert figure(undefined, np.arange(5.0), 0) == {"value": None, "ci95": None, "n": 0}
    json.dumps(figure(np.float32(0.5), np.arange(5.0), 4), allow_nan=False)


def p_value_by_enumeration(differences):
    observed = abs(math.fsum(differences))
    flips = list(itertools.product([1, -1], repeat=len(differences)))
    extreme = sum(abs(math.fsum(s * d for s, d in zip(flip, differences))) >= observed - 1e-9 for flip in flips)
    return extreme / len(flips)


@pytest.mark.parametrize("n", [2, 3, 7, 10])
@pytest.mark.parametrize("shift", [0, 0.5, 3])
def test_the_sign_flip_test_equals_an_enumeration(n, shift):
    first, second = RNG.normal(shift, 1, n), RNG.normal(0, 1, n)
    result = paired_test(first, second)
    assert result["p_value"] == pytest.approx(p_value_by_enumeration(first - second))
    assert result["n"] == result["difference"]["n"] == n


def test_sums_that_tie_count_as_extreme_in_spite_of_rounding():
    first = [0.1, 0.2, 0.3, -0.3, 0.7, -0.1]
    assert paired_test(first, [0] * 6)["p_value"] == pytest.approx(p_value_by_enumeration(first))
    assert paired_test([0.1, 0.2, -0.3], [0] * 3)["p_value"] == 1
    assert paired_test([0.4] * 5, [0.4] * 5)["p_value"] == 1


def test_the_interval_equals_scipys():
    first, second = RNG.normal(1, 1, 12), RNG.normal(0, 1, 12)
    expected = stats.ttest_rel(first, second)
    difference = paired_test(first, second)["difference"]
    assert difference["value"] == pytest.approx((first - second).mean())
    assert difference["ci95"] == pytest.approx([*expected.confidence_interval(0.95)])


def test_many_pairs_are_drawn_and_come_near_the_enumeration():
    first = RNG.normal(0.4, 1, 12)
    drawn = paired_test(first, np.zeros(12), num_flips=4000)["p_value"]
    assert drawn != paired_test(first, np.zeros(12), num_flips=4000, seed=1)["p_value"]
    assert drawn == paired_test(first, np.zeros(12), num_flips=4000)["p_value"]
    exact = p_value_by_enumeration(first)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))
    assert paired_test(np.arange(1, 41), np.zeros(40), num_flips=999)["p_value"] == 1 / 1000


def test_ten_consistent_seeds_reach_the_smallest_p_value():
    assert paired_test(np.arange(1, 11), np.zeros(10))["p_value"] == 2 / 1024


def test_p_values_under_the_null_are_uniform():
    p_values = [paired_test(*np.random.default_rng(seed).normal(size=(2, 8)))["p_value"] for seed in range(400)]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.04)


def test_pairs_with_nan_are_left_out_and_too_few_are_none():
    result = paired_test([1, 2, math.nan, 4], [0, math.nan, 0, 0])
    assert result["n"] == 2 and result["difference"]["value"] == 2.5 and result["p_value"] == 0.5
    alone = paired_test([1.0], [0.0])
    assert alone == {"difference": {"value": 1.0, "ci95": None, "n": 1}, "p_value": None, "n": 1}
    assert paired_test([], []) == {"difference": {"value": None, "ci95": None, "n": 0}, "p_value": None, "n": 0}


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1]), ([[1], [2]], [[1], [2]]), (3, 4)])
def test_figures_that_are_no_pairs_are_refused(first, second):
    with pytest.raises(InputError, match="two lists of the same length"):
        paired_test(first, second)


def test_holm_equals_the_example_worked_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, then 0.04 raised to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_rejects_what_the_step_down_procedure_rejects():
    p_values = RNG.uniform(0, 0.1, 9)
    adjusted = holm(list(p_values))
    for level in np.linspace(0.001, 0.5, 40):
        rejected = set()
        for step, index in enumerate(np.argsort(p_values)):
            if p_values[index] > level / (9 - step):
                break
            rejected.add(int(index))
        assert rejected == {index for index, value in enumerate(adjusted) if value <= level + 1e-15}


def test_tests_that_could_not_be_made_do_not_count():
    assert holm([0.02, None, 0.04, math.nan]) == [0.04, None, 0.04, None]
    assert holm([]) == [] and holm([None]) == [None] and holm([0.0, 1.0]) == [0.0, 1.0]


def test_signs_in_parts_give_the_same_p_value_in_bounded_memory(monkeypatch):
    differences = np.random.default_rng(3).normal(0.2, 1, 40)
    whole = paired_test(differences, np.zeros(40), 999)["p_value"]
    monkeypatch.setattr(resampling, "SIGNS", 1000)
    assert paired_test(differences, np.zeros(40), 999)["p_value"] == whole
    tracemalloc.start()
    paired_test(np.random.default_rng(4).normal(size=5000), np.zeros(5000), 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.parametrize(("count", "n"), [(0, 20), (7, 20), (20, 20), (1, 1), (300, 2000)])
def test_the_interval_is_that_of_scipy(count, n):
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(count, n), [expected.low, expected.high], atol=1e-12)


def test_no_trial_has_no_interval():
    assert wilson_interval(0, 0) is None


def closed_form(differences):
    """The share of all assignments of signs whose sum is as far from 0 as that at hand."""
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    scale = np.abs(differences).sum()
    return (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12 * scale).sum() / len(signs)


@pytest.mark.parametrize("seed", range(30))
def test_the_exact_p_value_is_that_of_all_signs_to_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 15))
    # steps of 0.1 and of a third are no binary numbers: sums that are equal differ by rounding
    for differences in (rng.normal(size=n), rng.integers(-3, 4, n) * 0.1, np.round(rng.normal(size=n), 1) / 3):
        assert paired_test(differences, np.zeros(n))["p_value"] == closed_form(differences)


def test_normal_intervals_hold_95_percent_and_end_where_the_quantity_does():
    low, high = normal_interval(1.0, 2.0)
    assert stats.norm(1, 2).cdf([low, high]) == pytest.approx([0.025, 0.975])
    assert normal_interval(0.1, 1.0, 0.0, 1.0) == [0.0, 1.0]
    assert normal_interval(0.1, math.nan) is None


def test_an_interval_around_a_distance_does_not_begin_below_zero():
    replicates = np.arange(101)
    assert interval_around(10, replicates, lowest=0.0) == pytest.approx([0, 10 + 97.5 - 50])


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(3).normal(2, 1, 50)
    mean = mean_figure(values)
    low, high = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert mean["value"] == pytest.approx(values.mean()) and mean["n"] == 50
    assert mean["ci95"] == pytest.approx([low, high])
    assert mean_figure(values[:1]) == {"value": values[0], "ci95": None, "n": 1}
    assert mean_figure(None) == mean_figure(values[:0]) == {"value": None, "ci95": None, "n": 0}
