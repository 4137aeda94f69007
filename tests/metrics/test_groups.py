import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from medi_monai.metrics.groups import (
    GroupConfusion,
    accuracy,
    auroc,
    balanced_accuracy,
    calibration_error,
    equal_opportunity_gap,
    equalized_odds_gap,
    matthews_correlation,
    worst_group_accuracy,
)
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
N, CLASSES, GROUPS = 600, 4, 7
TARGETS = RNG.choice(CLASSES, N, p=[0.5, 0.3, 0.15, 0.05])
PREDICTED = np.where(RNG.random(N) < 0.6, TARGETS, RNG.integers(0, CLASSES, N))
#: group 5 holds one class, group 6 no member
CODES = RNG.integers(0, 5, N)
CODES[(TARGETS == 1) & (RNG.random(N) < 0.1)] = 5
NAMES = [f"center {number}" for number in range(GROUPS)]


def confusions(predicted=PREDICTED, targets=TARGETS, groups=CODES):
    counts = np.zeros((GROUPS, CLASSES, CLASSES), int)
    for p, t, g in zip(predicted, targets, groups):
        counts[g, t, p] += 1
    return counts


CONFUSIONS = confusions()


def members(group):
    return np.equal(CODES, group)


def quietly(function, *arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **settings)


def columns(predicted=PREDICTED, targets=TARGETS, groups=CODES):
    return [torch.as_tensor(codes) for codes in (predicted, targets, groups)]


def test_counts_of_batches_equal_a_loop():
    metric = GroupConfusion(GROUPS, CLASSES)
    for rows in np.array_split(RNG.permutation(N), 9):
        metric.update(*columns(PREDICTED[rows], TARGETS[rows], CODES[rows]))
    assert metric.compute().dtype == torch.int64
    assert np.array_equal(metric.compute(), CONFUSIONS)
    metric.reset()
    metric.update(*columns([], [], []))
    assert metric.compute().sum() == 0


def test_counts_of_processes_are_added_up():
    first, second = GroupConfusion(GROUPS, CLASSES), GroupConfusion(GROUPS, CLASSES)
    first.update(*columns(PREDICTED[:100], TARGETS[:100], CODES[:100]))
    second.update(*columns(PREDICTED[100:], TARGETS[100:], CODES[100:]))
    reduced = first._reductions["confusion"](torch.stack([first.confusion, second.confusion]))
    assert np.array_equal(reduced, CONFUSIONS)


def test_a_forward_pass_gives_the_batch_and_keeps_the_sum():
    metric = GroupConfusion(GROUPS, CLASSES)
    for rows in np.array_split(np.arange(N), 3):
        batch = metric(*columns(PREDICTED[rows], TARGETS[rows], CODES[rows]))
        assert np.array_equal(batch, confusions(PREDICTED[rows], TARGETS[rows], CODES[rows]))
    assert np.array_equal(metric.compute(), CONFUSIONS)


@pytest.mark.parametrize(
    ("column", "code", "message"),
    [
        (0, CLASSES, "predicted class must be 0 to 3, not 0 to 4"),
        (1, -1, "target must be 0 to 3, not -1"),
        (2, 7, "group must be 0"),
    ],
)
def test_codes_out_of_range_are_refused_and_nothing_is_counted(column, code, message):
    codes = columns(np.arange(3), np.arange(3), np.arange(3))
    codes[column][2] = code
    metric = GroupConfusion(GROUPS, CLASSES)
    codes[column] = codes[column].roll(1)
    with pytest.raises(InputError, match=message):
        metric.update(*codes)
    assert metric.confusion.sum() == 0


def test_columns_of_unequal_length_and_no_groups_are_refused():
    with pytest.raises(InputError, match="must have the same length"):
        GroupConfusion(GROUPS, CLASSES).update(*columns(PREDICTED[:-1]))
    with pytest.raises(InputError, match="0 groups"):
        GroupConfusion(0, CLASSES)


