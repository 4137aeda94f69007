"""The schemes on the slides of TCGA."""

import pytest

from medi_monai.cohort.splits import SplitScheme, assign_splits


def test_the_published_split_has_the_published_counts(tcga):
    scheme = SplitScheme(["project_id", "site", "gender", "race"], "medi_2025")
    split = assign_splits(tcga, scheme)
    train, holdout = tcga[split == "train"], tcga[split == "holdout"]
    assert (len(train), len(holdout), len(tcga)) == (7061, 1665, 8726)
    assert (train["site"].nunique(), holdout["site"].nunique()) == (398, 228)
    for column in ("site", "patient"):
        assert not set(train[column]) & set(holdout[column])
    shuffled = tcga.assign(row=range(len(tcga))).sample(frac=1, random_state=0)
    assert assign_splits(shuffled, scheme).sort_index().equals(split)


@pytest.mark.parametrize("seed", range(3))
def test_combinations_leave_every_class_and_center_in_training(tcga, seed):
    columns = ["project_id", "center"]
    split = assign_splits(tcga, SplitScheme(columns, seed=seed))
    train, holdout = tcga[split == "train"], tcga[split == "holdout"]
    assert (train["project_id"].nunique(), train["center"].nunique()) == (32, tcga["center"].nunique())
    pairs, held = (set(rows[columns].itertuples(index=False, name=None)) for rows in (train, holdout))
    assert not pairs & held and len(held) == round(0.3 * len(pairs | held))
    assert not set(holdout["patient"]) & set(tcga.loc[split.isin(["train", "val"]), "patient"])


@pytest.mark.parametrize("name", ["subpopulation_holdout", "site_holdout", "patient_kfold"])
def test_every_class_is_in_training_and_in_the_holdout(tcga, name):
    split = assign_splits(tcga, SplitScheme(["project_id", "center", "race"], name))
    for side in ("train", "holdout"):
        assert tcga.loc[split == side, "project_id"].nunique() == 32
    if name == "site_holdout":
        assert not set(tcga.loc[split == "holdout", "center"]) & set(tcga.loc[split != "holdout", "center"])
