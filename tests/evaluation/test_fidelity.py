import dataclasses

import numpy as np
import pytest
from scipy import stats

from medi_monai.evaluation.fidelity import (
    DISTANCES,
    FLOOR,
    SHARES,
    FidelitySettings,
    ImageGroup,
    combination_figures,
    compare_group,
    pooled_distances,
    summarize,
)
from medi_monai.metrics import frechet_distance, kernel_distance, precision_recall
from medi_monai.report import sections
from medi_monai.results.measures import FidelityFigures
from medi_monai.results.metrics import ArmMetrics, MeanFidelity
from medi_monai.utils.errors import InputError

DIM, SETTINGS = 4, FidelitySettings(num_replicates=20, num_halves=3)


def make(name=("A", "n"), real=240, patients=40, sizes=(100, 100), shifts=(0.0, 1.5), seed=0, seen=True):
    rng = np.random.default_rng(seed)
    generated = {
        arm: rng.standard_normal((size, DIM)) + shift for arm, size, shift in zip(("good", "bad"), sizes, shifts)
    }
    return ImageGroup(name, seen, rng.standard_normal((real, DIM)), np.arange(real) % patients, generated)


def test_the_floor_is_that_of_a_perfect_generator_and_a_shifted_one_is_far_above():
    floors, good, bad = [], [], []
    for seed in range(12):
        arms = compare_group(make(seed=seed), SETTINGS)["arms"]
        floor, near, far = (arms[name]["frechet_distance"]["value"] for name in (FLOOR, "good", "bad"))
        floors.append(floor), good.append(near), bad.append(far)
        assert arms["good"]["precision"]["value"] > arms["bad"]["precision"]["value"]
    assert np.mean(good) == pytest.approx(np.mean(floors), rel=0.25)
    # the shift alone is 1.5^2 in every dimension
    assert np.mean(bad) - np.mean(floors) == pytest.approx(DIM * 1.5**2, rel=0.15)


def test_every_figure_is_between_sets_of_the_matched_size_and_halves_share_no_patient():
    images = make(sizes=(70, 300))
    result = compare_group(images, SETTINGS)
    assert result["matched"] == 70 and result["counts"] == {"real": 240, "good": 70, "bad": 300}
    for sets in result["drawn"]:
        assert {name: len(np.unique(rows)) for name, (_, rows) in sets.items()} == dict.fromkeys(sets, 70)
        first, second = (set(images.patients[sets[name][1]]) for name in ("reference", FLOOR))
        assert not first & second
    pairs = [(images.real[sets["reference"][1]], images.generated["bad"][sets["bad"][1]]) for sets in result["drawn"]]
    arm = result["arms"]["bad"]
    assert arm["frechet_distance"]["value"] == pytest.approx(np.mean([frechet_distance(*pair) for pair in pairs]))
    assert arm["kernel_distance"]["value"] == pytest.approx(np.mean([kernel_distance(*pair).value for pair in pairs]))
    assert arm["recall"]["value"] == pytest.approx(np.mean([precision_recall(*pair)["recall"] for pair in pairs]))


def test_too_few_images_have_counts_and_no_figure():
    for images in (make(sizes=(100, 10)), make(sizes=(100, 0)), make(real=20)):
        result = compare_group(images, SETTINGS)
        assert result["matched"] == 0 and result["arms"] == {}
        (row,) = combination_figures([result], ["label", "center"], "good", "frechet_distance")
        assert row["value"] is None and row["floor"] is None and row["n"] == 0
        assert row["counts"]["bad"] == len(images.generated["bad"]) and row["values"] == {"label": "A", "center": "n"}
    assert summarize([], "good", "precision") == {"value": None, "ci95": None, "n": 0, "num_combinations": 0}
    assert pooled_distances([compare_group(make(sizes=(100, 0)), SETTINGS)]) == {}


def test_a_single_patient_is_halved_by_image_and_told():
    result = compare_group(make(patients=1), SETTINGS)
    assert result["matched"] == 100 and result["one_patient"]
    assert not compare_group(make(), SETTINGS)["one_patient"]
    for sets in result["drawn"]:
        assert not set(sets["reference"][1]) & set(sets[FLOOR][1])


def test_a_huge_patient_has_a_half_for_itself():
    images = make()
    patients = np.where(np.arange(240) < 150, 999, images.patients)
    result = compare_group(ImageGroup(("A", "n"), True, images.real, patients, images.generated), SETTINGS)
    assert result["matched"] == 90


def test_means_and_intervals_over_combinations():
    results = [compare_group(make(("A", str(n)), seed=n), SETTINGS) for n in range(3)]
    results.append(compare_group(make(("A", "x"), sizes=(3, 3)), SETTINGS))
    summary = summarize(results, "bad", "frechet_distance")
    values = [result["arms"]["bad"]["frechet_distance"]["value"] for result in results[:3]]
    assert (
        summary["value"] == pytest.approx(np.mean(values)) and summary["num_combinations"] == 3 and summary["n"] == 300
    )
    low, high = summary["ci95"]
    assert low < summary["value"] < high and high - low < 0.5 * summary["value"]
    kernel = summarize(results, "good", "kernel_distance")
    errors = [result["arms"]["good"]["kernel_distance"]["standard_error"] for result in results[:3]]
    assert kernel["ci95"][1] - kernel["value"] == pytest.approx(1.959964 * np.sqrt(np.square(errors).sum()) / 3)
    assert summarize(results, "good", "recall")["ci95"] is None


