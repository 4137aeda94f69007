import numpy as np
import pytest
import torch

from medi_monai.diffusion import SCHEDULES, SOLVERS, NoiseSchedule, ddim, denoiser, dpm_solver, sampling_timesteps
from medi_monai.utils.errors import InputError

MEAN, STD = 0.4, 0.5


def gaussian_denoiser(schedule):
    """``E[x_0 | x_t]`` of images that are normal with mean 0.4 and standard deviation 0.5."""

    def denoise(noisy, timesteps):
        alpha, sigma = schedule.coefficients(timesteps, noisy)
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (noisy - alpha * MEAN)

    return denoise


def sampled_gaussian(solver, schedule, num_steps):
    # every step is linear in the noise, so two noises tell mean and standard deviation without sampling error
    low, high = solver(gaussian_denoiser(schedule), torch.tensor([[-1.0], [1.0]]), schedule, num_steps)
    return (high + low).item() / 2, (high - low).item() / 2


def crooked_network(noisy, timesteps):
    return torch.tanh(1.3 * noisy.roll(1, dims=1) - 0.2) + 0.1 * torch.cos(timesteps.float() / 90)[:, None]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 300, 600, 999, 1000])
def test_timesteps_go_down_from_the_last_to_zero_and_then_to_the_clean_image(num_steps):
    steps = sampling_timesteps(num_steps, 1000).tolist()
    assert len(steps) == num_steps + 1
    assert steps[0] == 999 and steps[-1] == -1 and (num_steps == 1 or steps[-2] == 0)
    gaps = -np.diff(steps[:-1])
    assert num_steps == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


@pytest.mark.parametrize("num_steps", [0, -1, 51])
def test_a_number_of_steps_outside_the_schedule_is_refused(num_steps):
    with pytest.raises(InputError, match=f"num_steps = {num_steps}.*1 to 50"):
        sampling_timesteps(num_steps, 50)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("num_steps", [150, 300, 600, 1000])
def test_a_gaussian_is_sampled_with_its_mean_and_standard_deviation(solver, name, num_steps):
    # 300 and 600 do not divide 1000, where `t - T // num_steps` gives 0.533 and 0.659 instead of 0.5
    mean, std = sampled_gaussian(solver, NoiseSchedule(name), num_steps)
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert std == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_error_shrinks_with_the_number_of_steps(solver, name):
    errors = [abs(sampled_gaussian(solver, NoiseSchedule(name), steps)[1] - STD) for steps in (10, 20, 40, 80, 160)]
    # until the error of the schedule's own last step is reached
    assert all(later < max(0.7 * earlier, 1e-3) for earlier, later in zip(errors, errors[1:])), errors


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_second_order_solver_does_in_20_steps_what_takes_ddim_100(name):
    schedule = NoiseSchedule(name)
    error = abs(sampled_gaussian(dpm_solver, schedule, 20)[1] - STD)
    assert error < abs(sampled_gaussian(ddim, schedule, 100)[1] - STD)


@pytest.mark.parametrize("num_steps", [1, 2, 40, 900, 1000])
def test_timesteps_of_the_second_order_solver_are_distinct_and_go_down(num_steps):
    steps = sampling_timesteps(num_steps, 1000, power=2).tolist()
    assert len(steps) == num_steps + 1 and steps[0] == 999 and steps[-1] == -1
    assert all(later < earlier for earlier, later in zip(steps, steps[1:]))


def test_dpm_solver_equals_that_of_diffusers():
    from diffusers import DPMSolverMultistepScheduler

    schedule = NoiseSchedule("cosine")
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    ours = dpm_solver(denoiser(crooked_network, schedule, "epsilon", None), noise, schedule, 12)
    betas = 1 - schedule.alphas_cumprod / torch.cat([torch.ones(1), schedule.alphas_cumprod[:-1]])
    theirs = DPMSolverMultistepScheduler(trained_betas=betas.numpy(), solver_order=2, lower_order_final=True)
    theirs.set_timesteps(timesteps=sampling_timesteps(12, 1000, power=2)[:-1].tolist())
    sample = noise.double()
    for step in theirs.timesteps:
        sample = theirs.step(crooked_network(sample, torch.full((2,), int(step))), step, sample).prev_sample
    # diffusers ends on the clean image with a step of second order or first order; ours with the prediction itself
    torch.testing.assert_close(ours.double(), sample, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 50])
