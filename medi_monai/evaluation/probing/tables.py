"""Summarize the draws of a probe as figures with intervals, and compare arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing.draws import (
    FIGURES,
    FIGURES_OF_COUNTS,
    ArmDraw,
    DemographicGaps,
    floats,
    known_interval,
    known_mean,
)
from medi_monai.evaluation.probing.protocol import ProbeProtocol
from medi_monai.evaluation.probing.scoring import TestUnits
from medi_monai.metrics import (
    estimate,
    holm,
)
from medi_monai.results import Figure
from medi_monai.results.probing import (
    ArmResults,
    Comparison,
    DemographicGapFigures,
    GroupAccuracy,
    ProbeResults,
    RepeatedFigure,
    TestGroup,
    TestSet,
    Training,
    TrainingSet,
    WorstGroupFigure,
)

__all__ = [
    "compare_arms",
    "describe_test",
    "describe_training",
    "long_table",
    "summarize_arm",
    "test_df_of",
]


def describe_test(protocol: ProbeProtocol, units: TestUnits) -> TestSet:
    """Return the numbers of test images and patients, and the combinations among them."""
    codes, counts = np.unique(protocol.groups[protocol.test], return_counts=True)
    columns, trained_groups = [protocol.label, *protocol.attributes], set(protocol.groups[protocol.train].tolist())
    groups = [
        TestGroup(dict(zip(columns, protocol.group_names[code])), count, code in trained_groups)
        for code, count in zip(codes.tolist(), counts.tolist())
    ]
    patients = int(units.table["patient"].nunique())
    clusters = units.clusters
    return TestSet(
        len(protocol.test),
        patients,
        protocol.num_untrained,
        tuple(groups),
        _tested_on(groups),
        clusters.kind,
        len(np.unique(clusters.code)),
    )


def _tested_on(groups: Sequence[TestGroup]) -> str:
    unseen = sum(not group.seen for group in groups)
    if unseen == len(groups):
        return "combinations not seen in training"
    if unseen == 0:
        return "other patients, combinations seen in training"
    return f"other patients; {unseen} of {len(groups)} combinations not seen in training"


def describe_training(protocol: ProbeProtocol) -> TrainingSet:
    """Return the numbers of training images, training patients and validation images, and the classes."""
    patients = len(np.unique(protocol.patients[protocol.train]))
    return TrainingSet(len(protocol.train), patients, len(protocol.val), tuple(protocol.classes))


def summarize_arm(trainings: Sequence[Sequence[ArmDraw]], num_test: int, test_df: Mapping[str, int]) -> ArmResults:
    """Average all figures of an arm over its trainings and draws, with intervals.

    Args:
        trainings: for each training of the arm's generative model, its draws; one for an arm without such a model.
        num_test: number of test images.
        test_df: degrees of freedom of the test units, by figure; see :func:`test_df_of`.
    """
    draws = [draw for of_training in trainings for draw in of_training]
    figures = {name: _repeated_figure(trainings, name, num_test, test_df.get(name)) for name in FIGURES}
    worst_group = _worst_group_figure(draws, figures.pop("worst_group_accuracy"))
    scores = [draw.scores for draw in draws]
    training = {
        field.name: float(np.mean([getattr(draw.training, field.name) for draw in draws]))
        for field in dataclasses.fields(Training)
    }
    return ArmResults(
        **figures,
        worst_group_accuracy=worst_group,
        per_center=_mean_by_group([score.per_center for score in scores]),
        per_class=_mean_by_group([score.per_class for score in scores]),
        demographics={
            column: _mean_gaps([score.demographics[column] for score in scores]) for column in scores[0].demographics
        },
        training=Training(**training),
    )


def test_df_of(units: TestUnits) -> dict[str, int]:
    """Return the degrees of freedom of the test units for each figure that has replicates."""
    return {
        name: (units.patients_of_combinations if name == "worst_group_accuracy" else units.clusters).df
        for name in FIGURES_OF_COUNTS
    }


def _repeated_figure(
    trainings: Sequence[Sequence[ArmDraw]], name: str, num_test: int, test_df: int | None
) -> RepeatedFigure:
    values = _matrix(trainings, name)
    known = ~np.isnan(values).any(0)
    of_trainings = tuple(known_mean(row) for row in values)
    repeats = tuple(None if np.isnan(value) else float(value) for value in values.mean(0))
    if not known.any():
        return RepeatedFigure(None, None, num_test, repeats, of_trainings)
    found = estimate(values[:, known], _replicates(trainings, name, known), test_df or 0)
    lowest = -1.0 if name == "mcc" else 0.0
    interval = found.interval()
    ci95 = None if interval is None else (max(lowest, interval[0]), min(1.0, interval[1]))
    return RepeatedFigure(found.value, ci95, num_test, repeats, of_trainings)


def _matrix(trainings: Sequence[Sequence[ArmDraw]], name: str) -> np.ndarray:
    """Return the ``(T, J)`` values of a figure, of trainings and draws."""
    return np.array([floats(draw.scores.figures[name] for draw in draws) for draws in trainings])


def _replicates(trainings: Sequence[Sequence[ArmDraw]], name: str, known: np.ndarray) -> np.ndarray | None:
    """Return the ``(B,)`` means over trainings and the known draws of the replicates; None if the figure has none."""
    if name not in FIGURES_OF_COUNTS:
        return None
    kept = [draw for draws in trainings for draw, use in zip(draws, known) if use]
    return np.mean([floats(draw.scores.replicates[name]) for draw in kept], axis=0)


def _worst_group_figure(draws: Sequence[ArmDraw], figure: RepeatedFigure) -> WorstGroupFigure:
    worst = [draw.scores.worst_group for draw in draws if draw.scores.worst_group is not None]
    names = [" · ".join(group_score.group) for group_score in worst if group_score.group]
    counts = {" · ".join(group_score.group): group_score.n for group_score in worst if group_score.group}
    # ties are broken by name
    group = pd.Series(names, dtype="str").mode().iloc[0] if names else None
    first = worst[0]
    return WorstGroupFigure(
        figure.value,
        figure.ci95,
        counts.get(group or "", 0),
        figure.repeats,
        figure.trainings,
        group,
        first.num_groups,
        first.num_too_small,
    )


def _mean_by_group(draws: Sequence[Mapping[str, GroupAccuracy]]) -> dict[str, GroupAccuracy]:
    return {
        name: dataclasses.replace(accuracy, value=known_mean(floats(draw[name].value for draw in draws)))
        for name, accuracy in draws[0].items()
    }


def _mean_gaps(draws: Sequence[DemographicGaps]) -> DemographicGapFigures:
    n = sum(draws[0].groups.values())
    figures = {}
    for gap in ("equal_opportunity", "equalized_odds"):
        values = floats(getattr(draw, gap) for draw in draws)
        figures[gap] = Figure(known_mean(values), known_interval(values), n)
    return DemographicGapFigures(**figures, groups=draws[0].groups)


def compare_arms(
    by_arm: Mapping[str, Sequence[Sequence[ArmDraw]]], focus: str, test_df: Mapping[str, int], margin: float = 0.0
) -> tuple[Comparison, ...]:
    """Compare the focus with every other arm for each figure, with Holm-corrected p values.

    Intervals and p values count what would differ in another study: test combinations or patients, training patients,
    generated images and, with several trainings, these; see :func:`medi_monai.metrics.estimate`. AUROC and calibration
    error have an interval over training patients alone and no p value, which would not hold for other test patients.

    Args:
        by_arm: for every arm, the draws of each training of its generative model, in the same order.
        focus: arm that is compared with every other arm.
        test_df: degrees of freedom of the test units, by figure; see :func:`test_df_of`.
        margin: difference in balanced accuracy up to which arms are equivalent.
    """
    others = [arm for arm in by_arm if arm != focus]
    comparisons = []
    for name in FIGURES:
        rows = [_compare((focus, arm), (by_arm[focus], by_arm[arm]), name, test_df.get(name), margin) for arm in others]
        corrected = holm([row.p_value for row in rows])
        comparisons += [dataclasses.replace(row, p_holm=p_holm) for row, p_holm in zip(rows, corrected)]
    return tuple(comparisons)


def _compare(
    arms: tuple[str, str],
    trainings: tuple[Sequence[Sequence[ArmDraw]], Sequence[Sequence[ArmDraw]]],
    name: str,
    test_df: int | None,
    margin: float,
) -> Comparison:
    # an arm without trainings is compared with the mean over those of the other
    first, second = (_matrix(of_arm, name) for of_arm in trainings)
    values = first - second
    known = ~np.isnan(values).any(0)
    if not known.any():
        return Comparison(name, arms, Figure(None, None, 0))
    replicates = [_replicates(of_arm, name, known) for of_arm in trainings]
    gaps = None if replicates[0] is None or replicates[1] is None else replicates[0] - replicates[1]
    found = estimate(values[:, known], gaps, test_df or 0)
    difference = Figure(found.value, found.interval(), int(known.sum()))
    if not found.sources:
        return Comparison(name, arms, difference)
    of_counts = name in FIGURES_OF_COUNTS
    return Comparison(
        name,
        arms,
        difference,
        standard_error=found.standard_error,
        df=found.df if np.isfinite(found.df) else None,
        variance={source: part.variance for source, part in found.sources.items()},
        p_value=found.p_value() if of_counts else None,
        p_equivalence=found.p_value(margin) if name == "balanced_accuracy" and margin else None,
    )
<<<<<<< HEAD
=======
    difference = dataclasses.replace(difference, ci95=_interval(gaps))
    p_patients, num_patients = _bootstrap_p_value(gaps), None
    if name == "balanced_accuracy":
        first_gains, second_gains = _mean_gains(draws)
        by_patient = paired_test(first_gains, second_gains)
        p_patients, num_patients = by_patient["p_value"], by_patient["n"]
    p_value = None if p_draws is None or p_patients is None else max(p_draws, p_patients)
    return Comparison(name, arms, difference, p_draws, p_patients, num_patients, p_value)


def _mean_gains(draws: tuple[Sequence[ArmDraw], Sequence[ArmDraw]]) -> list[list[float]]:
    patients = sorted(draws[0][0].scores.gain)
    gains = [np.array([[draw.scores.gain[patient] for patient in patients] for draw in of_arm]) for of_arm in draws]
    return [gain.mean(0).tolist() for gain in gains]


def _bootstrap_p_value(gaps: np.ndarray) -> float | None:
    known = gaps[np.isfinite(gaps)]
    if len(known) < 2:
        return None
    # the observed sample counts as well, so that no p value is 0
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def sweep_points(draws: Sequence[Draw], sweep: str) -> tuple[SweepPoint, ...]:
    """Return one row per point and arm of a sweep, with points in ascending order."""
    rows = []
    for point in sorted({draw.point for draw in draws if draw.sweep == sweep and draw.point is not None}):
        at_point = [draw for draw in draws if draw.sweep == sweep and draw.point == point]
        for arm in at_point[0].arms:
            of_arm = [draw.arms[arm] for draw in at_point]
            balanced, worst = (
                _floats(draw.scores.figures.get(name) for draw in of_arm)
                for name in ("balanced_accuracy", "worst_group_accuracy")
            )
            num_real, num_added = (
                float(np.mean([getattr(draw.training, name) for draw in of_arm])) for name in ("num_real", "num_added")
            )
            rows.append(
                SweepPoint(
                    point,
                    arm,
                    len(of_arm),
                    _mean(balanced),
                    _range(balanced),
                    _mean(worst),
                    _range(worst),
                    num_real,
                    num_added,
                )  # fmt: skip
            )
    return tuple(rows)


def without_added(draws: Sequence[Draw], synthetic: Sequence[str]) -> list[Finding]:
    """Return an error for each comparison with draws that added no generated images.

    In these draws, the arms are identical to training on the real images alone.

    Args:
        draws: all draws.
        synthetic: arms that add generated images.
    """
    findings = []
    for sweep, words in SWEEP_WORDS.items():
        by_draw = [[draw.arms[arm].training.num_added for arm in synthetic if arm in draw.arms] for draw in draws
                   if draw.sweep == sweep]  # fmt: skip
        counts = [max(added) for added in by_draw if added]
        empty = counts.count(0)
        if empty:
            share = "all" if empty == len(counts) else f"{empty:,} of {len(counts):,}"
            text = (
                f"{words}: no generated image was added in {share} draws, because an arm has none of some class (from "
                "these centers), or because the ratio asks for less than one image per class. In these draws, arms "
                "with generated images equal the real images alone, whatever the figures say."
            )
            findings.append(Finding("error", text, {"draws": empty, "of": len(counts)}, "no_image_added"))
    return findings


def correlation_sweep(draws: Sequence[Draw], synthetic: Sequence[str] = ()) -> CorrelationSweep:
    """Return accuracy as center and class become correlated, PathoROB's average performance drop, and croma's nIPD.

    Both benchmarks train on several mixtures of class and center with the same number of images, and test on other
    patients of these centers (in-domain) and on other centers (out-of-domain). They fix centers and mixtures for each
    of their data sets; here, a mixture is of two classes at two centers of any cohort, drawn with seeds, and its
    Cramér's V is taken to be the requested level. The probe is that of the other comparisons (standardized features, C
    by log-loss), where the benchmarks choose C by balanced accuracy. The drop of a draw is relative to the same draw,
    and averaged over draws, as in PathoROB. nIPD averages the draws of a square first, as in croma, and then the
    squares, each of which is a task of its own.

    Args:
        draws: all draws.
        synthetic: arms that add generated images; those without draws are listed as left out.
    """
    draws = [draw for draw in draws if draw.sweep == "correlation"]
    if not draws:
        return CorrelationSweep()
    levels = sorted({draw.point for draw in draws if draw.point is not None})
    return CorrelationSweep(
        tuple(levels),
        {arm: _correlation_arm(draws, arm, levels) for arm in draws[0].arms},
        len({draw.square for draw in draws}),
        _sum_over_squares(draws, "num_test"),
        _sum_over_squares(draws, "num_test_known"),
        _sum_over_squares(draws, "num_outside"),
        tuple(arm for arm in synthetic if arm not in draws[0].arms),
    )


def _correlation_arm(draws: Sequence[Draw], arm: str, levels: Sequence[float]) -> CorrelationArm:
    inside, outside = (_by_level(draws, arm, name) for name in ("balanced_accuracy", OUTSIDE))
    points = [inside[level].to_numpy() for level in levels]
    curve = [
        CorrelationPoint(level, _mean(values), _interval(values), len(values)) for level, values in zip(levels, points)
    ]
    return CorrelationArm(tuple(curve), _drop(inside), _nipd(inside), _drop(outside), _nipd(outside))


def _by_level(draws: Sequence[Draw], arm: str, name: str) -> pd.DataFrame:
    # one row per draw of a square, one column per level
    frame = pd.DataFrame(
        {
            "square": [draw.square for draw in draws],
            "repeat": [draw.repeat for draw in draws],
            "level": [draw.point for draw in draws],
            "value": _floats(draw.arms[arm].scores.figures.get(name) for draw in draws),
        }
    )
    return frame.pivot(index=["square", "repeat"], columns="level", values="value")


def _drop(accuracies: pd.DataFrame) -> Figure:
    drops = average_performance_drop(accuracies.to_numpy().T)
    return Figure(_mean(drops), _interval(drops), int(np.isfinite(drops).sum()))


def _nipd(accuracies: pd.DataFrame) -> Figure:
    levels = accuracies.columns.to_numpy(float)
    by_square = np.array(
        [
            integrated_degradation(of_square.to_numpy().T, levels, CHANCE)
            for _, of_square in accuracies.groupby(level="square")
        ]
    )
    return Figure(_mean(by_square), None, int(np.isfinite(by_square).sum()))


def _sum_over_squares(draws: Sequence[Draw], name: str) -> int:
    """Return the number of test images of all squares: the mean over the draws of each square, summed."""
    table = pd.DataFrame({"square": [draw.square for draw in draws], "n": [getattr(draw, name) for draw in draws]})
    return round(float(table.groupby("square")["n"].mean().sum()))
>>>>>>> 8fb1d08 (Shortcut figures: plainer sentences, and what differs from the benchmarks said more exactly)


def long_table(results: ProbeResults) -> pd.DataFrame:
    """Return one row per arm and figure, center, class, or point of a sweep."""
    rows = []
    for arm, of_arm in results.arms.items():
        rows += [_row(arm, name, "all", "", getattr(of_arm, name)) for name in FIGURES]
        for name in ("per_center", "per_class"):
            for key, group in getattr(of_arm, name).items():
                rows.append(_row(arm, "balanced_accuracy", name, key, Figure(group.value, None, group.n)))
        for column, gaps in of_arm.demographics.items():
            rows.append(_row(arm, "equal_opportunity_gap", column, "", gaps.equal_opportunity))
            rows.append(_row(arm, "equalized_odds_gap", column, "", gaps.equalized_odds))
    for sweep, points in results.sweeps.items():
        for point in points:
            figure = Figure(point.balanced_accuracy, None, point.n)
            rows.append(_row(point.arm, "balanced_accuracy", sweep, str(point.point), figure))
    return pd.DataFrame(rows)


def _row(arm: str, name: str, scope: str, key: str, figure: Figure) -> dict[str, object]:
    return {"arm": arm, "figure": name, "part": scope, "key": key, **figure.cells()}
