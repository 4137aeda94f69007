import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef, recall_score, roc_auc_score

from medi_monai.evaluation.probing.draws import FIGURES_OF_COUNTS, DemographicGaps
from medi_monai.evaluation.probing.scoring import Scorer, TestUnits
from medi_monai.results.probing import GroupAccuracy

CLASSES = ["A", "B", "C"]


def make(rows=400, patients=20, seed=0, **columns):
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, rows)
    table = pd.DataFrame({"patient": [f"p{n}" for n in patient], "center": patient % 4, "stain": patient % 3 % 2})
    table["sex"] = np.where(patient % 5 == 0, None, np.where(patient % 2, "f", "m"))
    targets = rng.integers(0, 3, rows)
    scores = rng.gamma(1.0, size=(rows, 3)) + 1.5 * np.eye(3)[targets] * rng.random((rows, 1))
    return table.assign(**columns), targets, torch.from_numpy(scores / scores.sum(1, keepdims=True))


def scorer_of(table, targets, attributes=("center",), demographics=("sex",), **kwargs):
    return Scorer(targets, TestUnits.of(table, attributes, demographics), CLASSES, **kwargs)


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


def test_replicates_draw_patients():
    table, targets, probabilities = make(demo=1)
    # some groups are no larger than the bound: in half of the samples they are below it
    scorer = scorer_of(table, targets, num_replicates=30, seed=5, min_count=33)
    sizes = pd.Series(targets).groupby([table["center"], targets]).size()
    known = sizes[sizes >= 33].index
    assert 3 < len(known) < 12
    replicates = scorer.score(probabilities).replicates
    predicted, units = probabilities.argmax(1).numpy(), scorer.units
    for number in range(30):
        times = scorer.drawn[number][units.code]
        # a patient comes as a whole
        assert (pd.Series(times).groupby(table["patient"]).nunique() == 1).all()
        rows = np.repeat(np.arange(len(targets)), times.astype(int))
        expected = balanced_accuracy_score(targets[rows], predicted[rows])
        assert replicates["balanced_accuracy"][number] == pytest.approx(expected, abs=1e-12)
        assert replicates["mcc"][number] == pytest.approx(matthews_corrcoef(targets[rows], predicted[rows]), abs=1e-9)
        groups = pd.Series((predicted == targets)[rows]).groupby([table["center"].to_numpy()[rows], targets[rows]])
        worst = groups.mean()[[name in known for name in groups.mean().index]].min()
        assert replicates["worst_group_accuracy"][number] == pytest.approx(worst, abs=1e-12)


def test_patients_who_are_all_alike_give_an_interval_of_no_width():
    patient = make(rows=60, patients=1)
    table = pd.concat([patient[0].assign(patient=f"p{n}") for n in range(8)], ignore_index=True)
    replicates = scorer_of(table, np.tile(patient[1], 8)).score(patient[2].repeat(8, 1)).replicates
    assert {name: np.ptp(replicates[name]) for name in FIGURES_OF_COUNTS} == pytest.approx(
        dict.fromkeys(FIGURES_OF_COUNTS, 0), abs=1e-12
    )
    # as many images of independent patients have one
    assert np.ptp(scorer_of(*make()[:2]).score(make()[2]).replicates["balanced_accuracy"]) > 0.02


def test_the_gains_of_patients_sum_to_the_balanced_accuracy():
    table, targets, probabilities = make()
    scorer = scorer_of(table, targets, attributes=("center", "stain"))
    scores = scorer.score(probabilities)
    assert sum(scores.gain.values()) == pytest.approx(scores.figures["balanced_accuracy"], abs=1e-12)
    assert set(scores.gain) == set(table["patient"])
    right = (probabilities.argmax(1).numpy() == targets) / (3 * np.bincount(targets)[targets])
    assert scores.gain["p3"] == pytest.approx(right[table["patient"] == "p3"].sum(), abs=1e-12)


def test_the_order_of_rows_does_not_matter():
    table, targets, probabilities = make()
    order = np.random.default_rng(1).permutation(len(targets))
    first = scorer_of(table, targets).score(probabilities)
    again = scorer_of(table.iloc[order], targets[order]).score(probabilities[order])
    assert again.replicates == first.replicates and again.gain == first.gain
    assert again.per_center == first.per_center and again.worst_group == first.worst_group


def test_what_is_undefined_is_not_zero():
    table, targets, probabilities = make(rows=12, patients=12)
    targets = np.full(12, 1)
    scores = scorer_of(table, targets).score(probabilities)
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
    units = TestUnits.of(table, ["center"], ["race"])
    scorer = Scorer(targets, units, [str(n) for n in range(32)], num_replicates=50)
    probabilities = torch.from_numpy(rng.random((20_000, 32)))
    scores = scorer.score(probabilities / probabilities.sum(1, keepdim=True))
    assert len(scores.replicates["mcc"]) == 50 and scores.worst_group.num_empty > 0
    assert len(scores.per_center) == 185
