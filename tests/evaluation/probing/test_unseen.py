"""In-domain patients are taken out of training; both tests are of one probe, which agrees with scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.evaluation.probing import DrawCondition, ImageSet, ProbeProtocol
from medi_monai.evaluation.probing.unseen import IN_DOMAIN, measure_unseen, take_in_domain
from medi_monai.evaluation.settings import ProbeSettings

SETTINGS = ProbeSettings(
    num_repeats=3, probe_replicates=50, sweep_repeats=1, sweep_correlations=[0.0, 1.0], c_values=[0.1]
)


def assign_domains(table, scheme):
    return take_in_domain(table, assign_splits(table, scheme), scheme)


def planted(shift, patients=6, patches=8, seed=0):
    """Three classes at three centers; a center moves the features along the direction between two classes."""
    rng = np.random.default_rng(seed)
    rows, features = [], []
    for code, label in enumerate("ABC"):
        for center in range(3):
            for patient in range(patients):
                name = f"{label}{center}{patient}"
                for _ in range(patches):
                    rows.append((f"i{len(rows):04d}", name, label, f"H{center}"))
                    features.append(2.0 * np.eye(6)[code] + shift * np.eye(6)[(center + 1) % 3])
    table = pd.DataFrame(rows, columns=["image", "patient", "label", "center"])
    return np.array(features) + rng.normal(size=(len(rows), 6)), table


def test_in_domain_patients_have_combinations_of_training_and_no_patient_is_in_two_parts():
    _, table = planted(0.0)
    scheme = SplitScheme(("label", "center"), name="combination_holdout", seed=3)
    split = assign_domains(table, scheme)
    assert set(split) == {"train", "val", "holdout", IN_DOMAIN}
    assert table.groupby("patient").apply(lambda rows: split[rows.index].nunique()).max() == 1
    of = {name: set(map(tuple, table.loc[split == name, ["label", "center"]].to_numpy())) for name in set(split)}
    assert of[IN_DOMAIN] <= of["train"] and not of["holdout"] & of["train"]
    # three tenths of the five patients that validation has left of each combination
    assert table[split == IN_DOMAIN].groupby(["label", "center"])["patient"].nunique().unique().tolist() == [2]
    assert assign_domains(table[::-1], scheme).sort_index().equals(split)


def test_folds_of_patients_are_in_domain_themselves():
    _, table = planted(0.0)
    split = assign_domains(table, SplitScheme(("label", "center"), name="patient_kfold"))
    assert IN_DOMAIN not in set(split)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_accuracies_are_those_of_scikit_learn_and_fall_where_the_center_misleads(tmp_path, shift):
    features, table = planted(shift)
    split = assign_domains(table, SplitScheme(("label", "center"), name="combination_holdout", seed=3))
    rows = table.assign(split=split)
    found, correlation = measure_unseen(
        features, rows, "label", ["center"], SETTINGS, "combination_holdout", tmp_path, num_workers=1
    )
    by_test = {IN_DOMAIN: found.in_domain, "holdout": found.unseen}
    held = rows.assign(split=split.replace(IN_DOMAIN, "excluded"))
    protocol = ProbeProtocol({"real": ImageSet(features, held)}, {}, [], "label", ["center"], [0.1])
    for repeat in range(3):
        train = protocol._draw(repeat, DrawCondition())[0]
        scale = StandardScaler().fit(features[train])
        probe = LogisticRegression(C=0.1, tol=1e-10, max_iter=2000)
        probe.fit(scale.transform(features[train]), table["label"].iloc[train])
        for name, accuracy in by_test.items():
            test = np.flatnonzero(split == name)
            expected = balanced_accuracy_score(
                table["label"].iloc[test], probe.predict(scale.transform(features[test]))
            )
            assert accuracy.balanced_accuracy.repeats[repeat] == pytest.approx(expected, abs=1e-9)
            assert accuracy.test.n == len(test)
    gap = found.in_domain.balanced_accuracy.value - found.unseen.balanced_accuracy.value
    assert found.drop.difference.value == pytest.approx(gap)
    assert found.drop.difference.ci95[0] < gap < found.drop.difference.ci95[1]
    assert (gap > 0.1) == (shift > 0)
    assert found.unseen.test.what == "combinations of class and center not seen in training"
    assert found.in_domain.test.what == "other patients, combinations of class and center seen in training"
    assert set(correlation.arms) == {"real"} and correlation.num_squares > 0


def test_a_repeated_run_takes_the_stored_draws(tmp_path, monkeypatch):
    features, table = planted(1.0, patients=4, patches=3)
    rows = table.assign(split=assign_domains(table, SplitScheme(("label", "center"), name="combination_holdout")))
    options = (features, rows, "label", ["center"], SETTINGS, "combination_holdout", tmp_path)
    first = measure_unseen(*options, num_workers=1)
    monkeypatch.setattr(ProbeProtocol, "run", lambda *_: pytest.fail("drawn again"))
    assert measure_unseen(*options, num_workers=1) == first


def test_without_unseen_combinations_there_is_no_drop(tmp_path):
    features, table = planted(1.0, patients=4, patches=3)
    rows = table.assign(split=assign_domains(table, SplitScheme(("label", "center"), name="patient_kfold")))
    found, _ = measure_unseen(features, rows, "label", ["center"], SETTINGS, "patient_kfold", tmp_path, num_workers=1)
    assert found.unseen is None and found.drop is None and found.in_domain.test.n == (rows["split"] == "holdout").sum()
