import warnings

import numpy as np
import pandas as pd
import pytest
from probe_sets import CS, DIM, LABELS, features_of, make, real_table, recolored_set, synthetic_set
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

from medi_monai.evaluation.probing import BASELINES, DrawCondition, ImageSet, ProbeProtocol
from medi_monai.evaluation.probing import protocol as module
from medi_monai.evaluation.probing.arms import RECOLORED, variants_of
from medi_monai.utils.errors import InputError


@pytest.fixture
def fits(monkeypatch):
    """What every arm was fitted on: rows by array, targets, weights, validation and test rows."""
    seen = []
    original = ProbeProtocol._fit

    def record(self, arm, sources, targets, weights, val, tested, rng):
        view, test = tested
        seen.append({"parts": sources, "targets": targets, "weights": weights, "view": view, "val": val, "test": test})
        return original(self, arm, sources, targets, weights, val, tested, rng)

    monkeypatch.setattr(ProbeProtocol, "_fit", record)
    return seen


def oracle(fit, labels):
    train = np.concatenate([features[rows] for features, rows in fit["parts"]])
    scaler = StandardScaler().fit(train.astype(float))
    best = None
    for c in CS:
        with warnings.catch_warnings():
            # at this tolerance its line search ends in rounding errors, and it says so
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=c, tol=1e-10, max_iter=5000, solver="newton-cg")
            model.fit(scaler.transform(train), fit["targets"], sample_weight=fit["weights"])
        known = labels[fit["val"]]
        balanced = 1 / np.bincount(known)[known]
        probabilities = model.predict_proba(scaler.transform(fit["view"][fit["val"]]))
        loss = log_loss(known, probabilities, sample_weight=balanced, labels=model.classes_)
        best = (loss, c, model) if best is None or loss < best[0] else best
    return best[1], best[2].predict_proba(scaler.transform(fit["view"][fit["test"]]))


def test_every_arm_is_what_scikit_learn_makes_of_the_same_rows(fits):
    table = real_table()
    copy = ImageSet(features_of(table, 5), table)
    recolored = {name: recolored_set(table, 8, 7) for name in RECOLORED}
    views = {"stain_normalized": ImageSet(features_of(table, 6), table)}
    protocol = make(table, augmented=[copy], views=views, derived=recolored)
    names = [*(name for name, arm in BASELINES.items() if not (arm.head or arm.aligned or arm.ceiling)), "medi"]
    outcomes = list(protocol.run(names, 0))
    assert [outcome.arm for outcome in outcomes] == names
    for outcome, fit in zip(outcomes, fits, strict=True):
        fit = {**fit, "test": fit["test"][: len(protocol.test)]}
        c, probabilities = oracle(fit, protocol.labels)
        assert outcome.c == c and outcome.converged
        np.testing.assert_allclose(outcome.probabilities, probabilities, atol=1e-4)
        right = outcome.probabilities.argmax(1).numpy() == protocol.labels[protocol.test]
        assert right.mean() == (probabilities.argmax(1) == protocol.labels[protocol.test]).mean()
        _, of_val = oracle({**fit, "test": fit["val"]}, protocol.labels)
        known = protocol.labels[fit["val"]]
        assert outcome.in_domain_accuracy == pytest.approx(balanced_accuracy_score(known, of_val.argmax(1)))


@pytest.mark.parametrize("name", [name for name, arm in BASELINES.items() if arm.aligned])
def test_features_are_aligned_by_center_in_training_validation_and_test(fits, name):
    protocol = make()
    (outcome,) = protocol.run([name], 0)
    ((view, rows),), fit = fits[0]["parts"], fits[0]
    centers = pd.factorize(protocol.table["center"], sort=True)[0]
    aligned = module.ALIGNMENTS[name](view[rows], protocol.labels[rows], centers[rows]).apply(view.copy(), centers)
    tested = fit["test"][: len(protocol.test)]
    c, probabilities = oracle({**fit, "parts": [(aligned, rows)], "view": aligned, "test": tested}, protocol.labels)
    assert outcome.c == c and outcome.num_added == 0
    np.testing.assert_allclose(outcome.probabilities, probabilities, atol=1e-4)
    assert not np.allclose(aligned, view, atol=0.1)


