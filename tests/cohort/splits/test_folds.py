import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.utils.errors import InputError


def table_of(labels):
    """Rows of patients with so many labels each."""
    rows = [(patient, label) for patient, own in labels.items() for label in own]
    return pd.DataFrame(rows, columns=["patient", "label"])


def folds_of(rows, num_folds, seed=0, **changes):
    """The patients that each fold holds out."""
    schemes = [
        SplitScheme(["label"], "patient_kfold", num_folds=num_folds, fold=fold, seed=seed, **changes)
        for fold in range(num_folds)
    ]
    return [set(rows.loc[assign_splits(rows, scheme) == "holdout", "patient"]) for scheme in schemes]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_the_holdouts_partition_the_patients_and_are_stratified(random_table, seed, num_folds):
    rows = random_table(seed)
    folds = folds_of(rows, num_folds, seed)
    assert set.union(*folds) == set(rows["patient"]) and sum(map(len, folds)) == rows["patient"].nunique()
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for _, patients in rows.groupby("label")["patient"]:
        counts = [len(fold & set(patients)) for fold in folds]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1


def test_what_is_not_held_out_trains(random_table):
    rows = random_table(0, missing=0.3)
    split = assign_splits(rows, SplitScheme(["label", "center"], "patient_kfold", val_fraction=0))
    assert set(split) == {"train", "holdout"}


def test_the_fraction_and_missing_attributes_do_not_matter(random_table):
    rows = random_table(0)
    blank = rows.assign(center="")
    settings = {"num_folds": 4, "val_fraction": 0}
    split = assign_splits(rows, SplitScheme(["label", "center"], "patient_kfold", fraction=0.9, **settings))
    assert assign_splits(blank, SplitScheme(["label", "center"], "patient_kfold", fraction=0, **settings)).equals(split)


def test_classes_with_fewer_patients_than_folds_are_named():
    rows = pd.DataFrame({"label": list("aaaaabbccc"), "patient": [f"p{number}" for number in range(10)]})
    with pytest.raises(InputError, match=r"num_folds = 4.*too small: 'b' \(2 patients\), 'c' \(3 patients\)\. Use"):
        folds_of(rows, 4)
    folds_of(rows, 2)


@pytest.mark.parametrize("seed", range(20))
def test_patients_with_several_labels_are_dealt_so_that_every_class_is_in_every_fold(seed):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        [
            (f"p{patient}", label)
            for patient in range(40)
            for label in rng.choice(list("abc"), rng.integers(1, 4), False)
        ],
        columns=["patient", "label"],
    )
    folds = folds_of(rows, 4, seed)
    assert set.union(*folds) == set(rows["patient"]) and sum(map(len, folds)) == 40
    for _, patients in rows.groupby("label")["patient"]:
        counts = [len(fold & set(patients)) for fold in folds]
        assert min(counts) >= 0.5 * len(set(patients)) / 4


def test_a_class_whose_patients_cannot_be_dealt_to_every_fold_is_refused():
    # six patients, each with two of four labels: three folds of two patients, and each label has three
    pairs = ["ab", "ac", "ad", "bc", "bd", "cd"]
    rows = pd.DataFrame(
        [(f"p{n}", label) for n, pair in enumerate(pairs) for label in pair], columns=["patient", "label"]
    )
    refused = 0
    for seed in range(20):
        try:
            folds = folds_of(rows, 3, seed)
        except InputError as error:
            assert "is not in every fold, because its patients have other labels" in str(error)
            refused += 1
            continue
        for fold in folds:
            assert set(rows.loc[rows["patient"].isin(fold), "label"]) == set("abcd")
    assert refused < 20
