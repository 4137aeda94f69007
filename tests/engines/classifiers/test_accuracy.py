import numpy as np
import pytest
import torch

from medi_monai.engines.classifiers.accuracy import accuracies


def effect_of(right, patients, target):
    """Design effect of a classifier of two values that is right where it says so."""
    predicted = torch.as_tensor(np.where(right, target, 1 - target))
    scores = torch.nn.functional.one_hot(predicted, 2).double()
    codes = torch.as_tensor(target)[:, None]
    return accuracies({"site": scores}, codes, {"site": ("a", "b")}, patients, num_replicates=4000)["site"][
        "design_effect"
    ]


def effect_by_hand(right, patients, target):
    # variance of a mean over patients with the same number of images, and of one over images
    of_patients = of_images = 0.0
    for value in (0, 1):
        names = np.unique(patients[target == value])
        shares = np.array([right[patients == name].mean() for name in names])
        rate = right[target == value].mean()
        of_patients += shares.var(ddof=1) / len(names)
        of_images += rate * (1 - rate) / (target == value).sum()
    return of_patients / of_images


def cohort(num_patients=30, images=20):
    patients = np.repeat(np.arange(2 * num_patients), images)
    return patients, (patients >= num_patients).astype(int)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_the_design_effect_is_the_ratio_of_the_variances(spread):
    rng, (patients, target) = np.random.default_rng(0), cohort()
    # from one error rate for all patients to patients of whom all images are right or wrong
    rates = np.where(rng.random(60) < spread, rng.random(60) < 0.8, 0.8)
    right = rng.random(len(patients)) < rates[patients]
    expected = effect_by_hand(right, patients, target)
    assert effect_of(right, patients, target) == pytest.approx(max(1.0, expected), rel=0.06)
    assert {0.0: expected < 1.5, 0.3: 2 < expected < 15, 1.0: expected == pytest.approx(20 * 30 / 29)}[spread]


def test_no_error_has_no_effect_and_one_patient_per_value_counts_as_one_image():
    patients, target = cohort()
    assert effect_of(np.ones(len(patients), bool), patients, target) == 1
    alone, of_one = cohort(num_patients=1, images=25)
    assert effect_of(np.arange(50) % 5 > 0, alone, of_one) == 25