@pytest.mark.parametrize("name", [name for name, arm in BASELINES.items() if arm.head])
def test_heads_are_fitted_to_combinations_and_choose_c_on_validation(fits, name, monkeypatch):
    protocol = make(real_table(images=9))
    probes = []
    original = module.choose_probe

    def keep(candidates, features, labels):
        probes.append((candidates, original(candidates, features, labels)))
        return probes[-1][1]

    monkeypatch.setattr(module, "choose_probe", keep)
    plain, robust = protocol.run(["real", name], 0)
    view, rows = fits[1]["parts"][0]
    scaler = StandardScaler().fit(view[rows].astype(float))
    candidates = dict(zip(CS, probes[0][0], strict=True))
    known, test = (scaler.transform(view[rows]) for rows in (fits[1]["val"], protocol.test))
    labels = protocol.labels[fits[1]["val"]]
    losses = {
        c: log_loss(labels, probe.probabilities(known), sample_weight=1 / np.bincount(labels)[labels])
        for c, probe in candidates.items()
    }
    assert robust.c == min(losses, key=losses.get)
    np.testing.assert_allclose(robust.probabilities, candidates[robust.c].probabilities(test), atol=1e-5)
    # combinations have different sizes, so all probes differ from those that ignore them
    assert not np.allclose(robust.probabilities, plain.probabilities, atol=1e-3)


def test_all_arms_share_real_rows_and_no_patient_is_on_two_sides(fits):
    protocol = make()
    outcomes = list(protocol.run(["real", "reweighted", "cls", "medi"], 3))
    first = fits[0]["parts"][0][1]
    assert all(np.array_equal(fit["parts"][0][1], first) for fit in fits)
    patient, split = protocol.table["patient"].to_numpy(), protocol.table["split"].to_numpy()
    assert set(split[first]) == {"train"} and set(split[fits[0]["test"]]) == {"holdout", "val"}
    assert not set(patient[first]) & set(patient[fits[0]["val"]])
    assert not set(patient[first]) & set(patient[fits[0]["test"]])
    # a bootstrap within combinations: all are there, each with as many patients as there are, some twice
    assert set(protocol.groups[first]) == set(protocol.groups[protocol.train])
    assert len(set(patient[first])) < len(set(patient[protocol.train]))
    assert {outcome.num_added for outcome in outcomes[2:]} == {outcomes[2].num_added} != {0}
    other = list(protocol.run(["real"], 4)) and fits[-1]["parts"][0][1]
    assert not np.array_equal(other, first)


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, None), (1.0, 21), (50.0, 21)])
def test_synthetic_images_are_as_many_of_each_class_in_all_arms_and_evenly_spread(fits, ratio, expected):
    # classes of unequal size: the smallest class of the smallest set has 3 x 7 images
    protocol = make(real_table(images=12))
    list(protocol.run(["cls", "medi"], 0, DrawCondition(ratio)))
    num_real = len(fits[0]["parts"][0][1])
    expected = expected or round(ratio * num_real / 3)
    for name, fit in zip(("cls", "medi"), fits):
        rows = fit["parts"][1][1]
        # of a bootstrap sample of the set: some images are there twice, others not at all
        assert 0.4 < len(np.unique(rows)) / len(rows) < 0.9
        table = protocol.synthetic[name].table.iloc[rows]
        assert table["label"].value_counts().to_dict() == dict.fromkeys(LABELS, expected)
        assert np.ptp(table.groupby(["label", "center"]).size()) <= 1
        assert (np.array(LABELS)[fit["targets"][num_real:]] == table["label"]).all()


def test_recolored_images_are_as_many_as_generated_ones_and_change_no_other_arm(fits):
    table = real_table(images=12)
    recolored = {"stain_transfer": recolored_set(table, 6, 7)}
    (medi,) = make(table).run(["medi"], 0)
    outcomes = list(make(table, derived=recolored).run(["medi", "stain_transfer"], 0))
    # the smallest class of the generated images has 3 x 7 images, of the recolored ones 3 x 6
    assert [outcome.num_added for outcome in outcomes] == [63, 54]
    assert np.array_equal(outcomes[0].probabilities, medi.probabilities)
    many = {"stain_transfer": recolored_set(table, 20, 7)}
    protocol = make(table, derived=many)
    (outcome,) = protocol.run(["stain_transfer"], 0)
    added = many["stain_transfer"].table.iloc[fits[-1]["parts"][1][1]]
    assert outcome.num_added == 63 and set(added.groupby(["label", "center"]).size()) == {7}
    # without generated images, as many as the ratio requests
    protocol = make(table, sets={}, derived=many)
    (outcome,) = protocol.run(["stain_transfer"], 0, DrawCondition(0.25))
    assert outcome.num_added == 3 * round(0.25 * outcome.num_real / 3)


