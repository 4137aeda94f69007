import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef, recall_score, roc_auc_score

from medi_monai.evaluation.probing.draws import DemographicGaps
from medi_monai.evaluation.probing.scoring import Scorer, TestUnits
from medi_monai.results.probing import GroupAccuracy

CLASSES = ["A", "B", "C"]


def make(rows=400, patients=20, seed=0, **columns):
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, rows)
    table = pd.DataFrame({"patient": [f"p{n}" for n in patient], "center": patient % 4, "stain": patient % 3 % 2})
    table["sex"] = np.where(patient % 5 == 0, None, np.where(patient % 2, "f", "m"))
    targets = rng.integers(0, 3, rows)
    table["tumor"] = np.array(CLASSES)[targets]
    scores = rng.gamma(1.0, size=(rows, 3)) + 1.5 * np.eye(3)[targets] * rng.random((rows, 1))
    return table.assign(**columns), targets, torch.from_numpy(scores / scores.sum(1, keepdims=True))


def scorer_of(table, targets, attributes=("center",), demographics=("sex",), **kwargs):
    return Scorer(targets, TestUnits.of(table, "tumor", attributes, demographics), CLASSES, **kwargs)


def test_figures_are_those_of_scikit_learn():
    table, targets, probabilities = make()
    predicted = probabilities.argmax(1).numpy()
    scores = scorer_of(table, targets).score(probabilities)
    figures = scores.figures
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, predicted), abs=1e-12)
    assert figures["mcc"] == pytest.approx(matthews_corrcoef(targets, predicted), abs=1e-12)
    area = roc_auc_score(targets, probabilities.numpy(), multi_class="ovr")
    assert figures["auroc"] == pytest.approx(area, abs=1e-6)
    by_center = [
        balanced_accuracy_score(targets[(c == table["center"])], predicted[c == table["center"]]) for c in range(4)
    ]
    assert figures["group_mean_accuracy"] == pytest.approx(np.mean(by_center), abs=1e-12)
    assert [scores.per_center[str(c)].value for c in range(4)] == pytest.approx(by_center, abs=1e-12)
    recalls = recall_score(targets, predicted, average=None)
    assert [scores.per_class[name].value for name in CLASSES] == pytest.approx(recalls, abs=1e-12)
    right = pd.Series(predicted == targets).groupby([table["center"], targets]).mean()
    assert figures["worst_group_accuracy"] == pytest.approx(right.min(), abs=1e-12)
    center, code = right.idxmin()
    assert scores.worst_group.group == (CLASSES[code], str(center))
    confidence = probabilities.max(1).values.numpy()
    bins = np.clip((confidence * 15).astype(int), 0, 14)
    gaps = [
        abs((predicted == targets)[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in set(bins)
    ]
    assert figures["calibration_error"] == pytest.approx(sum(gaps), abs=1e-5)


def test_gaps_between_demographic_groups_leave_missing_values_out():
    table, targets, probabilities = make()
    gaps = scorer_of(table, targets).score(probabilities).demographics["sex"]
    right = probabilities.argmax(1).numpy() == targets
    recall = {sex: [right[(table["sex"] == sex) & (targets == c)].mean() for c in range(3)] for sex in "fm"}
    assert gaps.equal_opportunity == pytest.approx(np.abs(np.subtract(*recall.values())).max(), abs=1e-12)
    assert gaps.groups == {sex: int((table["sex"] == sex).sum()) for sex in "fm"}
    for missing in (None, np.nan, "", " "):
        none = scorer_of(table.assign(sex=missing), targets).score(probabilities)
        assert none.demographics["sex"] == DemographicGaps(None, None, {})
        assert none.figures == scorer_of(table, targets).score(probabilities).figures


def test_replicates_draw_combinations_and_patients_of_the_worst_group():
    table, targets, probabilities = make(demo=1)
    # some groups are no larger than the bound: in half of the samples they are below it
    scorer = scorer_of(table, targets, num_replicates=30, seed=5, min_count=33)
    combination = [table["center"], targets]
    sizes = pd.Series(targets).groupby(combination).size()
    known = sizes[sizes >= 33].index
    assert 3 < len(known) < 12 and scorer.units.clusters.kind == "combination" and scorer.units.clusters.df == 9
    replicates = scorer.score(probabilities).replicates
    predicted, units = probabilities.argmax(1).numpy(), scorer.units
    right = pd.Series(predicted == targets, dtype=float)
    for number in range(30):
        weights = scorer.drawn[number][units.code]
        # a combination comes as a whole
        assert (pd.Series(weights).groupby(combination).nunique() == 1).all()
        expected = balanced_accuracy_score(targets, predicted, sample_weight=weights)
        assert replicates["balanced_accuracy"][number] == pytest.approx(expected, abs=1e-12)
        expected = matthews_corrcoef(targets, predicted, sample_weight=weights)
        assert replicates["mcc"][number] == pytest.approx(expected, abs=1e-9)
        weights = pd.Series(scorer.drawn_patients[number][units.code])
        assert (weights.groupby([table["patient"], *combination]).nunique() == 1).all()
        # the group that is the worst of all images, whichever is in this sample
        groups = (right * weights).groupby(combination).sum() / weights.groupby(combination).sum()
        worst = right.groupby(combination).mean()[known].idxmin()
        assert replicates["worst_group_accuracy"][number] == pytest.approx(groups[worst], abs=1e-12)


@pytest.mark.parametrize(
    ("centers", "kind", "df"),
    [
        ({"A": "xyz", "B": "xyz", "C": "xyz"}, "combination", 6),
        # one combination of a class says nothing about others, and two of each too little
        ({"A": "xyz", "B": "xyz", "C": "x"}, "patient", 7 * 4 - 3),
        ({"A": "xy", "B": "xy", "C": "xy"}, "patient", 6 * 4 - 3),
    ],
)
def test_another_study_has_other_combinations_if_there_are_enough(centers, kind, df):
    rows = [(f"{label}{center}{n}", label, center) for label in CLASSES for center in centers[label] for n in range(4)]
    units = TestUnits.of(pd.DataFrame(rows, columns=["patient", "tumor", "center"]), "tumor", ["center"], [])
    assert (units.clusters.kind, units.clusters.df) == (kind, df)
    assert units.patients_of_combinations.df == len(rows) - len(rows) // 4


def test_patients_of_several_classes_are_drawn_as_a_whole():
    table = pd.DataFrame({"patient": list("aabb"), "tumor": list("ABAB"), "center": "x"})
    clusters = TestUnits.of(table, "tumor", ["center"], []).clusters
    assert clusters.kind == "patient" and clusters.df == 1 and set(clusters.strata) == {0}


def test_units_who_are_all_alike_give_an_interval_of_no_width():
    first, targets, probabilities = make(rows=60, patients=1)
    centers = [first.assign(center=center, patient=f"{center} {n}") for center in "abcd" for n in range(2)]
    scorer = scorer_of(pd.concat(centers, ignore_index=True), np.tile(targets, 8))
    replicates = scorer.score(probabilities.repeat(8, 1)).replicates
    # the mean over centers is left out: a center whose only combination of a class is not drawn lacks that class
    for name in ("balanced_accuracy", "worst_group_accuracy", "mcc"):
        assert np.ptp(replicates[name]) == pytest.approx(0, abs=1e-12)
    # as many images of units that differ have one
    assert np.ptp(scorer_of(*make()[:2]).score(make()[2]).replicates["balanced_accuracy"]) > 0.02


def test_the_order_of_rows_does_not_matter():
    table, targets, probabilities = make()
    order = np.random.default_rng(1).permutation(len(targets))
    first = scorer_of(table, targets).score(probabilities)
    again = scorer_of(table.iloc[order], targets[order]).score(probabilities[order])
    assert again.replicates == first.replicates
    assert again.per_center == first.per_center and again.worst_group == first.worst_group


def test_what_is_undefined_is_not_zero():
    table, targets, probabilities = make(rows=12, patients=12)
    targets = np.full(12, 1)
    scores = scorer_of(table.assign(tumor="B"), targets).score(probabilities)
    assert np.isnan(scores.figures["worst_group_accuracy"]) and scores.worst_group.group is None
    assert scores.worst_group.num_too_small == 4 and np.isnan(scores.figures["group_mean_accuracy"])
    assert np.isnan(scores.figures["auroc"]) and np.isnan(scores.figures["mcc"])
    assert scores.per_class["A"] == GroupAccuracy(None, 0) and scores.per_class["B"].n == 12
    assert {center.num_classes for center in scores.per_center.values()} == {1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores.figures["balanced_accuracy"] == balanced_accuracy_score(targets, probabilities.argmax(1).numpy())


def test_many_classes_centers_and_patients_stay_small():
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 2000, 20_000)
    table = pd.DataFrame({"patient": patient.astype(str), "center": (patient % 185).astype(str), "race": "x"})
    targets = patient % 32
    units = TestUnits.of(table.assign(tumor=targets.astype(str)), "tumor", ["center"], ["race"])
    scorer = Scorer(targets, units, [str(n) for n in range(32)], num_replicates=50)
    probabilities = torch.from_numpy(rng.random((20_000, 32)))
    scores = scorer.score(probabilities / probabilities.sum(1, keepdim=True))
    assert len(scores.replicates["mcc"]) == 50 and scores.worst_group.num_empty > 0
    assert len(scores.per_center) == 185
