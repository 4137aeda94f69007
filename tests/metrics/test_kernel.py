import math

import numpy as np
import pytest
import torch

from medi_monai.metrics import kernel
from medi_monai.metrics.kernel import kernel_distance
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(13, 5)), RNG.normal(0.4, 1.2, (9, 5))


def by_loops(first, second, degree):
    def k(x, y):
        return (sum(a * b for a, b in zip(x, y)) / len(x) + 1) ** degree

    def within(rows):
        pairs = [k(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        return sum(pairs) / len(pairs)

    across = [k(x, y) for x in first for y in second]
    return within(first) + within(second) - 2 * sum(across) / len(across)


def jackknife(first, second, degree):
    variance = 0.0
    for left_out in (
        [by_loops(np.delete(first, i, 0), second, degree) for i in range(len(first))],
        [by_loops(first, np.delete(second, i, 0), degree) for i in range(len(second))],
    ):
        n = len(left_out)
        variance += (n - 1) / n * sum((value - sum(left_out) / n) ** 2 for value in left_out)
    return math.sqrt(variance)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_equals_a_double_loop_and_its_error_leaving_one_out(degree):
    distance = kernel_distance(FIRST, SECOND, degree)
    assert distance.value == pytest.approx(by_loops(FIRST, SECOND, degree), rel=1e-11)
    assert distance.standard_error == pytest.approx(jackknife(FIRST, SECOND, degree), rel=1e-9)


def test_blocks_and_order_do_not_matter(monkeypatch):
    whole = kernel_distance(FIRST, SECOND)
    monkeypatch.setattr(kernel, "BLOCK", 4)
    for distance in (kernel_distance(FIRST, SECOND), kernel_distance(SECOND[::-1].copy(), FIRST)):
        assert (distance.value, distance.standard_error) == pytest.approx(
            (whole.value, whole.standard_error), rel=1e-11
        )


def test_unbiased_between_sets_of_one_distribution_and_its_error_no_less_than_the_spread():
    distances = [kernel_distance(*np.random.default_rng(seed).normal(size=(2, 40, 8))) for seed in range(400)]
    values = np.array([distance.value for distance in distances])
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 4 * spread / 20
    assert (values < 0).mean() > 0.2
    # both sets alike is the degenerate case, in which a jackknife errs on the safe side
    assert spread < np.mean([distance.standard_error for distance in distances]) < 2 * spread


def test_between_unlike_sets_the_error_is_the_spread_and_the_mean_the_truth():
    distances = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        distances.append(kernel_distance(rng.normal(size=(50, 4)), rng.normal(1, 1, (60, 4)), degree=1))
    values = np.array([distance.value for distance in distances])
    # under a linear kernel the distance is the squared distance of the means over D, 1
    assert values.mean() == pytest.approx(1, abs=4 * values.std() / math.sqrt(300))
    assert np.mean([distance.standard_error for distance in distances]) == pytest.approx(values.std(ddof=1), rel=0.15)


def test_tensors_of_single_precision_are_computed_in_double():
    distance = kernel_distance(torch.tensor(FIRST).float(), torch.tensor(SECOND).float())
    assert distance.value == pytest.approx(by_loops(FIRST.astype(np.float32), SECOND.astype(np.float32), 3), rel=1e-5)


def test_constant_features_are_at_distance_0():
    distance = kernel_distance(np.ones((5, 3)), np.ones((4, 3)))
    assert (distance.value, distance.standard_error) == pytest.approx((0, 0), abs=1e-12)


def test_two_images_have_a_distance_without_an_error():
    distance = kernel_distance(FIRST[:2], SECOND)
    assert distance.value == pytest.approx(by_loops(FIRST[:2], SECOND, 3))
    assert math.isnan(distance.standard_error)


def test_mistakes_are_one_error():
    for pair in ((FIRST[:1], SECOND), (FIRST, SECOND[:0])):
        with pytest.raises(InputError, match="at least two images"):
            kernel_distance(*pair)
    with pytest.raises(InputError, match="of 5 and 3 dimensions"):
        kernel_distance(FIRST, SECOND[:, :3])
    with pytest.raises(InputError, match="not finite"):
        kernel_distance(FIRST, SECOND * np.nan)
    with pytest.raises(InputError, match="degree"):
        kernel_distance(FIRST, SECOND, degree=0)


def by_patients(first, second, patients, other_patients):
    # Busing, Meijer & van der Leeden (1999), eqs. 3 to 5, with loops
    whole, variance = by_loops(first, second, 3), 0.0
    for rows, names, estimate in (
        (first, patients, lambda kept: by_loops(first[kept], second, 3)),
        (second, other_patients, lambda kept: by_loops(first, second[kept], 3)),
    ):
        n, units = len(rows), sorted(set(names))
        left = [estimate([i for i in range(n) if names[i] != unit]) for unit in units]
        shares = [n / names.count(unit) for unit in units]
        center = len(units) * whole - sum((1 - 1 / h) * value for h, value in zip(shares, left))
        pseudo = [h * whole - (h - 1) * value for h, value in zip(shares, left)]
        variance += sum((p - center) ** 2 / (h - 1) for h, p in zip(shares, pseudo)) / len(units)
    return math.sqrt(variance)


def test_the_error_over_patients_leaves_all_images_of_one_out(monkeypatch):
    patients, others = list("aaaabbcccdeee"), list("xyzxyzxxw")
    expected = by_patients(FIRST, SECOND, patients, others)
    for block in (4, 2048):
        monkeypatch.setattr(kernel, "BLOCK", block)
        distance = kernel_distance(FIRST, SECOND, 3, np.array(patients), np.array(others))
        assert distance.standard_error == pytest.approx(expected, rel=1e-9)
        assert distance.value == pytest.approx(by_loops(FIRST, SECOND, 3), rel=1e-11)
    alone = kernel_distance(FIRST, SECOND, 3, np.array(["p"] * 13))
    assert alone == kernel_distance(FIRST, SECOND)


def test_images_of_few_patients_are_less_certain_and_the_error_is_that_of_repetition():
    distances, by_image = [], []
    patients = np.repeat(np.arange(12), 6)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        first = np.repeat(rng.normal(1, 1, (12, 3)), 6, axis=0) + rng.normal(0, 0.1, (72, 3))
        second = rng.normal(size=(72, 3))
        distances.append(kernel_distance(first, second, 1, patients))
        by_image.append(kernel_distance(first, second, 1).standard_error)
    spread = np.std([distance.value for distance in distances])
    assert np.mean([distance.standard_error for distance in distances]) == pytest.approx(spread, rel=0.2)
    assert np.mean(by_image) < 0.6 * spread


def test_large_features_have_an_error_still():
    large = kernel_distance(FIRST * 1e30, SECOND * 1e30)
    assert large.standard_error / large.value == pytest.approx(
        kernel_distance(FIRST * 1e10, SECOND * 1e10).standard_error / kernel_distance(FIRST * 1e10, SECOND * 1e10).value
    )


def test_patients_have_to_match_the_images():
    with pytest.raises(InputError, match="4 patients do not match 13 images"):
        kernel_distance(FIRST, SECOND, 3, np.arange(4))
    half = kernel_distance(FIRST, SECOND, 3, np.array([0] * 12 + [1]))
    assert math.isnan(half.standard_error)