def test_filtered_images_are_those_whose_class_a_probe_of_real_images_predicts(fits):
    table = real_table(images=12)
    medi = synthetic_set(30, 2)
    protocol = make(table, sets={"medi": medi}, variants=variants_of("medi", ["filtered"]))
    (outcome,) = protocol.run(["medi_filtered"], 0, DrawCondition(50.0))
    of_filter, fit = fits
    assert len(of_filter["parts"]) == 1 and np.array_equal(of_filter["parts"][0][1], fit["parts"][0][1])
    _, probabilities = oracle({**of_filter, "view": np.vstack([features_of(table), medi.features]),
                               "test": len(table) + np.arange(len(medi))}, protocol.labels)  # fmt: skip
    kept = np.array(LABELS)[probabilities.argmax(1)] == medi.table["label"]
    added = fit["parts"][1][1]
    # of every class as many as the class has of which the fewest are recognized
    fewest = medi.table["label"][kept].value_counts().min()
    assert kept[added].all() and 0 < fewest < 90 and not kept.all()
    assert medi.table["label"].iloc[added].value_counts().to_dict() == dict.fromkeys(LABELS, fewest)
    assert outcome.num_added == 3 * fewest


def test_images_of_seen_combinations_are_those_with_real_training_images(fits):
    table, medi = real_table(), synthetic_set(7, 2)
    protocol = make(table, sets={"medi": medi}, variants=variants_of("medi", ["seen"]))
    list(protocol.run(["medi_seen"], 0, DrawCondition(50.0)))
    added = medi.table.iloc[fits[0]["parts"][1][1]]
    trained = set(table.loc[table["split"] == "train", ["label", "center"]].itertuples(index=False, name=None))
    assert set(added[["label", "center"]].itertuples(index=False, name=None)) == trained
    # of every class as many as the class has that lacks most
    assert set(added["label"].value_counts()) == {14} and {("A", "s"), ("B", "w")}.isdisjoint(trained)


def test_the_ceiling_adds_test_patients_who_are_not_the_ones_it_tests(fits):
    protocol = make()
    real, ceiling = protocol.run(["real", "ceiling"], 0)
    first, second = fits[1:]
    tested = [set(fit["test"][: -len(fit["val"])]) for fit in (first, second)]
    assert tested[0] | tested[1] == set(protocol.test) and not tested[0] & tested[1]
    probabilities = np.zeros_like(real.probabilities)
    position = {row: number for number, row in enumerate(protocol.test)}
    for fit, rows in zip((first, second), tested):
        added = fit["parts"][1][1]
        assert np.array_equal(fit["parts"][0][1], fits[0]["parts"][0][1]) and len(set(added)) == len(added)
        assert not set(protocol.patients[added]) & set(protocol.patients[list(rows)])
        # every combination is on both sides, and each class adds no more than the ratio requests
        assert set(protocol.groups[added]) == set(protocol.groups[list(rows)]) == set(protocol.groups[protocol.test])
        assert np.bincount(protocol.labels[added]).max() <= round(0.5 * ceiling.num_real / 3) + 21
        known = fit["test"][: -len(fit["val"])]
        _, of_fit = oracle({**fit, "test": known}, protocol.labels)
        probabilities[[position[row] for row in known]] = of_fit
    np.testing.assert_allclose(ceiling.probabilities, probabilities, atol=1e-4)
    assert ceiling.num_added == round(np.mean([len(fit["parts"][1][1]) for fit in (first, second)]))
    right = {
        outcome.arm: (outcome.probabilities.argmax(1).numpy() == protocol.labels[protocol.test]).mean()
        for outcome in (real, ceiling)
    }
    assert right["ceiling"] > right["real"]


