import copy
import math

import pytest
import torch

from medi_monai.diffusion import SCHEDULES, NoiseSchedule
from medi_monai.utils.errors import InputError


def alphas_cumprod_by_loop(betas):
    product, table = 1.0, []
    for beta in betas:
        product *= 1 - beta
        table.append(product)
    return torch.tensor(table, dtype=torch.float64)


def test_linear_equals_the_loop_of_ho_et_al():
    betas = [1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)]
    torch.testing.assert_close(NoiseSchedule("linear").alphas.square(), alphas_cumprod_by_loop(betas))


@pytest.mark.parametrize("num_timesteps", [10, 1000])
def test_cosine_equals_the_formula_of_nichol_and_dhariwal(num_timesteps):
    def f(t):
        return math.cos((t / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f(t + 1) / f(t), 0.999) for t in range(num_timesteps)]
    expected = alphas_cumprod_by_loop(betas)
    table = NoiseSchedule("cosine", num_timesteps).alphas.square()
    torch.testing.assert_close(table, expected, rtol=1e-7, atol=0)
    # before the last step is clipped, the product telescopes to the paper's alpha_bar
    torch.testing.assert_close(table[num_timesteps // 2 - 1].item(), f(num_timesteps // 2) / f(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "num_timesteps", "theirs"),
    [
        ("linear", 1000, {"beta_schedule": "linear"}),
        ("linear", 200, {"beta_schedule": "linear", "beta_start": 5e-4, "beta_end": 0.1}),
        ("cosine", 1000, {"beta_schedule": "squaredcos_cap_v2"}),
        ("cosine", 37, {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_schedules_equal_those_of_diffusers(name, num_timesteps, theirs):
    diffusers = pytest.importorskip("diffusers")
    expected = diffusers.DDPMScheduler(num_timesteps, **theirs).alphas_cumprod
    table = NoiseSchedule(name, num_timesteps).alphas.square().float()
    torch.testing.assert_close(table, expected, rtol=3e-4, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_timesteps", [2, 15, 1000])
def test_noise_grows_from_almost_none_to_almost_all(name, num_timesteps):
    schedule = NoiseSchedule(name, num_timesteps)
    table = schedule.alphas.square()
    assert table.shape == (num_timesteps,) and table.dtype == torch.float64
    assert (table.diff() < 0).all() and 0 < table[-1] < table[0] < 1
    assert (schedule.sigmas.diff() > 0).all() and (schedule.half_log_snr.diff() < 0).all()
    if name != "flow" or num_timesteps > 100:
        assert table[-1] < 1e-2 and (num_timesteps < 100 or table[0] > 0.997)


def test_the_path_of_rectified_flow_is_straight():
    schedule = NoiseSchedule("flow", 9)
    torch.testing.assert_close(schedule.sigmas, torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    torch.testing.assert_close(schedule.alphas + schedule.sigmas, torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_coefficients_are_one_pair_per_image_with_squares_that_sum_to_one(name):
    schedule = NoiseSchedule(name)
    timesteps = torch.tensor([0, 500, 999])
    alpha, sigma = schedule.coefficients(timesteps, torch.zeros(3, 2, 4, 4, dtype=torch.bfloat16))
    assert alpha.shape == sigma.shape == (3, 1, 1, 1) and alpha.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(3, 1, 1, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        alpha.flatten().double().square(), schedule.alphas.square()[timesteps], rtol=1e-6, atol=0
    )


def test_timestep_minus_one_is_the_clean_image():
    alpha, sigma = NoiseSchedule("cosine").coefficients(torch.tensor([-1, 0]), torch.zeros(2, 3))
    assert alpha[0] == 1 and sigma[0] == 0 and sigma[1] > 0


def test_schedules_are_equal_by_their_settings_and_can_be_copied():
    schedule = NoiseSchedule("linear", 50)
    assert schedule == NoiseSchedule("linear", 50) != NoiseSchedule("cosine", 50)
    assert torch.equal(copy.deepcopy(schedule).alphas.square(), schedule.alphas.square())


def test_mistakes_are_refused_by_name():
    with pytest.raises(InputError, match="'cosin': did you mean 'cosine'"):
        NoiseSchedule("cosin")
    with pytest.raises(InputError, match="num_timesteps = 1"):
        NoiseSchedule("linear", 1)
