from dataclasses import replace

import numpy as np
import pytest

from medi_monai.evaluation.probing.draws import ArmDraw, ArmScores, Draw
from medi_monai.evaluation.probing.sweeps import correlation_sweep, sweep_points, without_added
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.probing import Training


def arm_of(added):
    return ArmDraw(ArmScores.balanced_accuracy_alone(0.5), Training(10, added, 1.0, True))


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
    none, some = arm_of(0), arm_of(4)
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
