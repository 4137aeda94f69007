import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from medi_monai.alignment.functional import apportion, subset_counts, transport_labels
from medi_monai.utils.errors import InputError


def predictions(n, groups, seed=0):
    return torch.randn(n, groups, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(1)


def cheapest(probabilities, labels):
    """Labels by trying every order of them."""
    p = probabilities.double().numpy()
    eye = np.eye(p.shape[1])
    orders = sorted(set(itertools.permutations(labels)))
    costs = [sum(np.linalg.norm(p[n] - eye[g]) for n, g in enumerate(order)) for order in orders]
    return orders[int(np.argmin(costs))]


@pytest.mark.parametrize(("groups", "target"), [(2, [0.5, 0.5]), (3, [0.5, 0.17, 0.33]), (4, [0.25] * 4)])
@pytest.mark.parametrize("seed", range(3))
def test_apportioned_labels_are_the_cheapest_of_all_permutations(groups, target, seed):
    p = predictions(6, groups, seed)
    counts = apportion(torch.tensor(target), 6)
    transported = transport_labels(p, torch.tensor(target), draws=None)
    assert tuple(transported.labels.tolist()) == cheapest(p, np.repeat(np.arange(groups), counts.numpy()).tolist())
    assert transported.confidence.tolist() == [1.0] * 6 and transported.confident.all()


def test_the_average_over_draws_is_that_of_every_count_with_its_multinomial_probability():
    p, target = predictions(4, 2), torch.tensor([0.3, 0.7])
    expected = np.zeros((4, 2))
    for first in range(5):
        chance = stats.binom.pmf(first, 4, 0.3)
        for n, g in enumerate(cheapest(p, [0] * first + [1] * (4 - first))):
            expected[n, g] += chance
    transported = transport_labels(p, target, draws=40000, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(transported.distribution.numpy(), expected, atol=0.01)
    np.testing.assert_allclose(transported.distribution.sum(1).numpy(), 1)


def test_label_and_confidence_are_those_of_the_distribution_and_the_doubtful_are_left_out():
    transported = transport_labels(
        predictions(9, 2), torch.tensor([0.5, 0.5]), 500, torch.Generator().manual_seed(0), 0.8
    )
    assert torch.equal(transported.labels, transported.distribution.argmax(1))
    assert torch.equal(transported.confidence, transported.distribution.amax(1))
    assert torch.equal(transported.confident, transported.confidence >= 0.8)
    # the middle one of nine is a coin toss, the ends are not
    assert 0 < transported.confident.sum() < 9


def test_draws_are_repeatable_and_the_order_of_the_images_does_not_matter():
    p, target = predictions(8, 3), torch.tensor([0.2, 0.3, 0.5])
    straight = transport_labels(p, target, 100, torch.Generator().manual_seed(5))
    turned = transport_labels(p.flip(0), target, 100, torch.Generator().manual_seed(5))
    assert torch.equal(straight.distribution, turned.distribution.flip(0))


def test_a_batch_that_is_on_target_stays_as_it_is_and_an_empty_subgroup_gets_nothing():
    sure = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 0])).float() * 0.8 + 0.1
    assert transport_labels(sure, torch.tensor([0.5, 0.5]), draws=None).labels.tolist() == [0, 1, 1, 0]
    assert transport_labels(sure, torch.tensor([0.0, 1.0]), 20).labels.tolist() == [1] * 4


@pytest.mark.parametrize("count", [1, 2, 7, 10, 33, 600])
def test_apportioned_counts_sum_and_are_within_one_of_the_quota(count):
    for target in ([0.7, 0.3], [0.1, 0.2, 0.7], [1 / 3] * 3, [0.0, 1.0]):
        counts = apportion(torch.tensor(target), count)
        assert counts.sum() == count and (counts - count * torch.tensor(target)).abs().max() < 1
    assert apportion(torch.tensor([0.7, 0.2, 0.1]), 10).tolist() == [7, 2, 1]


def test_chance_favors_no_subgroup():
    drawing = torch.Generator().manual_seed(0)
    uniform, unequal = torch.full((6,), 1 / 6), torch.tensor([0.45, 0.35, 0.2])
    counts = torch.stack([apportion(uniform, 16, drawing) for _ in range(600)]).double()
    assert (counts.sum(1) == 16).all() and set(counts.unique().tolist()) == {2.0, 3.0}
    assert (counts.mean(0) - 16 / 6).abs().max() < 0.08
    assert apportion(uniform, 16).tolist() == [3, 3, 3, 3, 2, 2]
    # where remainders differ there is nothing to draw
    assert all(apportion(unequal, 10, drawing).sum() == 10 for _ in range(9))
    assert {tuple(apportion(unequal, 4, drawing).tolist()) for _ in range(20)} == {(2, 1, 1)}


def test_wrong_arguments_are_errors():
    p = predictions(4, 2)
    with pytest.raises(InputError, match="do not match"):
        transport_labels(p, torch.ones(3) / 3)
    for wrong in ({"draws": 0}, {"min_confidence": 1.5}):
        with pytest.raises(InputError, match="min_confidence = "):
            transport_labels(p, torch.tensor([0.5, 0.5]), **wrong)


@pytest.mark.parametrize("target", [(0.5, 0.5), (0.7, 0.3), (0.1, 0.2, 0.7), (1.0, 0.0), (1 / 3, 1 / 3, 1 / 3)])
@pytest.mark.parametrize("seed", range(4))
def test_the_largest_subset_is_the_one_that_trying_all_counts_finds(target, seed):
    available = np.random.default_rng(seed).integers(0, 12, len(target))
    counts = subset_counts(available, np.array(target))
    exact = [Fraction(share).limit_denominator(100) for share in target]
    size = max(n for n in range(60) if all(n * share <= rows for share, rows in zip(exact, available)))
    tried = [
        (sum(abs(count - size * share) for count, share in zip(subset, exact)), subset)
        for subset in itertools.product(*(range(rows + 1) for rows in available))
        if sum(subset) == size
    ]
    assert counts.sum() == size and (counts <= available).all()
    assert sum(abs(int(count) - size * share) for count, share in zip(counts, exact)) == min(tried)[0]
