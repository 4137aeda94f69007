import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.probing import ImageSet, ProbeProtocol
from medi_monai.evaluation.probing.correlation import correlation_sweep
from medi_monai.evaluation.probing.draws import ArmDraw, ArmScores, Draw, TestedPatients
from medi_monai.evaluation.probing.jobs import DrawContext, make_jobs, run_jobs
from medi_monai.evaluation.probing.scoring import TestUnits
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.metrics import average_performance_drop, estimate
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.probing import Training

#: 97.5 % quantile of Student's t with 8 degrees of freedom: 12 patients in 4 strata
T_OF_8 = 2.306
SETTINGS = ProbeSettings(
    num_repeats=1,
    probe_replicates=100,
    sweep_repeats=4,
    sweep_correlations=(0.0, 0.5, 1.0),
    c_values=(0.01, 0.1),
)


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


def test_samples_of_the_test_patients_are_those_of_loops():
    # two draws with the same predictions, whose interval is over test patients alone
    rng, patients = np.random.default_rng(2), np.arange(12)
    labels, centers, counts = patients // 6, patients // 3 % 2, rng.integers(2, 6, 12)
    right = {level: rng.integers(0, counts + 1) for level in (0.0, 1.0)}
    right[0.0] = counts - (counts > 3)  # above chance
    tested = TestedPatients(*map(tuple, (patients, labels, centers, [False] * 12, counts)))

    def accuracy(level, weights):
        of_class = [labels == label for label in (0, 1)]
        return np.mean([(weights * right[level])[rows].sum() / (weights * counts)[rows].sum() for rows in of_class])

    once = np.ones(12)
    records = [
        Draw(
            "correlation",
            level,
            repeat,
            {
                "real": ArmDraw(
                    ArmScores.balanced_accuracy_alone(accuracy(level, once), None, of_level.tolist()),
                    Training(1, 0, 1.0, True),
                )
            },
            **{"square": "square0", "num_test": 12, "num_test_known": 0, "num_outside": 0, "tested": tested},
        )
        for level, of_level in right.items()
        for repeat in range(2)
    ]
    arm = correlation_sweep(records, num_replicates=400).arms["real"]
    # patients within each class and center: 3 of 3, with the weights of Rao and Wu, by brute force
    drawn = []
    for _ in range(4000):
        weights = np.concatenate([np.bincount(rng.integers(3, size=2), minlength=3) * 1.5 for _ in range(4)])
        first, last = (accuracy(level, weights) for level in (0.0, 1.0))
        drawn.append((first, last, last / first - 1))
    for (low, high), spread in zip((arm.curve[0].ci95, arm.curve[1].ci95), np.std(drawn, axis=0)[:2]):
        assert (high - low) / 2 == pytest.approx(T_OF_8 * spread, rel=0.15) or high == 1
    drop = arm.average_performance_drop
    assert drop.value == pytest.approx(accuracy(1.0, once) / accuracy(0.0, once) - 1)
    assert (drop.ci95[1] - drop.ci95[0]) / 2 == pytest.approx(T_OF_8 * np.std(drawn, axis=0)[2], rel=0.15)
    first, last = (accuracy(level, once) for level in (0.0, 1.0))
    assert arm.nipd.value == pytest.approx((last - first) / (first - 0.5) / 2)
    assert arm.nipd.ci95[0] < arm.nipd.value < arm.nipd.ci95[1] and arm.nipd.n == 1
    assert correlation_sweep(records).arms["real"].nipd.ci95 == (arm.nipd.value,) * 2
    assert arm.outside_nipd.ci95 is None


def study(seed, folder, patients=12, images=6):
    """The sweep of real images of a new study: two classes at two centers, patients of their own in each cell."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(4), patients * images)
    unit = np.repeat(np.arange(4 * patients), images)
    labels, centers = cell // 2, cell % 2
    features = rng.normal(size=(len(cell), 4)) + rng.normal(size=(4 * patients, 4))[unit]
    features[:, 0] += 1.5 * (2 * labels - 1)
    features[:, 1] += 1.5 * (2 * centers - 1)
    table = pd.DataFrame(
        {
            "image": [f"{row:05d}" for row in range(len(cell))],
            "patient": [f"p{number:03d}" for number in unit],
            "label": labels.astype(str),
            "center": centers.astype(str),
            "split": np.where(unit % patients < patients - 2, "train", "holdout"),
        }
    )
    real = {"real": ImageSet(features.astype(np.float32), table)}
    protocol = ProbeProtocol(real, {}, [], "label", ["center"], SETTINGS.c_values, seed)
    units = TestUnits.of(table.iloc[protocol.test], "label", ["center"], [])
    context = DrawContext(protocol, units, SETTINGS)
    jobs = [job for job in make_jobs(context, ["real"], {}) if job.sweep == "correlation"]
    draws = run_jobs(jobs, context, folder / str(seed), 1)
    return correlation_sweep(draws, None, SETTINGS.probe_replicates, seed).arms["real"]


def test_intervals_cover_the_mean_over_studies(tmp_path):
    arms = [study(seed, tmp_path) for seed in range(36)]
    for figures in ([arm.nipd for arm in arms], [arm.average_performance_drop for arm in arms]):
        truth = np.mean([figure.value for figure in figures])
        low, high = np.array([figure.ci95 for figure in figures]).T
        # 36 intervals of 95% cover in 31 or more cases, with a probability of 0.99
        assert ((low <= truth) & (truth <= high)).sum() >= 31
        # and they are no longer than they have to be
        assert np.mean(high - low) < 1.5 * 2 * 1.96 * np.std([figure.value for figure in figures])