def test_intervals_over_combinations_with_two_patients_cover():
    # patients differ as much as images, which resampling the single patient of a half would not show
    rng = np.random.default_rng(0)

    def distances():
        means = rng.standard_normal((2, 8))
        first, second = (mean + rng.standard_normal((20, 8)) for mean in means)
        values = {FLOOR: frechet_distance(first, second), "good": frechet_distance(first, rng.standard_normal((20, 8)))}
        arms = {arm: {"frechet_distance": {"value": value, "replicates": [value]}} for arm, value in values.items()}
        return {"matched": 20, "few_patients": True, "arms": arms}

    cohorts = [[distances() for _ in range(10)] for _ in range(200)]
    for arm in (FLOOR, "good"):
        summaries = [summarize(cohort, arm, "frechet_distance") for cohort in cohorts]
        truth = np.mean([summary["value"] for summary in summaries])
        covered = np.mean([summary["ci95"][0] <= truth <= summary["ci95"][1] for summary in summaries])
        assert 0.89 < covered < 0.985


def test_a_combination_with_few_patients_has_no_interval_of_its_own():
    images = make(patients=6)
    result = compare_group(images, SETTINGS)
    assert result["few_patients"] and not compare_group(make(), SETTINGS)["few_patients"]
    assert summarize([result], "good", "frechet_distance")["ci95"] is None
    values = [result["arms"]["good"]["frechet_distance"]["value"], 1.0]
    other = {**result, "arms": {"good": {"frechet_distance": {"value": 1.0, "replicates": [1.0]}}}}
    low, high = summarize([result, other], "good", "frechet_distance")["ci95"]
    expected = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx((0.0, expected[1]))


def test_combinations_taken_together_weigh_alike():
    results = [compare_group(make(("A", str(n)), seed=n), SETTINGS) for n in range(2)]
    pooled = pooled_distances(results)
    values = []
    for half in range(3):
        sets = [result["drawn"][half] for result in results]
        real, other = (np.vstack([drawn[name][0][drawn[name][1]] for drawn in sets]) for name in ("reference", "bad"))
        values.append(frechet_distance(real, other))
    assert pooled["bad"]["value"] == pytest.approx(np.mean(values)) and pooled["bad"]["n"] == 200
    assert pooled["bad"]["range_over_halves"] == pytest.approx([min(values), max(values)])


def test_the_same_seed_gives_the_same_and_sets_may_be_tiny():
    first, again = (compare_group(make(), SETTINGS) for _ in range(2))
    assert first["arms"] == again["arms"]
    tiny = FidelitySettings(min_images=2, neighbors=1, num_replicates=3, num_halves=1)
    result = compare_group(make(real=4, patients=4, sizes=(2, 2)), tiny)
    assert result["matched"] == 2 and summarize([result], "good", "kernel_distance")["ci95"] is None


@pytest.mark.parametrize("change", [{"max_images": 0}, {"num_halves": 0}, {"neighbors": 0}, {"min_images": 5}])
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(InputError, match="it has to be a whole number of 1 or more|has to be more than neighbors"):
        FidelitySettings(**change)


def test_the_error_of_a_kernel_distance_takes_the_patients_of_real_images_for_units():
    images = make(real=240, patients=12)
    result = compare_group(images, SETTINGS)
    for name, whose in (("bad", None), (FLOOR, "real")):
        errors = []
        for sets in result["drawn"]:
            (real, rows), (other, others) = sets["reference"], sets[name]
            theirs = None if whose is None else images.patients[others]
            errors.append(kernel_distance(real[rows], other[others], 3, images.patients[rows], theirs).standard_error)
        assert result["arms"][name]["kernel_distance"]["standard_error"] == pytest.approx(np.mean(errors))
        by_image = [
            kernel_distance(sets["reference"][0][sets["reference"][1]], sets[name][0][sets[name][1]])
            for sets in result["drawn"]
        ]
        assert np.mean(errors) != pytest.approx(np.mean([distance.standard_error for distance in by_image]), rel=1e-3)


def test_every_metric_is_in_the_results_and_on_the_page():
    metrics = [*DISTANCES, *SHARES]
    for kind in (ArmMetrics, MeanFidelity, FidelityFigures):
        fields = {field.name for field in dataclasses.fields(kind)}
        assert set(metrics) <= fields, f"add the metric to {kind.__name__} in results"
    assert [*sections.DISTANCES, *sections.QUALITY] == metrics, (
        "give the metric a title in DISTANCES or QUALITY of report/sections.py"
    )
