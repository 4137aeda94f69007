import pytest
import torch

from medi_monai.diffusion import NoiseSchedule, add_noise, denoiser, image_coefficients, training_target
from medi_monai.utils.errors import InputError

TIMESTEPS = torch.tensor([0, 1, 250, 500, 750, 998])


@pytest.fixture
def images():
    return torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def noise():
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_noising_and_velocity_equal_those_of_diffusers(images, noise, name, theirs):
    diffusers = pytest.importorskip("diffusers")
    reference = diffusers.DDPMScheduler(beta_schedule=theirs)
    schedule = NoiseSchedule(name)
    noisy = add_noise(images, noise, TIMESTEPS, schedule)
    velocity = training_target(images, noise, TIMESTEPS, schedule, "v")
    torch.testing.assert_close(noisy, reference.add_noise(images, noise, TIMESTEPS), rtol=0, atol=1e-4)
    torch.testing.assert_close(velocity, reference.get_velocity(images, noise, TIMESTEPS), rtol=0, atol=1e-4)


def test_noising_and_velocity_equal_the_formulas_pixel_by_pixel(images, noise):
    schedule = NoiseSchedule("cosine")
    noisy = add_noise(images, noise, TIMESTEPS, schedule)
    velocity = training_target(images, noise, TIMESTEPS, schedule, "v")
    for n, t in enumerate(TIMESTEPS.tolist()):
        alpha, sigma = schedule.alphas.square()[t].item() ** 0.5, (1 - schedule.alphas.square()[t].item()) ** 0.5
        x, eps = images[n, 1, 2, 3].item(), noise[n, 1, 2, 3].item()
        assert noisy[n, 1, 2, 3].item() == pytest.approx(alpha * x + sigma * eps, abs=1e-6)
        assert velocity[n, 1, 2, 3].item() == pytest.approx(alpha * eps - sigma * x, abs=1e-6)


def test_the_target_of_epsilon_is_the_noise(images, noise):
    assert torch.equal(training_target(images, noise, TIMESTEPS, NoiseSchedule("linear"), "epsilon"), noise)


def test_the_target_of_sample_is_the_image(images, noise):
    assert torch.equal(training_target(images, noise, TIMESTEPS, NoiseSchedule("cosine"), "sample"), images)


def test_noised_images_of_unit_variance_keep_unit_variance():
    generator = torch.Generator().manual_seed(2)
    images, noise = torch.randn(2, 3, 50000, generator=generator)
    noisy = add_noise(images, noise, torch.tensor([10, 400, 990]), NoiseSchedule("cosine"))
    torch.testing.assert_close(noisy.var(dim=1), torch.ones(3), rtol=0, atol=0.03)


PAIRS = [(name, objective) for name in ("linear", "cosine") for objective in ("epsilon", "v", "sample")] + [
    ("flow", "flow")
]


@pytest.mark.parametrize(("name", "objective"), PAIRS)
def test_a_perfect_prediction_gives_the_image_back(images, noise, name, objective):
    schedule = NoiseSchedule(name)
    noisy = add_noise(images, noise, TIMESTEPS, schedule)
    target = training_target(images, noise, TIMESTEPS, schedule, objective)
    restored = denoiser(lambda x, t: target, schedule, objective, clip=1.5)(noisy, TIMESTEPS)
    # epsilon divides by alpha, and the rounding of float32 with it
    alpha = schedule.alphas[TIMESTEPS].float().view(-1, 1, 1, 1)
    tolerance = 1e-6 / alpha if objective == "epsilon" else torch.full_like(alpha, 2e-6)
    assert ((restored - images).abs() <= tolerance).all()


@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_a_wrong_prediction_does_not_give_the_image_back(images, noise, objective):
    schedule = NoiseSchedule("cosine")
    noisy = add_noise(images, noise, TIMESTEPS, schedule)
    other = {"epsilon": "v", "v": "epsilon"}[objective]
    target = training_target(images, noise, TIMESTEPS, schedule, other)
    restored = denoiser(lambda x, t: target, schedule, objective)(noisy, TIMESTEPS)
    assert (restored - images).abs()[2:5].mean() > 0.2


