import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch import nn

from medi_monai.engines.handlers import WeightAverage
from medi_monai.engines.handlers.ema import power_average_exponent
from medi_monai.utils.errors import InputError


def run(network, average, weights):
    """An engine whose step sets the weights; the average is attached to it."""

    def step(engine, values):
        with torch.no_grad():
            network.weight.copy_(values)

    engine = Engine(step)
    average.attach(engine)
    engine.run(weights)


def random_weights(steps, seed=0):
    return list(torch.randn(steps, 2, 3, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 17, 100])
def test_the_average_weighs_step_t_by_the_integral_of_its_power_profile(width, steps):
    network = nn.Linear(3, 2, bias=False)
    average = WeightAverage(network, width)
    weights = random_weights(steps)
    run(network, average, weights)
    # the updates by 1 - (1 - 1/t)^(gamma + 1) telescope to the integral of s^gamma from t - 1 to t
    power = power_average_exponent(width) + 1
    edges = (np.arange(steps + 1) / steps) ** power
    expected = sum(share * value.double().numpy() for share, value in zip(np.diff(edges), weights))
    assert average.network.weight.double().numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.1, 0.2, 0.25])
def test_the_measured_profile_has_the_relative_width_asked_for(width):
    # at step t the weights are the t-th unit vector, so the average is the profile itself
    steps = 400
    network = nn.Linear(steps, 1, bias=False)
    average = WeightAverage(network, width)
    run(network, average, list(torch.eye(steps)[:, None]))
    profile = average.network.weight[0].double().numpy()
    times = np.arange(1, steps + 1)
    assert profile.sum() == pytest.approx(1, abs=1e-5)
    mean = profile @ times
    assert np.sqrt(profile @ (times - mean) ** 2) / steps == pytest.approx(width, rel=0.02)


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_the_papers(width, gamma):
    assert power_average_exponent(width) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("width", [0.001, 0.01, 0.075, 0.15, 0.27])
def test_the_exponent_is_the_root_of_the_papers_cubic(width):
    # arXiv 2312.02696, algorithm 2
    square = width**-2
    assert power_average_exponent(width) == pytest.approx(
        np.roots([1, 7, 16 - square, 12 - square]).real.max(), rel=1e-6
    )


@pytest.mark.parametrize("width", [0, -0.1, 0.28, 1, float("nan")])
def test_an_impossible_width_is_refused(width):
    with pytest.raises(InputError, match="ema_width"):
        WeightAverage(nn.Linear(1, 1), width)


def test_a_restored_average_goes_on_identically(tmp_path):
    weights = random_weights(30)
    network, other = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    whole, first, second = WeightAverage(network), WeightAverage(network), WeightAverage(other)
    run(network, whole, weights)
    run(network, first, weights[:13])
    torch.save(first.state_dict(), tmp_path / "average.pt")
    second.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    run(other, second, weights[13:])
    assert torch.equal(second.network.weight, whole.network.weight)
    assert not torch.equal(first.network.weight, whole.network.weight)


def test_the_average_is_a_copy_for_evaluation_and_leaves_the_training_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    average = WeightAverage(network)
    engine = Engine(lambda engine, batch: network(batch))
    average.attach(engine)
    engine.run(list(torch.randn(3, 8, 2)))
    assert not any(module.training for module in average.network.modules())
    assert all(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    kept = network[0].weight.clone()
    average.network[0].weight.zero_()
    assert torch.equal(network[0].weight, kept)


def test_statistics_of_normalization_follow_the_network():
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network)
    engine = Engine(lambda engine, batch: network(batch))
    average.attach(engine)
    engine.run(list(5 + torch.randn(20, 8, 2)))
    assert network.running_mean.min() > 3
    assert torch.equal(average.network.running_mean, network.running_mean)