def test_normalized_generated_images_are_added_to_the_normalized_real_ones(fits):
    table, medi = real_table(), synthetic_set(7, 2)
    normalized = ImageSet(features_of(medi.table, 8), medi.table)
    views = {"stain_normalized": ImageSet(features_of(table, 6), table)}
    derived, variants = {"medi_normalized": normalized}, variants_of("medi", ["normalized"])
    protocol = make(table, sets={"medi": medi}, views=views, derived=derived, variants=variants)
    plain, changed = protocol.run(["medi", "medi_normalized"], 0)
    (real, rows), (generated, added) = fits[1]["parts"]
    assert real is views["stain_normalized"].features is fits[1]["view"] and generated is normalized.features
    assert np.array_equal(rows, fits[0]["parts"][0][1]) and changed.num_added == plain.num_added == len(added)
    with pytest.raises(InputError, match="'medi_normalized'"):
        list(make(table).run(["medi_normalized"], 0))


def test_no_recolored_image_is_of_a_validation_patient(fits):
    table = real_table(val=False, images=8)
    recolored = {"stain_transfer": recolored_set(table, 100, 7)}
    for repeat in range(3):
        list(make(table, sets={}, derived=recolored).run(["stain_transfer"], repeat, DrawCondition(2.0)))
        added = recolored["stain_transfer"].table.iloc[fits[-1]["parts"][1][1]]
        validated = set(table["patient"].to_numpy()[fits[-1]["val"]])
        assert validated and not validated & set(added["patient"]) and len(added)


def test_alone_or_with_others_an_arm_is_the_same_and_so_in_any_order_of_rows():
    table = real_table()
    both = {outcome.arm: outcome for outcome in make(table).run(["real", "cls", "medi"], 1, DrawCondition(1.0, 20))}
    (alone,) = make(table).run(["medi"], 1, DrawCondition(1.0, 20))
    assert np.array_equal(alone.probabilities, both["medi"].probabilities)
    features, shuffled = features_of(table), np.random.default_rng(3).permutation(len(table))
    turned = table.iloc[shuffled].reset_index(drop=True)
    sets = {}
    for name, images in (("cls", synthetic_set(9, 1)), ("medi", synthetic_set(7, 2))):
        order = np.random.default_rng(4).permutation(len(images))
        sets[name] = ImageSet(images.features[order], images.table.iloc[order].reset_index(drop=True))
    other = ProbeProtocol({"real": ImageSet(features[shuffled], turned)}, sets, (), "label", ["center"], CS)
    (again,) = other.run(["medi"], 1, DrawCondition(1.0, 20))
    np.testing.assert_array_equal(again.probabilities, alone.probabilities)


def test_real_images_per_class_and_centers(fits):
    protocol = make()
    list(protocol.run(["real"], 0, DrawCondition(real_per_class=10)))
    assert np.bincount(protocol.labels[fits[0]["parts"][0][1]]).tolist() == [10, 10, 10]
    list(protocol.run(["real", "medi"], 0, DrawCondition(centers=("n", "w"))))
    center = protocol.table["center"].to_numpy()
    for fit in fits[1:]:
        assert set(center[fit["parts"][0][1]]) == set(center[fit["val"]]) == {"n", "w"}
    assert set(protocol.synthetic["medi"].table["center"].to_numpy()[fits[2]["parts"][1][1]]) == {"n", "w"}
    assert np.array_equal(fits[1]["test"][: len(protocol.test)], protocol.test)


def test_without_validation_patients_training_lends_some_and_no_class_is_lost(fits):
    table = real_table(val=False)
    protocol = make(table)
    patient = table["patient"].to_numpy()
    held = set()
    for repeat in range(5):
        list(protocol.run(["real"], repeat))
        train, val = fits[-1]["parts"][0][1], fits[-1]["val"]
        assert not set(patient[train]) & set(patient[val])
        assert set(protocol.groups[val]) == set(protocol.groups[protocol.train]) == set(protocol.groups[train])
        held.add(tuple(sorted(set(patient[val]))))
    assert len(held) > 1
    # one patient of class C alone: it stays, and the others are validated
    few = table[(table["label"] != "C") | (table["patient"] == "Cn0")].reset_index(drop=True)
    list(make(few).run(["real"], 0))
    train, val = fits[-1]["parts"][0][1], fits[-1]["val"]
    names = few["patient"].to_numpy()
    assert not set(names[train]) & set(names[val]) and set(few["label"].to_numpy()[train]) == set(LABELS)
    assert "C" not in set(few["label"].to_numpy()[val])


