import numpy as np
import pytest

from medi_monai.evaluation.probing.correlation import correlation_sweep
from medi_monai.evaluation.probing.draws import ArmDraw, ArmScores, Draw
from medi_monai.metrics import average_performance_drop, estimate
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.probing import Training


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
    sweep = correlation_sweep(records, {"cls": ("cls",), "medi": ("medi",)})
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


def test_trainings_are_among_the_repeats():
    rng, levels, names = np.random.default_rng(1), (0.0, 1.0), ("medi", "medi (training 2)")
    values = rng.uniform(0.6, 1, (2, 3, 4, 2))  # trainings, squares, draws, levels
    records = [
        Draw(
            "correlation",
            level,
            r,
            {
                name: ArmDraw(ArmScores.balanced_accuracy_alone(values[t, s, r, at]), Training(1, 1, 1.0, True))
                for t, name in enumerate(names)
            },
            square=f"square{s}",
            num_test=4,
            num_test_known=0,
            num_outside=0,
        )
        for at, level in enumerate(levels)
        for s in range(3)
        for r in range(4)
    ]
    sweep = correlation_sweep(records, {"cls": ("cls", "cls (training 2)"), "medi": names})
    medi = sweep.arms["medi"]
    assert list(sweep.arms) == ["medi"] and sweep.left_out == ("cls",) and medi.num_trainings == 2
    for at, point in enumerate(medi.curve):
        found = estimate(values[..., at].mean(1))
        assert (point.value, point.n) == (pytest.approx(found.value), 12)
        assert point.ci95 == pytest.approx(np.clip(found.interval(), 0, 1))
    drops = np.array([[average_performance_drop(values[t, s].T) for s in range(3)] for t in range(2)]).mean(1)
    assert medi.average_performance_drop.value == pytest.approx(drops.mean())
    assert medi.average_performance_drop.ci95 == pytest.approx(np.clip(estimate(drops).interval(), -1, None))
    # of each square, the mean over draws of all trainings
    first, last = values.mean((0, 2)).T
    assert medi.nipd.value == pytest.approx(np.mean((last - first) / (first - 0.5) / 2))
    assert medi.outside_drop.value is None and medi.outside_nipd.value is None