def test_ddim_equals_equation_12_in_float64(name, num_steps):
    schedule = NoiseSchedule(name)
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    ours = ddim(denoiser(crooked_network, schedule, "epsilon", None), noise, schedule, num_steps)

    abar = schedule.alphas_cumprod.numpy()
    steps = [round(t) for t in np.linspace(999, 0, num_steps)]
    x = noise.double()
    for now, later in zip(steps, [*steps[1:], None]):
        epsilon = crooked_network(x, torch.full((2,), now))
        predicted = (x - (1 - abar[now]) ** 0.5 * epsilon) / abar[now] ** 0.5
        abar_later = 1.0 if later is None else abar[later]
        x = abar_later**0.5 * predicted + (1 - abar_later) ** 0.5 * epsilon
    torch.testing.assert_close(ours.double(), x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("objective", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction")])
@pytest.mark.parametrize(("name", "betas"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_ddim_equals_diffusers_over_all_timesteps(name, betas, objective, theirs):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDIMScheduler(100, beta_schedule=betas, prediction_type=theirs, clip_sample=True)
    if name == "linear":
        reference = diffusers.DDIMScheduler(100, 1e-3, 0.2, "linear", prediction_type=theirs, clip_sample=True)
    reference.set_timesteps(100)
    schedule = NoiseSchedule(name, 100)
    assert reference.timesteps.tolist() == sampling_timesteps(100, 100)[:-1].tolist()
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    sample = noise
    for t in reference.timesteps:
        # diffusers keeps the network's noise where it clips the image, unless told otherwise
        prediction = crooked_network(sample, t.expand(2))
        sample = reference.step(prediction, t, sample, use_clipped_model_output=True).prev_sample
    ours = ddim(denoiser(crooked_network, schedule, objective), noise, schedule, 100)
    torch.testing.assert_close(ours, sample, rtol=0, atol=1e-3)


@pytest.mark.parametrize("num_steps", [7, 30, 300])
def test_ddim_equals_the_first_order_solver_of_diffusers_at_steps_that_do_not_divide(num_steps):
    # DPM-Solver++ of order 1 is DDIM (Lu et al. 2022) and takes any list of timesteps
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DPMSolverMultistepScheduler(
        1000, beta_schedule="linear", solver_order=1, prediction_type="v_prediction", final_sigmas_type="zero"
    )
    reference.set_timesteps(timesteps=sampling_timesteps(num_steps, 1000)[:-1].tolist())
    schedule = NoiseSchedule("linear")
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    sample = noise
    for t in reference.timesteps:
        sample = reference.step(crooked_network(sample, t.expand(2)), t, sample).prev_sample
    ours = ddim(denoiser(crooked_network, schedule, "v", None), noise, schedule, num_steps)
    torch.testing.assert_close(ours, sample, rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_an_image_depends_on_its_own_noise_alone(solver):
    schedule = NoiseSchedule("cosine", 50)
    noise = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    denoise = denoiser(crooked_network, schedule, "v")
    batch = solver(denoise, noise, schedule, 9)
    alone = torch.cat([solver(denoise, noise[[n]], schedule, 9) for n in range(6)])
    torch.testing.assert_close(batch, alone)


def test_the_network_is_asked_once_a_step_at_the_timesteps_of_the_list():
    schedule, asked = NoiseSchedule("cosine", 40), []

    def network(noisy, timesteps):
        asked.append(timesteps.tolist())
        return noisy

    ddim(denoiser(network, schedule, "v"), torch.zeros(3, 1), schedule, 6)
    assert asked == [[t] * 3 for t in sampling_timesteps(6, 40)[:-1].tolist()]
