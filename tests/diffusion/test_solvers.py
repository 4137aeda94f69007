import pytest
import torch

from medi_monai.diffusion import (
    SCHEDULES,
    SOLVERS,
    NoiseSchedule,
    ddim,
    ddim_step,
    denoiser,
    dpm_sde,
    dpm_solver,
    sampling_timesteps,
    unipc,
)
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import generator_from

MEAN = 0.4
#: standard deviations of components of an image: fine texture, and stain or brightness of a whole patch
STDS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
DETERMINISTIC = [name for name in SOLVERS if name != "dpm_sde"]


def gaussian_denoiser(schedule, std):
    """``E[x_0 | x_t]`` of images that are normal with mean 0.4 and the standard deviation ``std``."""

    def denoise(noisy, timesteps):
        alpha, sigma = schedule.coefficients(timesteps, noisy)
        return MEAN + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (noisy - alpha * MEAN)

    return denoise


def sampled_gaussian(solver, schedule, num_steps, std):
    """Mean and standard deviation of what a solver samples."""
    if solver is dpm_sde:
        noise = torch.randn(20, 4_000, generator=torch.Generator().manual_seed(0))
        sampled = solver(gaussian_denoiser(schedule, std), noise, schedule, num_steps)
        return sampled.mean().item(), sampled.std().item()
    # every step is linear in the noise, so two noises tell mean and standard deviation without sampling error
    low, high = solver(gaussian_denoiser(schedule, std), torch.tensor([[-1.0], [1.0]]), schedule, num_steps)
    return (high + low).item() / 2, (high - low).item() / 2


def mixture_denoiser(schedule):
    """``E[x_0 | x_t]`` of values that are -0.6 or 0.7, normal around them with a standard deviation of 0.1."""
    means, weights, std = torch.tensor([-0.6, 0.7]), torch.tensor([0.3, 0.7]), 0.1

    def denoise(noisy, timesteps):
        alpha, sigma = schedule.coefficients(timesteps, noisy)
        variance = alpha**2 * std**2 + sigma**2
        distance = noisy[..., None] - alpha[..., None] * means
        posterior = torch.softmax(weights.log() - distance.square() / (2 * variance[..., None]), dim=-1)
        expected = means + (alpha * std**2 / variance)[..., None] * distance
        return (posterior * expected).sum(-1)

    return denoise


def denoiser64(network, schedule):
    """Denoiser of a network that predicts v, in float64, as diffusers computes it."""

    def denoise(noisy, timesteps):
        alpha, sigma = schedule.alphas[timesteps].view(-1, 1), schedule.sigmas[timesteps].view(-1, 1)
        return alpha * noisy - sigma * network(noisy, timesteps)

    return denoise


def crooked_network(noisy, timesteps):
    return torch.tanh(1.3 * noisy.roll(1, dims=1) - 0.2) + 0.1 * torch.cos(timesteps.float() / 90)[:, None]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 7, 15, 300, 600, 999, 1000])
