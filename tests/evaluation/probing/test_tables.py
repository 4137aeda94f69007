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
    Draw,
    WorstGroup,
)
from medi_monai.evaluation.probing.tables import (
    compare_arms,
    correlation_sweep,
    long_table,
    summarize_arm,
    sweep_points,
    without_added,
)
from medi_monai.metrics import holm
from medi_monai.results import Figure
from medi_monai.results.probing import CorrelationSweep, GroupAccuracy, Training

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
    summary = summarize_arm(medi, 77, TEST_DF)
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
    summary = summarize_arm([of_arm], 77, TEST_DF)
    values, of_test = values_of(of_arm), replicates_of(of_arm).var(ddof=1)
    variance = values.var(ddof=1) * (1 + 1 / DRAWS) + of_test
    low, high = summary.balanced_accuracy.ci95
    assert summary.balanced_accuracy.value == pytest.approx(values.mean())
    df = variance**2 / ((variance - of_test) ** 2 / (DRAWS - 1) + of_test**2 / 12)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, df, values.mean(), variance**0.5))
    assert summary.auroc.ci95[1] - summary.auroc.ci95[0] < high - low and summary.auroc.n == 77
    assert summary.mcc.repeats[0] is None and summary.mcc.value == pytest.approx(np.mean(values[1:]))
    assert summary.per_class["A"] == GroupAccuracy(None, 0)
    assert summary.demographics["sex"].equal_opportunity == Figure(None, None, 7)
    high = summarize_arm([draws(0.49)], 1, TEST_DF).balanced_accuracy
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
    worst = summarize_arm([of_arm], 1, TEST_DF).worst_group_accuracy
    assert worst.group == "B · s" and worst.n == 31
    of_arm = [
        changed(
            draw,
            worst_group=WorstGroup(None, None, 0, 0, 3, 0),
            figures={**draw.scores.figures, "worst_group_accuracy": None},
        )
        for draw in of_arm
    ]
    none = summarize_arm([of_arm], 1, TEST_DF).worst_group_accuracy
    assert none.group is None and none.value is None and none.n == 0


def test_sweeps_have_a_row_per_point_and_arm():
    records = []
    for point, value in ((1.0, 0.5), (0.5, 0.2), (1.0, 0.7)):
        figures = {"balanced_accuracy": value, "worst_group_accuracy": None}
        scores = replace(ArmScores.balanced_accuracy_alone(value), figures=figures)
        records.append(Draw("ratio", point, 0, {"medi": ArmDraw(scores, Training(4, 8, 1.0, True))}))
    rows = sweep_points(records, "ratio")
    assert [row.point for row in rows] == [0.5, 1.0] and rows[1].n == 2
    assert rows[1].balanced_accuracy == pytest.approx(0.6) and rows[1].balanced_accuracy_range == (0.5, 0.7)
    assert rows[1].worst_group_accuracy is None and rows[1].worst_group_accuracy_range is None
    assert sweep_points(records, "num_centers") == ()


def test_the_accuracy_lost_with_the_correlation_equals_loops():
    rng, levels = np.random.default_rng(0), (0.0, 0.5, 1.0)
    keys = [(s, r, level) for s in "xy" for r in range(3) for level in levels]
    values, outside = ({key: rng.uniform(0.55, 1) for key in keys} for _ in range(2))
    records = [
        Draw(
            "correlation",
            level,
            r,
            {
                arm: ArmDraw(
                    ArmScores.balanced_accuracy_alone(values[s, r, level], outside[s, r, level] if s == "x" else None),
                    Training(1, 1, 1.0, True),
                )
                for arm in ("real", "medi")
            },
            square=s,
            num_test=40,
            num_test_known=10 + r,
            num_outside=30 if s == "x" else 0,
        )
        for s, r, level in keys
    ]
    sweep = correlation_sweep(records, ["cls", "medi"])
    of_arm = sweep.arms["medi"]

    def drop(of, squares):
        drops = [
            (of[s, r, 0.5] / of[s, r, 0.0] + of[s, r, 1.0] / of[s, r, 0.0]) / 2 - 1 for s in squares for r in range(3)
        ]
        return sum(drops) / len(drops)

    def nipd(of, squares):
        areas = []
        for s in squares:
            first, middle, last = (sum(of[s, r, level] for r in range(3)) / 3 for level in levels)
            lost = [(mean - first) / (first - 0.5) for mean in (middle, last)]
            areas.append(0.25 * lost[0] + 0.25 * (lost[0] + lost[1]))
        return sum(areas) / len(areas)

    assert of_arm.average_performance_drop.value == pytest.approx(drop(values, "xy"), abs=1e-9)
    assert of_arm.nipd.value == pytest.approx(nipd(values, "xy"), abs=1e-9)
    # a square without other centers has no figures there
    assert of_arm.outside_drop.value == pytest.approx(drop(outside, "x"), abs=1e-9)
    assert of_arm.outside_nipd.value == pytest.approx(nipd(outside, "x"), abs=1e-9)
    assert [of_arm.average_performance_drop.n, of_arm.outside_drop.n] == [6, 3]
    assert [of_arm.nipd.n, of_arm.outside_nipd.n] == [2, 1]
    curve = {point.level: point.value for point in of_arm.curve}
    assert curve[0.5] == pytest.approx(np.mean([values[s, r, 0.5] for s in "xy" for r in range(3)]))
    assert (sweep.num_squares, sweep.num_test, sweep.num_test_known, sweep.num_outside) == (2, 80, 22, 30)
    assert sweep.left_out == ("cls",)
    assert correlation_sweep([]) == CorrelationSweep()


def test_draws_that_added_no_generated_image_are_told():
    none, some = (replace(draws()[0], training=Training(10, added, 1.0, True)) for added in (0, 4))
    main = [Draw("main", None, repeat, {"real": none, "cls": some, "medi": some}) for repeat in range(3)]
    centers = [Draw("num_centers", 2, repeat, {"real": none, "cls": arm, "medi": arm}) for repeat, arm in
               enumerate((none, some))]  # fmt: skip
    real_only = [Draw("real_per_class", 25, 0, {"real": none})]
    assert without_added([*main, *real_only], ["cls", "medi"]) == without_added(main, []) == []
    (finding,) = without_added([*main, *centers, *real_only], ["cls", "medi"])
    assert finding.level == "error" and finding.figures == {"draws": 1, "of": 2}
    assert finding.text.startswith("Sweep over the number of centers: no generated image was added in 1 of 2 draws")
    alone = [replace(draw, arms={**draw.arms, "cls": none, "medi": none}) for draw in main]
    text = without_added(alone, ["cls", "medi"])[0].text
    assert text.startswith("Comparison of arms: no generated image was added in all draws")