def test_figures_of_every_group_equal_scikit_learns():
    by_metric = balanced_accuracy(CONFUSIONS), accuracy(CONFUSIONS), matthews_correlation(CONFUSIONS)
    for group in range(5):
        own = members(group)
        expected = [
            quietly(function, TARGETS[own], PREDICTED[own])
            for function in (
                sklearn_metrics.balanced_accuracy_score,
                sklearn_metrics.accuracy_score,
                sklearn_metrics.matthews_corrcoef,
            )
        ]
        assert [figures[group] for figures in by_metric] == pytest.approx(expected, rel=1e-12)


def test_a_class_that_is_predicted_but_has_no_target_does_not_count():
    confusion = np.array([[8, 0, 2], [1, 9, 0], [0, 0, 0]])
    assert balanced_accuracy(confusion) == pytest.approx(0.85)
    assert balanced_accuracy(torch.as_tensor(confusion)) == pytest.approx(0.85)


def test_leading_axes_are_kept():
    stacked = np.stack([CONFUSIONS, 2 * CONFUSIONS])
    for function in (balanced_accuracy, accuracy, matthews_correlation):
        assert function(stacked).shape == (2, GROUPS)
        assert function(stacked)[1] == pytest.approx(function(CONFUSIONS), nan_ok=True)


def test_what_is_undefined_is_nan():
    for function in (balanced_accuracy, accuracy, matthews_correlation):
        assert math.isnan(function(np.zeros((3, 3), int)))
        assert math.isnan(function(CONFUSIONS)[6])
    # one class among the targets, or among the predictions
    assert math.isnan(matthews_correlation(np.array([[3, 4], [0, 0]])))
    assert math.isnan(matthews_correlation(np.array([[3, 0], [4, 0]])))


