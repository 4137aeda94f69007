from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from medi_monai.evaluation.probing.draws import (
    FIGURES,
    FIGURES_OF_COUNTS,
    ArmDraw,
    ArmScores,
    DemographicGaps,
    WorstGroup,
)
from medi_monai.evaluation.probing.tables import (
    compare_arms,
    long_table,
    summarize_arm,
)
from medi_monai.metrics import holm
from medi_monai.results import Figure
from medi_monai.results.probing import GroupAccuracy, Training

DRAWS, REPLICATES = 10, 200
#: degrees of freedom of the test units
TEST_DF = dict.fromkeys(FIGURES_OF_COUNTS, 12)


def draws(effect=0.0, seed=0, noise=0.01, of_test=0.004, count=DRAWS):
    """One arm: a figure in every draw of training data, and in bootstrap samples of the test units."""
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal(REPLICATES) * of_test
    arm_draws = []
    for value in 0.5 + effect + rng.standard_normal(count) * noise:
        value = float(value)
        scores = ArmScores(
            figures=dict.fromkeys(FIGURES, value),
            replicates=dict.fromkeys(FIGURES_OF_COUNTS, (value + spread).tolist()),
            worst_group=WorstGroup(value, ("A", "n"), 12, 3, 1, 0),
            per_center={"n": GroupAccuracy(value, 5, 2)},
            per_class={"A": GroupAccuracy(None, 0)},
            demographics={"sex": DemographicGaps(None, value, {"f": 3, "m": 4})},
        )
        arm_draws.append(ArmDraw(scores, Training(10, 0, 1.0, True)))
    return arm_draws


def values_of(of_arm, name="balanced_accuracy"):
    return np.array([draw.scores.figures[name] for draw in of_arm])


def replicates_of(of_arm, name="balanced_accuracy"):
    return np.mean([draw.scores.replicates[name] for draw in of_arm], axis=0)


def changed(draw, **scores):
    return replace(draw, scores=replace(draw.scores, **scores))


def test_null_arms_are_alike_and_a_planted_effect_is_found():
    by_arm = {"medi": [draws(0.3)], "real": [draws(seed=1)], "cls": [draws(0.3, seed=2)]}
    compared = compare_arms(by_arm, "medi", TEST_DF, 0.05)
    rows = {(row.figure, row.arms[1]): row for row in compared}
    assert set(rows) == {(figure, arm) for figure in FIGURES for arm in ("real", "cls")}
    effect, null = rows["balanced_accuracy", "real"], rows["balanced_accuracy", "cls"]
    assert effect.p_value < 0.001 and effect.difference.value == pytest.approx(0.3, abs=0.02)
    assert effect.difference.ci95[0] > 0.2 and effect.p_equivalence > 0.99
    assert null.p_value > 0.05 and null.difference.ci95[0] < 0 < null.difference.ci95[1]
    assert null.p_equivalence < 0.05
    assert rows["mcc", "cls"].p_value > 0.05 and rows["mcc", "real"].p_value < 0.01
    for figure in FIGURES_OF_COUNTS:
        expected = holm([rows[figure, arm].p_value for arm in ("real", "cls")])
        assert [rows[figure, arm].p_holm for arm in ("real", "cls")] == expected
    # what does not account for other test images has an interval, and no p value
    assert rows["auroc", "real"].p_value is None and rows["auroc", "real"].difference.ci95 is not None
    assert set(rows["auroc", "real"].variance) == {"draws"} and set(effect.variance) == {"draws", "test"}


def test_the_difference_is_that_of_pairs_with_the_variance_of_draws_and_of_test_units():
    first, second = draws(0.1, seed=3), draws(seed=4)
    row = compare_arms({"medi": [first], "real": [second]}, "medi", TEST_DF)[0]
    gaps = values_of(first) - values_of(second)
    of_test = (replicates_of(first) - replicates_of(second)).var(ddof=1)
    variance = gaps.var(ddof=1) * (1 + 1 / DRAWS) + of_test
    df = variance**2 / ((variance - of_test) ** 2 / (DRAWS - 1) + of_test**2 / 12)
    assert row.difference.ci95 == pytest.approx(stats.t.interval(0.95, df, gaps.mean(), variance**0.5))
    assert row.standard_error == pytest.approx(variance**0.5) and row.df == pytest.approx(df)
    assert row.p_equivalence is None


