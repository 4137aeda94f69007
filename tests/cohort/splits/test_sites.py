import itertools

import pandas as pd
import pytest

from medi_monai.cohort.splits import SplitScheme, assign_splits, site_holdout
from medi_monai.utils.errors import InputError

COLUMNS = ("label", "center")


def table_of(**centers):
    """``t0="aab"``: two patients of class ``t0`` at center ``a``, and one at ``b``."""
    rows = [(f"{label}-{number}", label, center) for label, at in centers.items() for number, center in enumerate(at)]
    return pd.DataFrame(rows, columns=["patient", *COLUMNS])


def left_by(rows, held):
    """Classes with a patient in training and in the holdout, if these centers are held out; patient by patient."""
    centers, labels = {}, {}
    for row in rows.itertuples():
        centers.setdefault(row.patient, set()).add(row.center)
        labels.setdefault(row.patient, set()).add((row.label, row.center))
    trained, tested = set(), set()
    for patient, at in centers.items():
        for label, center in labels[patient]:
            if center in held:
                tested.add(label)
            elif center and not at & set(held):
                trained.add(label)
    return trained, tested


@pytest.mark.parametrize("seed", range(30))
def test_whole_centers_are_held_out_and_every_class_trains(random_table, seed):
    rows = random_table(seed, missing=0.1 * (seed % 2), several=0.1 * (seed % 3))
    split = assign_splits(rows, SplitScheme(COLUMNS, "site_holdout", seed=seed))
    held = set(rows.loc[split == "holdout", "center"])
    centers = set(rows["center"]) - {""}
    assert len(held) == round(0.3 * len(centers)) and "" not in held
    assert not held & set(rows.loc[split != "holdout", "center"])
    assert set(rows.loc[split == "train", "label"]) == left_by(rows, held)[0] == set(rows["label"])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 0.8])
def test_the_choice_is_as_good_as_the_best_of_all_and_refused_where_there_is_none(random_table, seed, fraction):
    # few patients, so that classes are easily lost
    rows = random_table(seed, several=0.2, patients=12)
    rows["label"] = rows["patient"].str[-1].map(lambda digit: f"t{int(digit) % 5}")
    centers = sorted(set(rows["center"]))
    wanted = max(1, round(fraction * len(centers)))
    results = [left_by(rows, set(held)) for held in itertools.combinations(centers, wanted)]
    possible = [len(tested) for trained, tested in results if trained == set(rows["label"])]
    scheme = SplitScheme(COLUMNS, "site_holdout", fraction=fraction, seed=seed)
    if not possible:
        with pytest.raises(InputError, match=rf"\d of {wanted} centers can be held out.*Lower"):
            site_holdout(rows, scheme)
        return
    held = site_holdout(rows, scheme)
    trained, tested = left_by(rows, held)
    assert len(held) == wanted and trained == set(rows["label"]) and len(tested) == max(possible)


def test_a_class_at_one_center_stays_in_training():
    rows = table_of(t0="abcd", t1="aaa", t2="bcd")
    for seed in range(10):
        assert "a" not in site_holdout(rows, SplitScheme(COLUMNS, "site_holdout", seed=seed))


def test_named_centers_are_held_out_instead_of_a_fraction():
    rows = table_of(t0="abcd", t1="abc")
    scheme = SplitScheme(COLUMNS, "site_holdout", fraction=0, val_fraction=0, values=["d", "b"])
    assert site_holdout(rows, scheme) == {"b", "d"}
    assert assign_splits(rows, scheme).tolist() == ["train", "holdout", "train", "holdout"] + [
        "train",
        "holdout",
        "train",
    ]


def test_named_centers_that_a_class_cannot_spare_are_refused_with_the_class():
    rows = table_of(t0="abcd", t1="abb")
    with pytest.raises(InputError, match=r"holding out \['a', 'b'\] leaves no patient in training of 't1' \(3 patien"):
        assign_splits(rows, SplitScheme(COLUMNS, "site_holdout", values=["a", "b"]))
    # the one patient of the class at another center leaves with the rows at center ``a``
    moved = pd.concat([table_of(t0="abcd"), pd.DataFrame({"patient": "p", "label": "t1", "center": ["a", "b"]})])
    with pytest.raises(InputError, match=r"of 't1' \(1 patient\)"):
        assign_splits(moved, SplitScheme(COLUMNS, "site_holdout", values=["a"]))


def test_an_unknown_center_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown center 'Aspin': did you mean 'Aspen'"):
        assign_splits(table_of(t0=["Aspen", "Birch"]), SplitScheme(COLUMNS, "site_holdout", values=["Birch", "Aspin"]))


def test_a_fraction_that_classes_cannot_spare_names_them_with_their_centers():
    rows = table_of(t0="abcd", t1="ab", t2="c")
    with pytest.raises(InputError, match=r"2 of 3 centers.*of 't2' \(1 center\), 't1' \(2 centers\)\. Lower"):
        assign_splits(rows, SplitScheme(COLUMNS, "site_holdout", fraction=0.75))


def test_rows_without_a_center_are_on_neither_side():
    rows = table_of(t0=["a", "b", "c", ""], t1=["a", "b", "c", ""])
    split = assign_splits(rows, SplitScheme(COLUMNS, "site_holdout", val_fraction=0))
    assert set(split[rows["center"] == ""]) == {"excluded"}
    assert set(assign_splits(rows, SplitScheme(COLUMNS, "site_holdout", fraction=0, val_fraction=0))) == {"train"}
    rows = table_of(t0=["a", "b", "c"], t1=["", ""])
    for choice in ({"values": ["a"]}, {"fraction": 0.3}):
        with pytest.raises(InputError, match=r"of 't1' \(2 patients\).*Fill in their centers"):
            assign_splits(rows, SplitScheme(COLUMNS, "site_holdout", **choice))


def test_centers_that_bring_a_class_to_the_holdout_come_first():
    # six of a hundred centers, one of each of six pairs: by chance, that is not to be expected
    pairs = {f"t{number}": [f"c{number}", f"c{number + 50}"] for number in range(6)}
    rows = table_of(common=[f"c{number}" for number in range(100)], **pairs)
    for seed in range(10):
        held = site_holdout(rows, SplitScheme(COLUMNS, "site_holdout", fraction=0.06, seed=seed))
        assert all(len(held & set(pair)) == 1 for pair in pairs.values()) and len(held) == 6
