import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.captions import PatientSplit
from medi_monai.utils.errors import InputError


def rows(num_patients=400, seed=0, pictures=3):
    rng = np.random.default_rng(seed)
    patients = pd.DataFrame(
        {
            "patient": [f"P{number:04d}" for number in range(num_patients)],
            "sex": rng.choice(["male", "female"], num_patients, p=[0.8, 0.2]),
            "race": rng.choice(["white", "black", "asian", ""], num_patients, p=[0.85, 0.1, 0.02, 0.03]),
            "age": rng.integers(20, 90, num_patients).astype(str),
        }
    )
    return patients.loc[patients.index.repeat(pictures)].reset_index(drop=True)


@pytest.mark.parametrize("seed", range(5))
def test_patients_are_on_one_side_in_the_wanted_shares(seed):
    table = rows(seed=seed)
    split = PatientSplit(val_fraction=0.1, holdout_fraction=0.2, seed=seed).assign(table, ["sex", "race", "age"])
    assert table.assign(split=split).groupby("patient")["split"].nunique().max() == 1
    shares = split.value_counts(normalize=True)
    assert abs(shares["val"] - 0.1) < 0.02 and abs(shares["holdout"] - 0.2) < 0.02
    of_sex = pd.crosstab(table["sex"], split, normalize="index")
    assert (abs(of_sex["val"] - 0.1) < 0.03).all() and (abs(of_sex["holdout"] - 0.2) < 0.03).all()


def test_the_split_does_not_depend_on_the_order_or_number_of_rows():
    table = rows(120)
    plan = PatientSplit(["sex", "race"])
    by_patient = dict(zip(table["patient"], plan.assign(table)))
    mixed = table.sample(frac=1, random_state=3)
    assert plan.assign(mixed).tolist() == [by_patient[patient] for patient in mixed["patient"]]
    assert plan.assign(mixed).index.equals(mixed.index)
    once = table.drop_duplicates("patient")
    assert plan.assign(once).tolist() == [by_patient[patient] for patient in once["patient"]]
    assert PatientSplit(["sex", "race"], seed=1).assign(table).tolist() != plan.assign(table).tolist()


def test_rare_values_of_the_first_column_are_in_every_part():
    table = rows(100)
    table["site"] = np.where(table["patient"].isin(table["patient"].unique()[:4]), "rare", "large")
    split = PatientSplit(["site", "sex", "race"]).assign(table)
    assert sorted(split[table["site"] == "rare"].unique()) == ["holdout", "train", "val"]


def test_patients_with_several_values_are_kept_together():
    table = rows(200)
    rng = np.random.default_rng(0)
    table["site"] = rng.choice(list("ABC"), len(table))
    split = PatientSplit(["site"]).assign(table)
    assert table.assign(split=split).groupby("patient")["split"].nunique().max() == 1
    assert set(split) == {"train", "val", "holdout"}


def test_a_fraction_of_zero_holds_nothing_out():
    split = PatientSplit(["sex"], val_fraction=0, holdout_fraction=0.2).assign(rows(50))
    assert set(split) == {"train", "holdout"}
    assert set(PatientSplit(None, 0, 0).assign(rows(5))) == {"train"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 1}, r"\[0, 1\)"),
        ({"holdout_fraction": "0.1"}, r"\[0, 1\)"),
        ({"val_fraction": 0.5, "holdout_fraction": 0.5}, "below 1"),
        ({"columns": "sex"}, "list of attributes"),
        ({"seed": 0.5}, "whole number"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        PatientSplit(**settings)


def test_tables_that_cannot_be_split_are_errors():
    with pytest.raises(InputError, match="none can be held out"):
        PatientSplit(["sex"]).assign(rows(2))
    with pytest.raises(InputError, match="did you mean 'sex'"):
        PatientSplit(["sexx"]).assign(rows(9))
    with pytest.raises(InputError, match="without a patient"):
        PatientSplit().assign(rows(9).assign(patient=""))