def test_trainings_count_as_a_source_of_variance():
    medi = [draws(effect, seed=seed) for seed, effect in enumerate((0.02, 0.1, 0.18))]
    row = compare_arms({"medi": medi, "real": [draws(seed=9)]}, "medi", TEST_DF)[0]
    alone = compare_arms({"medi": medi[1:2], "real": [draws(seed=9)]}, "medi", TEST_DF)[0]
    means = [values_of(of_training).mean() for of_training in medi]
    assert row.difference.value == pytest.approx(np.mean(means) - values_of(draws(seed=9)).mean())
    assert row.variance["trainings"] == pytest.approx(np.var(means, ddof=1) / 3, rel=0.05)
    assert row.standard_error > 2 * alone.standard_error and row.p_value > 0.05 > alone.p_value
    summary = summarize_arm(medi, 77, 55, TEST_DF)
    assert (
        summary.balanced_accuracy.trainings == pytest.approx(means) and len(summary.balanced_accuracy.repeats) == DRAWS
    )


def test_one_draw_and_one_arm_have_no_test():
    row = compare_arms({"medi": [draws(count=1)], "real": [draws(seed=1, count=1)]}, "medi", TEST_DF)[0]
    assert row.p_value is None and row.p_holm is None and row.difference.value is not None
    assert compare_arms({"medi": [draws()]}, "medi", TEST_DF) == ()
    # test units that leave no degree of freedom say nothing about others
    row = compare_arms({"medi": [draws()], "real": [draws(seed=1)]}, "medi", dict.fromkeys(FIGURES_OF_COUNTS, 0))[0]
    assert row.p_value is None and row.difference.ci95 is None


def test_figures_have_intervals_over_test_units_and_draws_and_what_is_missing_stays_so():
    of_arm = draws()
    of_arm[0] = changed(of_arm[0], figures={**of_arm[0].scores.figures, "mcc": None})
    summary = summarize_arm([of_arm], 77, 55, TEST_DF)
    values, of_test = values_of(of_arm), replicates_of(of_arm).var(ddof=1)
    variance = values.var(ddof=1) * (1 + 1 / DRAWS) + of_test
    low, high = summary.balanced_accuracy.ci95
    assert summary.balanced_accuracy.value == pytest.approx(values.mean())
    df = variance**2 / ((variance - of_test) ** 2 / (DRAWS - 1) + of_test**2 / 12)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, df, values.mean(), variance**0.5))
    assert summary.auroc.ci95[1] - summary.auroc.ci95[0] < high - low and summary.auroc.n == 77
    assert summary.in_domain_accuracy.n == 55
    assert summary.mcc.repeats[0] is None and summary.mcc.value == pytest.approx(np.mean(values[1:]))
    assert summary.per_class["A"] == GroupAccuracy(None, 0)
    assert summary.demographics["sex"].equal_opportunity == Figure(None, None, 7)
    high = summarize_arm([draws(0.49)], 1, 1, TEST_DF).balanced_accuracy
    assert high.ci95[1] == 1.0
    table = long_table(SimpleNamespace(arms={"real": summary}, sweeps={}))
    assert len(table) == len(FIGURES) + 2 + 2 and table["value"].isna().sum() == 2


def test_the_worst_group_is_named_with_its_own_count():
    of_arm = [
        changed(
            draw,
            worst_group=WorstGroup(0.1, ("B", "s") if number < 6 else ("A", "n"), 31 if number < 6 else 999, 3, 1, 0),
        )
        for number, draw in enumerate(draws())
    ]
    worst = summarize_arm([of_arm], 1, 1, TEST_DF).worst_group_accuracy
    assert worst.group == "B · s" and worst.n == 31
    of_arm = [
        changed(
            draw,
            worst_group=WorstGroup(None, None, 0, 0, 3, 0),
            figures={**draw.scores.figures, "worst_group_accuracy": None},
        )
        for draw in of_arm
    ]
    none = summarize_arm([of_arm], 1, 1, TEST_DF).worst_group_accuracy
    assert none.group is None and none.value is None and none.n == 0