def test_the_network_is_asked_with_the_noisy_images_and_their_timesteps(images):
    asked = []
    denoiser(lambda x, t: asked.append((x, t)) or x, NoiseSchedule("cosine"), "v")(images, TIMESTEPS)
    assert len(asked) == 1 and torch.equal(asked[0][0], images) and torch.equal(asked[0][1], TIMESTEPS)


@pytest.mark.parametrize(("clip", "largest"), [(1.0, 1.0), (0.5, 0.5), (None, 30.0)])
def test_denoised_images_lie_within_the_clip(clip, largest):
    schedule = NoiseSchedule("cosine")
    denoise = denoiser(lambda x, t: torch.full_like(x, -30), schedule, "v", clip)
    assert denoise(torch.zeros(1, 3, 2, 2), torch.tensor([999])).max().item() == pytest.approx(largest, rel=1e-4)


def test_predictions_in_bfloat16_are_denoised_in_float32(images, noise):
    schedule = NoiseSchedule("cosine")
    noisy = add_noise(images, noise, TIMESTEPS, schedule)
    half = noise.bfloat16()
    restored = denoiser(lambda x, t: half, schedule, "v", None)(noisy, TIMESTEPS)
    expected = denoiser(lambda x, t: half.float(), schedule, "v", None)(noisy, TIMESTEPS)
    assert restored.dtype == torch.float32 and torch.equal(restored, expected)


def test_an_unknown_objective_is_refused(images, noise):
    schedule = NoiseSchedule("cosine")
    with pytest.raises(InputError, match="'velocity'.*'epsilon', 'v'"):
        training_target(images, noise, TIMESTEPS, schedule, "velocity")
    with pytest.raises(InputError, match="'velocity'.*'epsilon', 'v'"):
        denoiser(lambda x, t: x, schedule, "velocity")


@pytest.mark.parametrize(("name", "objective"), [("flow", "v"), ("flow", "epsilon"), ("cosine", "flow")])
def test_rectified_flow_needs_objective_and_schedule(images, noise, name, objective):
    with pytest.raises(InputError, match="'flow' and the schedule 'flow' belong together"):
        training_target(images, noise, TIMESTEPS, NoiseSchedule(name), objective)


def test_epsilon_is_refused_where_an_unbounded_image_would_be_divided_by_almost_nothing():
    with pytest.raises(InputError, match="'epsilon' with schedule 'cosine'.*--objective v"):
        denoiser(lambda x, t: x, NoiseSchedule("cosine"), "epsilon", clip=None)
    denoiser(lambda x, t: x, NoiseSchedule("cosine"), "epsilon")
    denoiser(lambda x, t: x, NoiseSchedule("linear"), "epsilon", clip=None)


def test_the_velocity_of_rectified_flow_is_that_of_diffusers(images, noise):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule("flow")
    reference = diffusers.FlowMatchEulerDiscreteScheduler(1000)
    sigmas = schedule.sigmas[TIMESTEPS].float().view(-1, 1, 1, 1)
    noisy = add_noise(images, noise, TIMESTEPS, schedule)
    torch.testing.assert_close(noisy, (1 - sigmas) * images + sigmas * noise, rtol=0, atol=1e-6)
    # a step of their Euler method along our velocity to no noise at all gives the image
    velocity = training_target(images, noise, TIMESTEPS, schedule, "flow")
    reference.set_timesteps(sigmas=[0.5])
    noisy = add_noise(images, noise, torch.full((6,), 500), schedule)
    there = noisy + (reference.sigmas[0] - schedule.sigmas[500].float()) * velocity
    ended = reference.step(velocity, reference.timesteps[0], there).prev_sample
    torch.testing.assert_close(ended, images, rtol=0, atol=1e-5)


def test_the_coefficients_of_the_image_are_those_of_the_denoiser(images, noise):
    for name, objective in PAIRS:
        schedule = NoiseSchedule(name)
        of_noisy, of_prediction = image_coefficients(schedule.alphas[500], schedule.sigmas[500], objective)
        timesteps = torch.full((6,), 500)
        denoised = denoiser(lambda x, t: noise, schedule, objective, clip=100)(images, timesteps)
        expected = (of_noisy * images.double() + of_prediction * noise.double()).float()
        torch.testing.assert_close(denoised, expected, rtol=0, atol=1e-5)