def test_timesteps_are_distinct_and_go_down_from_the_last_to_the_clean_image(name, num_steps):
    steps = sampling_timesteps(num_steps, NoiseSchedule(name)).tolist()
    assert len(steps) == num_steps + 1
    assert steps[0] == 999 and steps[-1] == -1 and (num_steps == 1 or 0 <= steps[-2] < 10)
    assert all(later < earlier for earlier, later in zip(steps, steps[1:]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_timesteps_are_even_in_the_log_signal_to_noise_ratio(name):
    schedule = NoiseSchedule(name)
    steps = sampling_timesteps(12, schedule)[1:-1]
    half = torch.log(schedule.alphas / schedule.sigmas)
    low, high = half.clamp(-5, 5)[[-1, 0]].tolist()
    wanted = torch.linspace(low, high, 12, dtype=torch.float64)[1:]
    # no timestep is nearer
    nearest = torch.stack([(half - value).abs().argmin() for value in wanted])
    assert steps.tolist() == nearest.tolist()


@pytest.mark.parametrize("num_steps", [0, -1, 51])
def test_a_number_of_steps_outside_the_schedule_is_refused(num_steps):
    with pytest.raises(InputError, match=f"num_steps = {num_steps}.*1 to 50"):
        sampling_timesteps(num_steps, NoiseSchedule("cosine", 50))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("num_steps", [150, 300, 600, 1000])
def test_a_gaussian_of_any_size_is_sampled_with_its_mean_and_standard_deviation(solver, name, num_steps):
    # 300 and 600 do not divide 1000, where `t - T // num_steps` gives 0.533 and 0.659 instead of 0.5
    for std in STDS:
        mean, sampled = sampled_gaussian(SOLVERS[solver], NoiseSchedule(name), num_steps, std)
        assert mean == pytest.approx(MEAN, abs=0.02 + 0.01 * std)
        assert sampled == pytest.approx(std, rel=0.022)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", ["dpm", "unipc"])
def test_second_order_solvers_are_off_by_3_percent_in_15_steps_at_any_standard_deviation(solver, name):
    for std in STDS:
        _, sampled = sampled_gaussian(SOLVERS[solver], NoiseSchedule(name), 15, std)
        assert sampled == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("std", [0.1, 0.5, 8.0])
def test_the_error_shrinks_with_the_number_of_steps(solver, name, std):
    # fresh noise leaves an error of the mean of 80,000 numbers; that of second order may pass through 0
    least, most = {"ddim": (5e-3, 160), "dpm_sde": (0.04, 80)}.get(solver, (0.015, 160))
    steps = [steps for steps in (5, 10, 20, 40, 80, 160) if steps <= most]
    errors = [abs(sampled_gaussian(SOLVERS[solver], NoiseSchedule(name), n, std)[1] / std - 1) for n in steps]
    # until the error of the schedule's own last step is reached
    assert all(later < max(0.75 * earlier, least) for earlier, later in zip(errors, errors[1:])), errors


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_mixture_is_sampled_with_the_shares_and_widths_of_its_parts(solver, name):
    schedule = NoiseSchedule(name)
    noise = torch.randn(10, 2_000, generator=torch.Generator().manual_seed(0))
    sampled = SOLVERS[solver](mixture_denoiser(schedule), noise, schedule, 100)
    low = sampled[sampled < 0.05]
    assert len(low) / sampled.numel() == pytest.approx(0.3, abs=0.015)
    assert low.mean().item() == pytest.approx(-0.6, abs=0.01) and low.std().item() == pytest.approx(0.1, rel=0.06)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", [dpm_solver, unipc])
def test_a_second_order_solver_does_in_20_steps_what_takes_ddim_100(solver, name):
    schedule = NoiseSchedule(name)
    error = abs(sampled_gaussian(solver, schedule, 20, 0.5)[1] - 0.5)
    assert error < abs(sampled_gaussian(ddim, schedule, 100, 0.5)[1] - 0.5)


def betas_of(schedule):
    alpha_bar = schedule.alphas.square()
    return (1 - alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])).numpy()


def sampled_by_diffusers(reference, num_steps, schedule, fresh=None):
    reference.set_timesteps(num_steps)
    # set by hand: not every scheduler takes a list of timesteps, and theirs are rounded to float32
    steps = sampling_timesteps(num_steps, schedule)[:-1]
    sigmas = (schedule.sigmas / schedule.alphas)[steps]
    reference.timesteps, reference.num_inference_steps = steps, num_steps
    reference.sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample = noise
    for index, step in enumerate(reference.timesteps):
        more = {} if fresh is None else {"variance_noise": fresh[index]}
        sample = reference.step(crooked_network(sample, step.expand(2)), step, sample, **more).prev_sample
    return noise, sample


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("num_steps", [5, 12, 15, 30, 300])
def test_dpm_solver_equals_that_of_diffusers(name, num_steps):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(name)
    reference = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas_of(schedule), solver_order=2, prediction_type="v_prediction", final_sigmas_type="zero"
    )
    noise, theirs = sampled_by_diffusers(reference, num_steps, schedule)
    ours = dpm_solver(denoiser64(crooked_network, schedule), noise, schedule, num_steps)
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("num_steps", [5, 12, 15, 30])
def test_unipc_equals_that_of_diffusers(name, num_steps):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(name)
    reference = diffusers.UniPCMultistepScheduler(
        trained_betas=betas_of(schedule), solver_order=2, prediction_type="v_prediction", final_sigmas_type="zero"
    )
    noise, theirs = sampled_by_diffusers(reference, num_steps, schedule)
    ours = unipc(denoiser64(crooked_network, schedule), noise, schedule, num_steps)
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [5, 15, 30])
def test_the_stochastic_solver_equals_that_of_diffusers_with_the_same_noise(num_steps):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule("cosine")
    reference = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas_of(schedule),
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        prediction_type="v_prediction",
        final_sigmas_type="zero",
    )
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generators = [generator_from("solver", row.tolist()) for row in noise]
    fresh = [torch.stack([torch.randn(5, generator=one) for one in generators]).double() for _ in range(num_steps)]
    _, theirs = sampled_by_diffusers(reference, num_steps, schedule, fresh)
    ours = dpm_sde(denoiser64(crooked_network, schedule), noise, schedule, num_steps)
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-5)


