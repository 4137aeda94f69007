"""Summarize the draws of a probe as figures with intervals, and compare arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing.draws import (
    FIGURES,
    FIGURES_OF_COUNTS,
    IN_DOMAIN,
    ArmDraw,
    DemographicGaps,
    floats,
    known_interval,
    known_mean,
    mean_and_interval,
)
from medi_monai.evaluation.probing.protocol import ProbeProtocol
from medi_monai.evaluation.probing.scoring import TestUnits
from medi_monai.metrics import estimate, holm
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


def describe_test(protocol: ProbeProtocol, units: TestUnits, rows: np.ndarray | None = None) -> TestSet:
    """Return the numbers of test images and patients, and the combinations among them.

    Args:
        protocol: protocol of the probes.
        units: units of the test images.
        rows: rows of the test images; by default those of the holdout.
    """
    left_out = protocol.num_untrained if rows is None else 0
    rows = protocol.test if rows is None else rows
    codes, counts = np.unique(protocol.groups[rows], return_counts=True)
    columns, trained_groups = [protocol.label, *protocol.attributes], set(protocol.groups[protocol.train].tolist())
    groups = [
        TestGroup(dict(zip(columns, protocol.group_names[code])), count, code in trained_groups)
        for code, count in zip(codes.tolist(), counts.tolist())
    ]
    patients = int(units.table["patient"].nunique())
    clusters = units.clusters
    return TestSet(
        len(rows),
        patients,
        left_out,
        tuple(groups),
        _tested_on(groups, protocol.attributes),
        clusters.kind,
        len(np.unique(clusters.code)),
    )


def _tested_on(groups: Sequence[TestGroup], attributes: Sequence[str]) -> str:
    unseen = sum(not group.seen for group in groups)
    combinations = f"combinations of {' and '.join(['class', *attributes])}"
    if unseen == len(groups):
        return f"{combinations} not seen in training"
    if unseen == 0:
        return f"other patients, {combinations} seen in training"
    return f"other patients; {unseen} of {len(groups)} {combinations} not seen in training"


def describe_training(protocol: ProbeProtocol) -> TrainingSet:
    """Return the numbers of training images, training patients and validation images, and the classes."""
    patients = len(np.unique(protocol.patients[protocol.train]))
    return TrainingSet(len(protocol.train), patients, len(protocol.val), tuple(protocol.classes))


def summarize_arm(
    trainings: Sequence[Sequence[ArmDraw]], num_test: int, num_val: int, test_df: Mapping[str, float]
) -> ArmResults:
    """Average all figures of an arm over its trainings and draws, with intervals.

    Args:
        trainings: for each training of the arm's generative model, its draws; one for an arm without such a model.
        num_test: number of test images.
        num_val: number of validation images.
        test_df: degrees of freedom of the test units, by figure; see :func:`test_df_of`.
    """
    draws = [draw for of_training in trainings for draw in of_training]
    counts = {name: num_val if name == IN_DOMAIN else num_test for name in FIGURES}
    figures = {name: _repeated_figure(trainings, name, count, test_df.get(name)) for name, count in counts.items()}
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


def test_df_of(units: TestUnits) -> dict[str, float]:
    """Return the degrees of freedom of the test units for each figure that has replicates.

    Those of the worst group are the patients of a combination, on average, minus 1: no other patients vary.
    """
    patients = units.patients_of_combinations
    of_worst = patients.df / len(np.unique(patients.strata))
    return {name: of_worst if name == "worst_group_accuracy" else units.clusters.df for name in FIGURES_OF_COUNTS}


def _repeated_figure(
    trainings: Sequence[Sequence[ArmDraw]], name: str, num_test: int, test_df: float | None
) -> RepeatedFigure:
    values = _matrix(trainings, name)
    of_trainings = tuple(known_mean(row) for row in values)
    repeats = tuple(None if np.isnan(value) else float(value) for value in values.mean(0))
    replicates = _replicates(trainings, name, np.ones(values.shape[1], bool))
    lowest = -1.0 if name == "mcc" else 0.0
    value, ci95, _ = mean_and_interval(values, replicates, test_df or 0, (lowest, 1.0))
    return RepeatedFigure(value, ci95, num_test, repeats, of_trainings)


def _matrix(trainings: Sequence[Sequence[ArmDraw]], name: str) -> np.ndarray:
    """Return the ``(T, J)`` values of a figure, of trainings and draws."""
    return np.array([floats(draw.scores.figures[name] for draw in draws) for draws in trainings])


def _replicates(trainings: Sequence[Sequence[ArmDraw]], name: str, known: np.ndarray) -> np.ndarray | None:
    """Return the ``(T, J, B)`` replicates of a figure in the known draws; None if the figure has none."""
    if name not in FIGURES_OF_COUNTS:
        return None
    return np.array(
        [[floats(draw.scores.replicates[name]) for draw, use in zip(draws, known) if use] for draws in trainings]
    )


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
    by_arm: Mapping[str, Sequence[Sequence[ArmDraw]]], focus: str, test_df: Mapping[str, float], margin: float = 0.0
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
    test_df: float | None,
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
            figure = Figure(point.balanced_accuracy, point.balanced_accuracy_ci95, point.n)
            rows.append(_row(point.arm, "balanced_accuracy", sweep, str(point.point), figure))
    return pd.DataFrame(rows)


def _row(arm: str, name: str, scope: str, key: str, figure: Figure) -> dict[str, object]:
    return {"arm": arm, "figure": name, "part": scope, "key": key, **figure.cells()}