def test_a_patient_of_several_classes_is_not_lent_where_a_class_would_be_lost(fits):
    table = real_table(val=False)
    # every patient of class C at n is also of class A
    table["patient"] = table["patient"].str.replace("Cn", "An")
    table = table[(table["label"] != "C") | (table["patient"].isin(["An0", "An1"]))].reset_index(drop=True)
    for repeat in range(6):
        list(make(table).run(["real"], repeat))
        train, val = fits[-1]["parts"][0][1], fits[-1]["val"]
        names = table["patient"].to_numpy()
        assert set(table["label"].to_numpy()[train]) == set(LABELS) and len(val)
        assert not set(names[train]) & set(names[val])


def test_one_patient_of_every_class_leaves_images_for_validation(fits):
    table = real_table(patients=1, images=20, val=False)
    table = table[(table["split"] == "holdout") | (table["center"] == "n")].reset_index(drop=True)
    list(make(table).run(["real"], 0))
    train, val = fits[-1]["parts"][0][1], fits[-1]["val"]
    assert not set(train) & set(val) and set(table["label"].to_numpy()[val]) == set(LABELS)


def test_a_class_without_training_images_is_left_out_with_its_count():
    table = real_table()
    table.loc[table["label"] == "C", "split"] = "holdout"
    protocol = make(table)
    assert protocol.num_untrained == (table["label"] == "C").sum()
    assert set(protocol.labels[protocol.test]) == {0, 1}
    (outcome,) = protocol.run(["real"], 0)
    assert outcome.probabilities.shape == (len(protocol.test), 3) and not outcome.probabilities[:, 2].any()


def test_large_training_goes_through_a_file_to_the_same_probe(monkeypatch):
    (held,) = make().run(["medi"], 0)
    monkeypatch.setattr(module, "HELD_BYTES", 100)
    monkeypatch.setattr(module, "BLOCK", 7)
    (streamed,) = make().run(["medi"], 0)
    np.testing.assert_allclose(streamed.probabilities, held.probabilities, atol=1e-12)


def test_sets_that_have_no_image_of_a_class_add_none_and_say_so():
    few = synthetic_set(5, 1)
    kept = few.table["label"] != "A"
    sets = {"few": ImageSet(few.features[kept.to_numpy()], few.table[kept].reset_index(drop=True))}
    (outcome,) = make(sets=sets).run(["few"], 0)
    assert outcome.num_added == 0
    assert make(sets={"plain": synthetic_set(5, 1, ("label",))}).added["plain"][1].max() == 0


def broken(change):
    table = real_table()
    if change == "leak":
        table.loc[table["split"] == "holdout", "patient"] = "An1"
    if change == "leak of validation":
        table.loc[table["split"] == "holdout", "patient"] = "An0"
    if change == "no holdout":
        table["split"] = table["split"].replace("holdout", "train")
    if change == "no training":
        table = table[table["split"] == "holdout"].reset_index(drop=True)
    if change == "no patient":
        table.loc[3, "patient"] = None
    if change == "one class":
        table = table[table["label"] == "A"].reset_index(drop=True)
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("leak", "1 patient is in the splits 'train' and 'holdout'"),
        ("leak of validation", "in the splits 'val' and 'holdout'"),
        ("no holdout", "the split 'holdout' has no images"),
        ("no training", "the split 'train' has no images"),
        ("no patient", "1 image has no patient"),
        ("one class", "a single class"),
    ],
)
def test_cohorts_that_cannot_be_probed_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        make(broken(change))


def test_sets_that_do_not_fit_are_refused():
    table = real_table()
    with pytest.raises(InputError, match="'stain_normalized' has 5 rows"):
        make(table, views={"stain_normalized": ImageSet(np.ones((5, DIM)), table.head(5))})
    other = synthetic_set(3, 0).table.replace("C", "Q")
    with pytest.raises(InputError, match="class of the arm 'odd'"):
        make(sets={"odd": ImageSet(np.ones((len(other), DIM)), other)})
    with pytest.raises(InputError, match="arm"):
        list(make().run(["absent"], 0))
    wide = synthetic_set(3, 0)
    with pytest.raises(InputError, match="use the same encoder"):
        list(make(sets={"wide": ImageSet(np.ones((len(wide), 2)), wide.table)}).run(["wide"], 0))
