import itertools

import numpy as np
import pytest
import torch

from medi_monai.alignment.functional import consistency_loss, consistency_weights, form_and_color_loss, images_to_change
from medi_monai.utils.errors import InputError


def pictures(n=3, size=16, channels=3, seed=0):
    noise = torch.rand(n, channels, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size=size, mode="bilinear").mul(1.6).sub(0.8)


def test_consistency_is_one_minus_the_cosine_weighted_over_all_images():
    a, b = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([1.0, 0.2, 0.0, 1.0], dtype=torch.float64)
    cosine = [np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a.numpy(), b.numpy())]
    expected = np.mean(weights.numpy() * (1 - np.array(cosine)))
    assert consistency_loss(a, b, weights).item() == pytest.approx(expected, rel=1e-9)
    assert consistency_loss(a, 3 * a).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: consistency_loss(x, b, weights), a.clone().requires_grad_())


def test_the_untuned_model_gets_no_gradient():
    a, b = torch.randn(2, 4, 7).requires_grad_(), torch.randn(4, 7, requires_grad=True)
    consistency_loss(a[0], b).backward()
    assert b.grad is None
    images, reference = pictures().requires_grad_(), pictures(seed=1).requires_grad_()
    form_and_color_loss(images, reference).backward()
    assert reference.grad is None and images.grad.abs().sum() > 0


def test_equal_images_are_at_distance_zero_with_zero_gradient():
    images = pictures().requires_grad_()
    loss = form_and_color_loss(images, images.detach().clone())
    loss.backward()
    assert loss.item() == 0 and not images.grad.any()


def test_color_alone_and_form_alone_are_seen_and_noise_of_pixels_hardly_changes_the_color():
    images = pictures()
    green = images.clone()
    green[:, 1] += 0.3
    # the tint leaves every gradient as it is: all of the distance is color, a third of the channels moved by 0.3
    assert form_and_color_loss(green, images).item() == pytest.approx(
        (0.3**2 + 0.02**2) ** 0.5 / 3 - 0.02 / 3, rel=1e-3
    )
    mirrored = images.flip(3)
    assert form_and_color_loss(mirrored, images) > 0.5
    gray_alike = images.clone()
    gray_alike[:, 0] += 0.2
    gray_alike[:, 2] -= 0.2
    assert form_and_color_loss(gray_alike, images) > 0.1, "a gray-level term would see nothing"


def test_form_is_one_for_unrelated_and_two_for_inverted_structure():
    def checks(seed):
        return torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) * 0.3

    image, other = checks(0), checks(1)
    only_form = image - torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(image, 4), scale_factor=4)
    assert form_and_color_loss(-only_form, only_form, levels=1).item() == pytest.approx(2, rel=0.01)
    assert form_and_color_loss(image, other, levels=1).item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_its_gradient_is_that_of_finite_differences_at_any_size(size):
    generator = torch.Generator().manual_seed(0)
    images, reference = torch.rand(2, 2, 1, size, size, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.3])
    assert torch.autograd.gradcheck(lambda x: form_and_color_loss(x, reference, weights), images.requires_grad_())


def test_weights_scale_each_image():
    a, b = pictures(), pictures(seed=1)
    losses = [form_and_color_loss(a[[n]], b[[n]]).item() for n in range(3)]
    loss = form_and_color_loss(a, b, torch.tensor([1.0, 0.0, 0.5])).item()
    assert loss == pytest.approx((losses[0] + 0.5 * losses[2]) / 3, rel=1e-5)


def fewest_changes(groups, counts):
    """By trying every reassignment."""
    possible = [x for x in itertools.product(range(len(counts)), repeat=len(groups))
                if [x.count(g) for g in range(len(counts))] == counts]  # fmt: skip
    return min(sum(a != b for a, b in zip(x, groups)) for x in possible)


@pytest.mark.parametrize(("target", "counts"), [([0.5, 0.25, 0.25], [4, 2, 2]), ([0.125, 0.0, 0.875], [1, 0, 7])])
@pytest.mark.parametrize("seed", range(4))
def test_the_fewest_images_change_and_they_are_the_least_sure(target, counts, seed):
    p = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).softmax(1)
    change, groups, sure = images_to_change(p, torch.tensor(target)), p.argmax(1), p.amax(1)
    assert change.sum() == fewest_changes(groups.tolist(), counts)
    for group in range(3):
        staying, leaving = sure[(groups == group) & ~change], sure[(groups == group) & change]
        assert not len(leaving) or not len(staying) or leaving.max() <= staying.min()


def test_weights_follow_pseudo_targets_or_the_excess():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    labels, confident = torch.tensor([0, 1, 1, 1]), torch.tensor([True, True, False, True])
    assert consistency_weights(p, labels=labels).tolist() == pytest.approx([1, 0.2, 0.2, 1])
    assert consistency_weights(p, None, labels, confident, 2, 0).tolist() == [2, 0, 0, 2]
    assert consistency_weights(p, torch.tensor([0.5, 0.5])).tolist() == pytest.approx([1, 1, 0.2, 1])


def test_wrong_arguments_are_errors():
    p = torch.tensor([[0.9, 0.1]])
    with pytest.raises(InputError, match="neither"):
        consistency_weights(p)
    with pytest.raises(InputError, match="zero or more"):
        consistency_weights(p, torch.tensor([0.5, 0.5]), change_weight=-1)
    with pytest.raises(InputError, match="do not match"):
        consistency_loss(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(InputError, match="weights"):
        form_and_color_loss(pictures(), pictures(), torch.ones(2))
