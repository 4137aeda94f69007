"""Figures of a planted shortcut, features = class direction + center direction, agree with scikit-learn and loops."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from medi_monai.evaluation.probes import probe_accuracy
from medi_monai.evaluation.shortcuts.figures import column_accuracy, predicted_rows, shortcut_figures


def planted(strength=1.0, shift=1.0, patients=6, patches=5, seed=0):
    """Two classes at two centers, each combination with the same number of patients, slides and patches."""
    rng = np.random.default_rng(seed)
    rows = [
        {"label": label, "center": center, "patient": f"{label}{center}{patient}", "slide": f"{label}{center}{patient}"}
        for label in "AB"
        for center in "XY"
        for patient in range(patients)
        for _ in range(patches)
    ]
    table = pd.DataFrame(rows)
    table["image"] = [f"i{number:04d}" for number in range(len(table))]
    directions = np.eye(8)
    features = rng.normal(size=(len(table), 8))
    features += strength * (table["label"] == "B").to_numpy()[:, None] * directions[0]
    features += shift * (table["center"] == "Y").to_numpy()[:, None] * directions[1]
    return features, table


def index_by_loops(features, table, k):
    """PathoROB's index of a single pair, counted one neighbor at a time."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    good = bad = 0
    for row in range(len(table)):
        own = table.iloc[row]
        others = [other for other in range(len(table)) if table["slide"].iloc[other] != own["slide"]]
        for other in sorted(others, key=lambda other: -unit[row] @ unit[other])[:k]:
            near = table.iloc[other]
            same_class, same_center = near["label"] == own["label"], near["center"] == own["center"]
            good += same_class and not same_center
            bad += same_center and not same_class
    return good / (good + bad)


@pytest.mark.parametrize("strength, shift", [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0)])
def test_the_robustness_index_is_that_of_loops_and_follows_the_stronger_direction(strength, shift):
    features, table = planted(strength, shift, patients=4, patches=3)
    found = shortcut_figures(features, table, "label", "center", [1.0])
    assert found.robustness_index.n == len(table)
    assert found.robustness_index.value == pytest.approx(index_by_loops(features, table, found.robustness_index.k))
    if strength != shift:
        assert (found.robustness_index.value > 0.5) == (strength > shift)
        assert (found.clustering_score.value > 0) == (strength > shift)
    assert found.correlation.arms == {}


def test_the_accuracy_of_a_column_is_that_of_scikit_learn():
    features, table = planted(1.0, 2.0)
    found = column_accuracy(features, table, "center", [0.1], num_replicates=200)
    # the same division into thirds, and the same objective
    codes = (table["center"] == "Y").to_numpy(int)
    patients = pd.factorize(table["patient"], sort=True)[0]
    from medi_monai.evaluation.probes import accuracy

    third = accuracy._dealt(codes, patients, 0)
    predicted = np.empty(len(codes), int)
    for fold in range(3):
        train, test = third == fold, third == (fold + 2) % 3
        scale = StandardScaler().fit(features[train])
        weights = len(codes[train]) / (2 * np.bincount(codes[train]))
        probe = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000)
        probe.fit(scale.transform(features[train]), codes[train], sample_weight=weights[codes[train]])
        predicted[test] = probe.predict(scale.transform(features[test]))
    assert found.value == pytest.approx(balanced_accuracy_score(codes, predicted))
    assert found.chance == 0.5 and found.n == len(table)


def test_the_interval_counts_patients_and_not_patches():
    features, table = planted(0.5, 1.0, patients=12, patches=4)
    alone = column_accuracy(features, table, "center", [0.1], num_replicates=400)
    assert alone.ci95[0] < alone.value < alone.ci95[1]
    # each patch ten times adds no patient, and leaves the interval as it is
    tenfold = np.repeat(np.arange(len(table)), 10)
    again = column_accuracy(features[tenfold], table.iloc[tenfold], "center", [0.01], num_replicates=400)
    assert np.diff(again.ci95) == pytest.approx(np.diff(alone.ci95), rel=0.35)
    assert column_accuracy(features, table, "center", [0.1]).ci95 is None


def test_the_interval_has_the_standard_error_of_independent_patients():
    # one patch per patient: balanced accuracy is the mean of two independent shares
    rng = np.random.default_rng(1)
    codes = np.repeat([0, 1], 150)
    features = rng.normal(size=(300, 2)) + codes[:, None]
    found = probe_accuracy(features, codes, np.arange(300), [1.0], num_replicates=4000)
    half = np.diff(found.ci95)[0] / 2
    share = found.value
    assert half == pytest.approx(1.97 * np.sqrt(share * (1 - share) / 300), rel=0.1)


def test_the_rows_to_predict_are_spread_and_do_not_depend_on_their_order(monkeypatch):
    monkeypatch.setattr("medi_monai.evaluation.shortcuts.figures.MAX_PREDICTED", 20)
    _, table = planted()
    groups = table.groupby(["label", "center"]).ngroup().to_numpy()
    chosen = predicted_rows(table, groups, 0)
    assert len(chosen) == 20 and np.bincount(groups[chosen]).tolist() == [5, 5, 5, 5]
    turned = predicted_rows(table[::-1].reset_index(drop=True), groups[::-1], 0)
    assert sorted(len(table) - 1 - turned) == sorted(chosen)