def test_ddim_is_the_euler_method_of_rectified_flow():
    schedule = NoiseSchedule("flow")
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    ours = ddim(denoiser(crooked_network, schedule, "flow", None), noise, schedule, 9)
    steps, sample = sampling_timesteps(9, schedule).tolist(), noise.double()
    for now, later in zip(steps, steps[1:]):
        change = (schedule.sigmas[later] if later >= 0 else 0) - schedule.sigmas[now]
        sample = sample + change * crooked_network(sample, torch.full((2,), now))
    torch.testing.assert_close(ours.double(), sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 7, 50])
def test_ddim_equals_equation_12_in_float64(num_steps):
    schedule = NoiseSchedule("linear")
    noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    ours = ddim(denoiser(crooked_network, schedule, "epsilon", None), noise, schedule, num_steps)

    abar = schedule.alphas.square().numpy()
    steps = sampling_timesteps(num_steps, schedule)[:-1].tolist()
    x = noise.double()
    for now, later in zip(steps, [*steps[1:], None]):
        epsilon = crooked_network(x, torch.full((2,), now))
        predicted = (x - (1 - abar[now]) ** 0.5 * epsilon) / abar[now] ** 0.5
        abar_later = 1.0 if later is None else abar[later]
        x = abar_later**0.5 * predicted + (1 - abar_later) ** 0.5 * epsilon
    torch.testing.assert_close(ours.double(), x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("objective", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction"), ("sample", "sample")])
@pytest.mark.parametrize(("name", "betas"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_ddim_equals_diffusers_over_all_timesteps(name, betas, objective, theirs):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDIMScheduler(100, beta_schedule=betas, prediction_type=theirs, clip_sample=True)
    if name == "linear":
        reference = diffusers.DDIMScheduler(100, 1e-3, 0.2, "linear", prediction_type=theirs, clip_sample=True)
    reference.set_timesteps(100)
    schedule = NoiseSchedule(name, 100)
    assert reference.timesteps.tolist() == sampling_timesteps(100, schedule)[:-1].tolist()
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
    schedule = NoiseSchedule("linear")
    reference.set_timesteps(timesteps=sampling_timesteps(num_steps, schedule)[:-1].tolist())
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
    assert asked == [[t] * 3 for t in sampling_timesteps(6, schedule)[:-1].tolist()]


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gradient_of_a_step_of_ddim_is_that_of_its_equation(name):
    schedule, (now, later) = NoiseSchedule(name), (700, 300)
    sample = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    stepped = ddim_step(lambda noisy, timesteps: scale * noisy, sample, now, later, schedule)
    keep = schedule.sigmas[later] / schedule.sigmas[now]
    gain = schedule.alphas[later] - keep * schedule.alphas[now]
    torch.testing.assert_close(stepped, (keep + gain * scale) * sample)
    of_sample, of_scale = torch.autograd.grad(stepped.sum(), (sample, scale))
    torch.testing.assert_close(of_sample, (keep + gain * scale).expand_as(sample))
    torch.testing.assert_close(of_scale, gain * sample.sum())
