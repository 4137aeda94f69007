import pytest
import torch

from medi_monai.diffusion import TIMESTEP_WEIGHTS, NoiseSchedule, draw_timesteps, timestep_distribution
from medi_monai.utils.errors import InputError

PAIRS = [("cosine", "v"), ("linear", "epsilon"), ("cosine", "epsilon"), ("cosine", "sample"), ("flow", "flow")]


def squared_error_of_prediction(schedule, objective):
    """Squared error of the prediction that an error of 1 in the image is, by a small change of the image."""
    alpha, sigma = schedule.alphas, schedule.sigmas
    # the noisy image stays: epsilon = (x_t - alpha x_0) / sigma
    change = 1.0
    of_noise = -alpha * change / sigma
    of_target = {
        "epsilon": of_noise,
        "v": alpha * of_noise - sigma * change,
        "sample": torch.full_like(of_noise, change),
        "flow": of_noise - change,
    }[objective]
    return of_target.square()


@pytest.mark.parametrize(("name", "objective"), PAIRS)
@pytest.mark.parametrize("weights", TIMESTEP_WEIGHTS)
def test_probabilities_are_positive_and_sum_to_one(name, objective, weights):
    probabilities = timestep_distribution(NoiseSchedule(name), objective, weights)
    assert probabilities.shape == (1000,) and probabilities.dtype == torch.float64
    assert (probabilities > 0).all() and probabilities.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("name", "objective"), PAIRS)
@pytest.mark.parametrize("weights", ["min_snr", "p2"])
def test_the_expected_loss_is_that_of_the_paper_whatever_is_predicted(name, objective, weights):
    schedule = NoiseSchedule(name)
    snr = (schedule.alphas / schedule.sigmas).square()
    # weights of the squared error of the image: Hang et al. 2023, eq. 6; Choi et al. 2022, eq. 8, times that of epsilon
    wanted = snr.clamp(max=5) if weights == "min_snr" else snr / (1 + snr)
    error = squared_error_of_prediction(schedule, objective)
    ours = timestep_distribution(schedule, objective, weights) * error
    torch.testing.assert_close(ours / ours.sum(), wanted / wanted.sum(), rtol=1e-9, atol=0)


def test_the_logit_of_the_noise_level_of_rectified_flow_is_standard_normal():
    schedule = NoiseSchedule("flow", 4000)
    probabilities = timestep_distribution(schedule, "flow", "logit_normal")
    logit = schedule.sigmas.logit()
    mean = (probabilities * logit).sum()
    assert mean.item() == pytest.approx(0, abs=1e-6)
    assert (probabilities * logit.square()).sum().item() == pytest.approx(1, abs=0.01)
    normal = torch.distributions.Normal(0.0, 1.0)
    for bound in (-1.5, 0.0, 1.0):
        assert probabilities[logit <= bound].sum().item() == pytest.approx(
            normal.cdf(torch.tensor(bound)).item(), abs=2e-3
        )


@pytest.mark.parametrize("weights", ["uniform", "p2"])
def test_timesteps_are_drawn_in_proportion_and_evenly(weights):
    probabilities = timestep_distribution(NoiseSchedule("cosine", 50), "v", weights)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_timesteps(probabilities, 16, generator) for _ in range(4000)])
    shares = torch.bincount(draws.flatten(), minlength=50) / draws.numel()
    torch.testing.assert_close(shares.double(), probabilities, rtol=0, atol=2e-3)
    # in every place of the batch
    first = torch.bincount(draws[:, 0], minlength=50) / len(draws)
    torch.testing.assert_close(first.double(), probabilities, rtol=0, atol=1e-2)
    # every batch has one timestep in each sixteenth of the distribution
    bounds = probabilities.cumsum(0)
    for batch in draws[:50]:
        for part, timestep in enumerate(batch.sort().values):
            low = bounds[timestep - 1] if timestep > 0 else 0
            assert low <= (part + 1) / 16 and bounds[timestep] >= part / 16


def test_draws_repeat_with_the_generator():
    probabilities = timestep_distribution(NoiseSchedule("cosine"), "v")
    first, second = (draw_timesteps(probabilities, 5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.int64


def test_unknown_weights_are_refused():
    with pytest.raises(InputError, match="'minsnr'.*min_snr"):
        timestep_distribution(NoiseSchedule("cosine"), "v", "minsnr")
