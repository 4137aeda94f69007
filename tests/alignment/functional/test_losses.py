import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from medi_monai.alignment.functional import batch_matching_loss, transport_loss
from medi_monai.utils.errors import InputError

TARGET = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


@pytest.fixture
def logits():
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


def central_differences(loss, x, step=1e-5):
    gradient = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved[index] += sign * step
            ends.append(loss(moved).item())
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def test_batch_matching_is_the_divergence_of_scipy_between_mean_and_target(logits):
    mean = logits.detach().softmax(1).mean(0).numpy()
    loss = batch_matching_loss(logits.log_softmax(1), TARGET).item()
    assert loss == pytest.approx(entropy(TARGET.numpy(), mean), rel=1e-9)
    assert loss > 1e-3


@pytest.mark.parametrize("target", [TARGET, torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64)])
def test_its_gradient_is_that_of_finite_differences(logits, target):
    def loss(x):
        return batch_matching_loss(x.log_softmax(1), target)

    loss(logits).backward()
    torch.testing.assert_close(logits.grad, central_differences(loss, logits), rtol=1e-6, atol=1e-8)


def test_a_hand_worked_case():
    # two images, sure of 1/4 and of 1/2: mean 3/8 against 1/2
    log_probabilities = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log().requires_grad_()
    loss = batch_matching_loss(log_probabilities, torch.tensor([0.5, 0.5]))
    assert loss.item() == pytest.approx(0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625), rel=1e-5)
    loss.backward()
    # d/d log p_ng = -t_g / m_g · p_ng / N
    expected = [[-0.5 / 0.375 * 0.125, -0.5 / 0.625 * 0.375], [-0.5 / 0.375 * 0.25, -0.5 / 0.625 * 0.25]]
    torch.testing.assert_close(log_probabilities.grad, torch.tensor(expected))


def test_it_is_zero_where_the_mean_is_the_target_whatever_the_images():
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.9, 0.1], [0.5, 0.3, 0.2]])
    loss = batch_matching_loss(probabilities.log(), TARGET)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [80.0, 4000.0])
def test_a_sure_guide_gives_finite_losses_and_gradients(scale):
    logits = torch.tensor([[scale, 0.0], [scale, 0.0]], requires_grad=True)
    for target in ([0.5, 0.5], [0.0, 1.0], [1.0, 0.0]):
        loss = batch_matching_loss(logits.log_softmax(1), torch.tensor(target))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all()
        if target[1]:
            # the pull on the absent subgroup is t_g shared among the images, however sure the guide is
            torch.testing.assert_close(gradient[:, 1], torch.full((2,), -target[1] / 2), rtol=1e-3, atol=0)


def test_probabilities_of_exactly_zero_are_finite():
    loss = batch_matching_loss(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([0.5, 0.5]))
    assert loss.isfinite() and loss > 0.1


def test_descent_on_it_brings_the_mean_to_the_target(logits):
    x = logits.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([x], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        batch_matching_loss(x.log_softmax(1), TARGET).backward()
        optimizer.step()
    torch.testing.assert_close(x.softmax(1).mean(0), TARGET, atol=1e-3, rtol=0)


def test_transport_loss_is_cross_entropy_of_the_confident_over_all(logits):
    labels, confident = torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([True, False, True, True, False, False])

    def loss(x):
        return transport_loss(x.log_softmax(1), labels, confident)

    by_hand = -sum(math.log(logits[n].softmax(0)[labels[n]].item()) for n in (0, 2, 3)) / 6
    assert loss(logits).item() == pytest.approx(by_hand, rel=1e-9)
    loss(logits).backward()
    torch.testing.assert_close(logits.grad, central_differences(loss, logits), rtol=1e-6, atol=1e-8)
    assert not logits.grad[~confident].any()


def test_no_confident_image_pulls_nowhere(logits):
    loss = transport_loss(logits.log_softmax(1), torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_wrong_shapes_are_errors(logits):
    with pytest.raises(InputError, match=r"target of \(2,\)"):
        batch_matching_loss(logits, TARGET[:2])
    with pytest.raises(InputError, match="do not match"):
        transport_loss(logits, torch.zeros(5, dtype=torch.long), torch.ones(6, dtype=torch.bool))
