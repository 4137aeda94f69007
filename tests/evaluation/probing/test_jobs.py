"""Draws of the sweep over the correlation: which arms they have, and where they are tested."""

import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.probing import ImageSet, ProbeProtocol
from medi_monai.evaluation.probing.jobs import DrawContext, make_jobs, run_jobs
from medi_monai.evaluation.probing.scoring import TestUnits
from medi_monai.evaluation.settings import ProbeSettings

ARMS = {"cls": ("cls",), "medi": ("medi",)}
LABELS, CENTERS = ("A", "B"), ("n", "s", "w")
SETTINGS = ProbeSettings(
    num_repeats=1,
    probe_replicates=2,
    sweep_repeats=2,
    sweep_ratios=(0.5,),
    sweep_real_per_class=(8,),
    sweep_num_centers=(2,),
    sweep_correlations=(0.0, 1.0),
    c_values=(0.01, 1.0),
)
#: cells of the only square, that of the two centers with the most images
SQUARE = {(label, center) for label in LABELS for center in ("n", "s")}


def table_of(images):
    rows = [
        (f"{label}{center}{patient}_{n}", f"{label}{center}{patient}", label, center, ("train", "holdout")[patient > 5])
        for label in LABELS
        for center in CENTERS
        for patient in range(8)
        for n in range(images - 4 * (center == "w"))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["image", "patient", "label", "center", "split"])


def features_of(table, seed=0):
    rng = np.random.default_rng(seed)
    mean = np.stack([(table["label"] == "A") * 2.0, *((table["center"] == center) * 3.0 for center in CENTERS)], axis=1)
    return (mean + rng.standard_normal(mean.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def protocol():
    real, added = table_of(10), table_of(8)[["image", "label", "center"]]
    sets = {name: ImageSet(features_of(added, seed), added) for seed, name in enumerate(("cls", "medi"), 1)}
    return ProbeProtocol({"real": ImageSet(features_of(real), real)}, sets, [], "label", ["center"], (0.01, 1.0))


def context_of(protocol, trained_on):
    test = protocol.table.iloc[protocol.test]
    return DrawContext(protocol, TestUnits.of(test, "label", ["center"], []), SETTINGS, trained_on)


def correlation_jobs(protocol, trained_on):
    jobs = make_jobs(context_of(protocol, trained_on), ["real", "reweighted", "cls", "medi"], ARMS)
    return [job for job in jobs if job.sweep == "correlation"]


def test_an_arm_whose_generator_saw_what_is_withheld_is_not_drawn(protocol):
    (square,) = {(job.square.labels, job.square.centers) for job in correlation_jobs(protocol, {})}
    at = [CENTERS.index(center) for center in ("n", "s")]
    assert square == ((0, 1), tuple(at))
    kept = {("A", "n"), ("B", "s"), ("A", "w"), ("B", "w")}  # at a correlation of 1, the square trains on two cells
    for withheld in SQUARE - kept:
        jobs = correlation_jobs(protocol, {"cls": kept | {withheld}, "medi": kept})
        assert {job.arms for job in jobs} == {("real", "reweighted", "medi")}
    # what a generator was trained on may not be recorded
    for trained_on in ({}, {"cls": None, "medi": SQUARE}):
        assert {job.arms for job in correlation_jobs(protocol, trained_on)} == {("real", "reweighted")}
    assert {job.arms for job in correlation_jobs(protocol, {"cls": kept, "medi": set()})} == {
        ("real", "reweighted", "cls", "medi")
    }


def test_other_sweeps_keep_all_arms(protocol):
    jobs = make_jobs(context_of(protocol, {}), ["real", "cls", "medi"], ARMS)
    assert {job.arms for job in jobs if job.sweep == "main"} == {("real", "cls", "medi")}
    assert {job.arms for job in jobs if job.sweep == "num_centers"} == {("real", "cls", "medi")}


def test_sweeps_have_all_trainings_and_the_correlation_those_of_arms_it_can_have_whole(protocol):
    # two image sets as the trainings of one arm
    trainings = {"medi": ("medi", "cls")}
    jobs = make_jobs(context_of(protocol, {"medi": set(), "cls": set()}), ["real", "medi", "cls"], trainings)
    arms = {
        sweep: {job.arms for job in jobs if job.sweep == sweep} for sweep in ("ratio", "num_centers", "correlation")
    }
    assert arms["ratio"] == {("medi", "cls")}
    assert arms["num_centers"] == arms["correlation"] == {("real", "medi", "cls")}
    jobs = make_jobs(context_of(protocol, {"medi": set(), "cls": SQUARE}), ["real", "medi", "cls"], trainings)
    assert {job.arms for job in jobs if job.sweep == "correlation"} == {("real",)}


def test_both_tests_of_a_draw_are_scored_apart(protocol, tmp_path):
    context = context_of(protocol, {"cls": {("A", "n")}, "medi": None})
    jobs = correlation_jobs(protocol, context.trained_on)
    draws = run_jobs(jobs, context, tmp_path, 1)
    for job, draw in zip(jobs, draws):
        rows, num_test = job.condition.test_rows, draw.num_test
        table = protocol.table.iloc[rows]
        assert set(table["center"][:num_test]) == {"n", "s"} and set(table["center"][num_test:]) == {"w"}
        assert draw.num_outside == job.num_outside == len(rows) - num_test > 0
        trained = set(protocol.table["patient"].iloc[protocol.train])
        assert draw.num_test_known == table["patient"].isin(trained).sum()
        (outcome,) = protocol.run(["real"], job.repeat, job.condition)
        right = outcome.probabilities.argmax(1).numpy() == protocol.labels[rows]
        for name, part in (("balanced_accuracy", slice(num_test)), ("outside_accuracy", slice(num_test, None))):
            recalls = [right[part][(table["label"] == label).to_numpy()[part]].mean() for label in LABELS]
            assert draw.arms["real"].scores.figures[name] == pytest.approx(np.mean(recalls), abs=1e-9)
        # by patient, from which other patients can be drawn
        entries = zip(draw.tested.patients, draw.tested.outside, draw.tested.counts, draw.arms["real"].scores.right)
        found = {(patient, outside): (count, correct) for patient, outside, count, correct in entries}
        counts, outside = {}, np.arange(len(rows)) >= num_test
        for row, other, correct in zip(rows, outside, right):
            key = (protocol.patients[row], other)
            counts[key] = np.add(counts.get(key, (0, 0)), (1, correct))
        assert {key: tuple(value) for key, value in counts.items()} == found
    first = [job for job in jobs if job.repeat == 0]
    assert len(first) == 2 and np.array_equal(first[0].condition.test_rows, first[1].condition.test_rows)