def test_correlation_of_millions_of_rows_does_not_overflow():
    large = np.array([[9, 1], [2, 8]]) * 10**8
    assert matthews_correlation(large) == pytest.approx(matthews_correlation(large // 10**8))


@pytest.mark.parametrize("min_count", [1, 30, 116])  # a group has 116 members
def test_the_worst_group_equals_a_loop(min_count):
    scores = {}
    for group in range(GROUPS):
        own = members(group)
        if own.sum() >= min_count:
            scores[NAMES[group]] = sklearn_metrics.accuracy_score(TARGETS[own], PREDICTED[own])
    result = worst_group_accuracy(CONFUSIONS, NAMES, min_count)
    worst = min(scores, key=scores.get)
    assert result["group"] == worst and result["value"] == pytest.approx(scores[worst])
    assert result["n"] == members(NAMES.index(worst)).sum()
    assert result["num_groups"] == len(scores)
    assert result["num_too_small"] == 6 - len(scores) and result["num_empty"] == 1
    counts = np.stack([CONFUSIONS.trace(axis1=1, axis2=2), CONFUSIONS.sum((1, 2))], 1)
    assert worst_group_accuracy(torch.as_tensor(counts), NAMES, min_count) == result


def test_of_equally_bad_groups_the_earlier_and_where_there_is_none_nan():
    assert worst_group_accuracy(np.array([[3, 4], [1, 2], [2, 4]]), ["a", "b", "c"])["group"] == "b"
    result = worst_group_accuracy(np.array([[1, 2], [0, 0]]), ["a", "b"], min_count=3)
    assert math.isnan(result.pop("value"))
    assert result == {"group": None, "n": 0, "num_groups": 0, "num_too_small": 1, "num_empty": 1}
    assert math.isnan(worst_group_accuracy(np.zeros((0, 2)), [])["value"])


def gap_by_loops(events, totals, min_count):
    gaps = []
    for code in range(CLASSES):
        rates = [e[code] / t[code] for e, t in zip(events, totals) if t[code] >= min_count]
        gaps.append(max((abs(a - b) for a, b in itertools.combinations(rates, 2)), default=math.nan))
    return gaps


@pytest.mark.parametrize("min_count", [1, 5, 20])
def test_gaps_equal_loops_over_scikit_learns_rates(min_count):
    tables = [
        quietly(sklearn_metrics.multilabel_confusion_matrix, TARGETS[own], PREDICTED[own], labels=range(CLASSES))
        for own in map(members, range(6))
    ]
    recalls = gap_by_loops([t[:, 1, 1] for t in tables], [t[:, 1].sum(1) for t in tables], min_count)
    false_positives = gap_by_loops([t[:, 0, 1] for t in tables], [t[:, 0].sum(1) for t in tables], min_count)
    gap = equal_opportunity_gap(CONFUSIONS, min_count)
    assert gap["by_class"] == pytest.approx(recalls, nan_ok=True)
    assert gap["value"] == pytest.approx(np.nanmax(recalls)) and gap["class"] == np.nanargmax(recalls)
    assert gap["num_classes"] == np.isfinite(recalls).sum()
    odds = equalized_odds_gap(CONFUSIONS, min_count)
    np.testing.assert_equal(odds["recall"], gap)
    assert odds["false_positive_rate"]["by_class"] == pytest.approx(false_positives, nan_ok=True)
    assert odds["value"] == pytest.approx(max(np.nanmax(recalls), np.nanmax(false_positives)))


def test_counts_beside_a_gap():
    gap = equal_opportunity_gap(np.array([[[4, 1], [0, 1]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]), min_count=2)
    assert gap["value"] == pytest.approx(0.8 - 0.5) and gap["class"] == 0 and gap["num_classes"] == 1
    assert gap["num_groups"] == [2, 0] and gap["n"] == [7, 0] and math.isnan(gap["by_class"][1])


@pytest.mark.parametrize("table", [CONFUSIONS[:1], CONFUSIONS[6:], np.zeros((0, 4, 4))], ids=["one", "empty", "none"])
def test_a_gap_needs_two_groups(table):
    gap = equal_opportunity_gap(table)
    assert math.isnan(gap["value"]) and gap["class"] is None and gap["num_classes"] == 0
    assert len(gap["by_class"]) == 4 and max(gap["num_groups"]) < 2
    assert math.isnan(equalized_odds_gap(table)["value"])


def test_odds_are_undefined_where_either_gap_is():
    one_class_each = np.array([[[3, 1], [0, 0]], [[0, 0], [1, 4]]])
    gap = equalized_odds_gap(one_class_each)
    assert math.isnan(gap["value"]) and math.isnan(gap["recall"]["value"])


def test_a_fair_classifier_has_no_gap():
    assert equalized_odds_gap(np.stack([CONFUSIONS[0]] * 3))["value"] == 0


PROBABILITIES = RNG.dirichlet(np.ones(CLASSES), N) * 0.6 + 0.4 * np.eye(CLASSES)[PREDICTED]


def test_auroc_equals_scikit_learns():
    expected = sklearn_metrics.roc_auc_score(TARGETS, PROBABILITIES, multi_class="ovr", average="macro")
    area = auroc(PROBABILITIES, TARGETS)
    assert area["value"] == pytest.approx(expected, rel=1e-6)
    assert (area["num_classes"], area["n"]) == (CLASSES, N)


def test_auroc_with_ties_and_of_two_classes():
    scores, targets = RNG.integers(0, 5, 200) / 4, RNG.integers(0, 2, 200)
    area = auroc(np.stack([1 - scores, scores], 1), targets)
    assert area["value"] == pytest.approx(sklearn_metrics.roc_auc_score(targets, scores), rel=1e-6)


def test_auroc_leaves_out_classes_without_targets():
    own = TARGETS < 2
    expected = [sklearn_metrics.roc_auc_score(TARGETS[own] == c, PROBABILITIES[own][:, c]) for c in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        area = auroc(torch.as_tensor(PROBABILITIES[own]), torch.as_tensor(TARGETS[own]))
    assert area["value"] == pytest.approx(np.mean(expected), rel=1e-6) and area["num_classes"] == 2


def test_auroc_of_one_class_or_of_nothing_is_nan_with_its_count():
    for count in (5, 0):
        area = auroc(PROBABILITIES[:count], np.ones(count, int))
        assert math.isnan(area.pop("value")) and area == {"num_classes": 0, "n": count}


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_error_equals_a_loop_over_bins(num_bins):
    confidence, right = PROBABILITIES.max(1), PROBABILITIES.argmax(1) == TARGETS
    expected = 0.0
    for low in range(num_bins):
        own = (confidence >= low / num_bins) & (confidence < (low + 1) / num_bins)
        if own.any():
            expected += own.mean() * abs(right[own].mean() - confidence[own].mean())
    error = calibration_error(PROBABILITIES, TARGETS, num_bins)
    assert error == {"value": pytest.approx(expected, abs=1e-5), "n": N}


def test_calibration_error_of_the_calibrated_the_overconfident_and_nothing():
    confident = np.eye(2)[np.zeros(100, int)]
    assert calibration_error(confident, np.repeat([0, 1], [70, 30]))["value"] == pytest.approx(0.3)
    assert calibration_error(confident * 0.4 + 0.3, np.repeat([0, 1], [70, 30]))["value"] == pytest.approx(0, abs=1e-6)
    error = calibration_error(np.zeros((0, 3)), np.zeros(0, int))
    assert math.isnan(error["value"]) and error["n"] == 0


def test_probabilities_and_targets_that_do_not_fit_are_refused():
    for function in (auroc, calibration_error):
        with pytest.raises(InputError, match="do not match targets"):
            function(PROBABILITIES, TARGETS[:-1])
        with pytest.raises(InputError, match="between 0 and 1"):
            function(10 * PROBABILITIES, TARGETS)
        with pytest.raises(InputError, match="without NaN"):
            function(PROBABILITIES * np.nan, TARGETS)
        with pytest.raises(InputError, match="targets must be 0 to 3, not 1 to 4"):
            function(PROBABILITIES[:2], [1, 4])
    with pytest.raises(InputError, match="num_bins = 0"):
        calibration_error(PROBABILITIES, TARGETS, 0)


def test_counts_that_are_no_confusions_are_refused():
    for wrong in (np.zeros(3), np.zeros((2, 3)), np.zeros((2, 3, 4))):
        with pytest.raises(InputError, match="confusions have to be"):
            balanced_accuracy(wrong)
    for function in (equal_opportunity_gap, equalized_odds_gap):
        with pytest.raises(InputError, match="confusions have to be .groups, classes, classes."):
            function(CONFUSIONS[0])
    for wrong in (np.array([[1, -1], [0, 2]]), np.array([[1, np.nan], [0, 2]]), np.array([["a"]])):
        with pytest.raises(InputError, match="must not be negative"):
            accuracy(wrong)


def test_counts_and_names_that_do_not_fit_are_refused():
    for wrong, names in ((CONFUSIONS, NAMES[:-1]), (np.ones((3, 3)), list("abc")), (np.array([[2, 1]]), ["a"])):
        with pytest.raises(InputError, match="a name per group"):
            worst_group_accuracy(wrong, names)
    for function in (equal_opportunity_gap, lambda table, m: worst_group_accuracy(table, NAMES, m)):
        with pytest.raises(InputError, match="min_count = 0"):
            function(CONFUSIONS, 0)


def test_thousands_of_mostly_empty_groups():
    metric = GroupConfusion(32 * 185, 32)
    rng = np.random.default_rng(2)
    metric.update(*(torch.as_tensor(codes) for codes in (*rng.integers(0, 32, (2, 5000)), rng.integers(0, 300, 5000))))
    worst = worst_group_accuracy(metric.compute(), range(32 * 185), min_count=10)
    assert worst["num_groups"] + worst["num_too_small"] + worst["num_empty"] == 32 * 185
    assert worst["num_empty"] >= 32 * 185 - 300


def test_a_confidence_of_one_is_in_the_last_bin():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0], [0.95, 0.05], [0.95, 0.05]])
    # all four share the bin from 14/15 to 1: right in three of four, at a mean confidence of 0.975
    error = calibration_error(probabilities, np.array([1, 0, 0, 0]))
    assert error["value"] == pytest.approx(0.225, abs=1e-6)
