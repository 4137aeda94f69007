import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from medi_monai.alignment.functional import ROLLOUTS, adjusted_direct, step_coefficients, truncated
from medi_monai.diffusion import NoiseSchedule, ddim, denoiser, guided, sampling_timesteps
from medi_monai.utils.errors import InputError

SCHEDULE = NoiseSchedule("linear", 40)
#: prediction targets with a schedule of each
SCHEDULES = {"epsilon": SCHEDULE, "v": SCHEDULE, "sample": SCHEDULE, "flow": NoiseSchedule("flow", 40)}
PAIRS = [("epsilon", "linear"), ("v", "linear"), ("v", "cosine"), ("sample", "cosine"), ("flow", "flow")]


class TinyNetwork(nn.Module):
    """Two layers that hear the timestep, in float64."""

    def __init__(self, width=3):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(width + 1, 5), nn.Linear(5, width)
        self.double()

    def forward(self, noisy, timesteps):
        time = timesteps.double()[:, None] / 40
        return self.outer(torch.tanh(self.inner(torch.cat([noisy.double(), time], 1))))


@pytest.fixture
def network():
    return TinyNetwork()


@pytest.fixture
def noise():
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loss_of(images):
    return (images - 0.3).square().sum() + images.prod(1).sum()


def gradients(network):
    flat = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in network.parameters()])
    network.zero_grad()
    return flat


def unrolled(network, noise, objective, num_steps, clip, tuned_steps):
    """DDIM from its equations in float64, with autograd through its last steps."""
    schedule = SCHEDULES[objective]
    alphas = torch.cat([schedule.alphas, torch.ones(1, dtype=torch.float64)])
    sigmas = torch.cat([schedule.sigmas, torch.zeros(1, dtype=torch.float64)])
    steps, x = sampling_timesteps(num_steps, schedule).tolist(), noise
    for index, (now, later) in enumerate(zip(steps, steps[1:])):
        if index == num_steps - tuned_steps:
            x = x.detach()
        a, s = alphas[now], sigmas[now]
        output = network(x, torch.full((len(x),), now))
        clean = {
            "epsilon": (x - s * output) / a, "v": a * x - s * output, "sample": output, "flow": x - s * output
        }[objective]  # fmt: skip
        clean = clean if clip is None else clean.clamp(-clip, clip)
        x = alphas[later] * clean + sigmas[later] * (x - a * clean) / s
    return x


@pytest.mark.parametrize(("objective", "name"), PAIRS)
@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("last_steps", [1, 3, None])
def test_images_are_those_of_ddim_to_the_bit(objective, name, clip, last_steps):
    schedule, net = NoiseSchedule(name), TinyNetwork().float()
    net.forward = lambda x, t: net.outer(torch.tanh(net.inner(torch.cat([x, t[:, None] / 1000], 1))))
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    expected = ddim(denoiser(net, schedule, objective, clip), start, schedule, 7)
    for kind in ROLLOUTS.values() if objective != "sample" else [truncated]:
        rollout = kind(net, start, schedule, objective, 7, last_steps=last_steps, clip=clip)
        assert torch.equal(rollout.images, expected)
        assert rollout.images.is_leaf and rollout.images.requires_grad


@pytest.mark.parametrize("objective", SCHEDULES)
@pytest.mark.parametrize("clip", [0.4, None])
@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("last_steps", [None, 1, 2, 5])
def test_truncated_gradients_are_those_of_autograd_through_unrolled_steps(
    network, noise, objective, clip, checkpoint, last_steps
):
    if clip and objective == "sample":
        # the outputs of the network are the images, and small
        clip = 0.1
    images = unrolled(network, noise, objective, 5, clip, last_steps or 5)
    loss_of(images).backward()
    expected = gradients(network)
    rollout = truncated(network, noise, SCHEDULES[objective], objective, 5, last_steps, checkpoint, clip)
    torch.testing.assert_close(rollout.images, images, rtol=1e-5, atol=1e-5)
    rollout.backward(loss_of(rollout.images))
    actual = gradients(network)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert expected.abs().max() > 1e-3
    if clip:
        assert (images.abs() == clip).any(), "the clamp has to be at work"


@pytest.mark.parametrize("objective", SCHEDULES)
def test_truncated_gradients_are_those_of_finite_differences(network, noise, objective):
    def bounded_loss(images):
        return torch.atan(images / 20).sum()

    def loss(network):
        return bounded_loss(unrolled(network, noise, objective, 4, None, 4)).item()

    rollout = truncated(network, noise, SCHEDULES[objective], objective, 4, clip=None)
    rollout.backward(bounded_loss(rollout.images))
    actual, expected, step = gradients(network), [], 1e-6
    with torch.no_grad():
        for parameter in network.parameters():
            for index in np.ndindex(*parameter.shape):
                value, ends = parameter[index].item(), []
                for sign in (1, -1):
                    parameter[index] = value + sign * step
                    ends.append(loss(network))
                parameter[index] = value
                expected.append((ends[0] - ends[1]) / (2 * step))
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("objective", "name"), PAIRS)
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_coefficients_say_how_the_image_of_ddim_moves_with_each_prediction(objective, name, num_steps):
    schedule = NoiseSchedule(name, 50)
    generator = torch.Generator().manual_seed(0)
    said = torch.randn(num_steps, 1, 1, generator=generator)

    def image(predictions):
        # the predictions are given, so nothing hears the latents
        left = list(predictions)
        return ddim(
            denoiser(lambda x, t: left.pop(0), schedule, objective, None), torch.ones(1, 1), schedule, num_steps
        )

    for step, coefficient in enumerate(step_coefficients(schedule, objective, num_steps).tolist()):
        moved = said.clone()
        moved[step] += 8
        change = (image(moved) - image(said)).item() / 8
        assert change == pytest.approx(coefficient, rel=2e-3, abs=1e-3)
        assert coefficient < 0 or objective == "sample"


def test_coefficients_of_noise_add_up_to_the_ratio_of_noise_to_signal():
    alpha_bar = SCHEDULE.alphas.square()[-1].item()
    total = step_coefficients(SCHEDULE, "epsilon", 7).sum().item()
    assert total == pytest.approx(-math.sqrt((1 - alpha_bar) / alpha_bar), rel=1e-12)


def test_the_adjusted_gradient_of_a_linear_network_is_that_worked_by_hand():
    # two steps, eps = w x: x1 = (a1/a0) x0 + (s1 - a1 s0/a0) w x0, and the loss is the image itself
    weight = torch.tensor(0.3, requires_grad=True)
    schedule, start = NoiseSchedule("linear", 10), torch.tensor([[0.7]])
    rollout = adjusted_direct(lambda x, t: weight * x, start, schedule, "epsilon", 2, clip=None)
    rollout.backward(rollout.images.sum())

    abar0, abar1 = schedule.alphas.square()[9].item(), schedule.alphas.square()[0].item()
    r0, r1 = math.sqrt((1 - abar0) / abar0), math.sqrt((1 - abar1) / abar1)
    x0 = 0.7
    x1 = math.sqrt(abar1) * (x0 / math.sqrt(abar0) + (r1 - r0) * 0.3 * x0)
    c0, c1 = r0 - r1, r1
    common = math.sqrt(c0 * c1)
    assert weight.grad.item() == pytest.approx(-common * (x0 + x1), rel=1e-5)
    # the image is what the coefficients say: x0 / a0 - c0 eps0 - c1 eps1
    assert rollout.images.item() == pytest.approx(x0 / math.sqrt(abar0) - c0 * 0.3 * x0 - c1 * 0.3 * x1, rel=1e-5)


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("clip", [0.4, None])
@pytest.mark.parametrize("last_steps", [None, 1, 3])
def test_the_adjusted_gradient_is_that_of_a_graph_with_detached_latents(network, noise, objective, clip, last_steps):
    schedule, seen = SCHEDULES[objective], []

    def recording(x, t):
        seen.append((x.detach().clone(), t))
        return network(x, t)

    final = ddim(denoiser(recording, schedule, objective, clip), noise, schedule, 6)
    coefficients = step_coefficients(SCHEDULES[objective], objective, 6)[6 - (last_steps or 6) :]
    common = math.exp(sum(math.log(abs(c)) for c in coefficients.tolist()) / len(coefficients))
    surrogate = final
    for x, t in seen[6 - (last_steps or 6) :]:
        prediction = network(x, t)
        surrogate = surrogate - common * (prediction - prediction.detach())
    loss_of(surrogate).backward()
    expected = gradients(network)

    rollout = adjusted_direct(network, noise, SCHEDULES[objective], objective, 6, last_steps, clip)
    rollout.backward(loss_of(rollout.images))
    torch.testing.assert_close(gradients(network), expected, rtol=1e-5, atol=1e-8)


def test_the_adjusted_rollout_refuses_a_model_whose_image_is_its_last_prediction(network, noise):
    with pytest.raises(InputError, match="'adjusted'.*'sample'.*--rollout truncated"):
        adjusted_direct(network, noise, SCHEDULES["sample"], "sample", 6)


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_with_one_step_and_no_clamp_both_kinds_have_the_same_gradient(network, noise, objective):
    by_kind = []
    for kind in ROLLOUTS.values():
        rollout = kind(network, noise, SCHEDULES[objective], objective, 6, last_steps=1, clip=None)
        rollout.backward(loss_of(rollout.images))
        by_kind.append(gradients(network))
    torch.testing.assert_close(*by_kind, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_clipped_pixel_pulls_with_the_adjusted_gradient_alone(num_steps):
    bias = nn.Parameter(torch.full((2,), -9.0))  # eps of -9: the image is far beyond 1 in both pixels
    pulls = {}
    for name, kind in (("true", truncated), ("adjusted", adjusted_direct)):
        rollout = kind(lambda x, t: bias.expand_as(x), torch.zeros(3, 2), SCHEDULE, "epsilon", num_steps)
        assert torch.equal(rollout.images, torch.ones(3, 2))
        rollout.backward(rollout.images[:, 0].sum())
        pulls[name] = bias.grad.clone()
        bias.grad = None
    assert not pulls["true"].any() and pulls["adjusted"][0] < 0 and pulls["adjusted"][1] == 0
    if num_steps == 1:
        total = step_coefficients(SCHEDULE, "epsilon", 1).sum().item()
        assert pulls["adjusted"][0].item() == pytest.approx(3 * total, rel=1e-4)


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_guidance_a_decoder_and_a_term_on_the_parameters_are_heard(kind, noise):
    network, scale = TinyNetwork(4), 2.0
    decode = nn.Linear(3, 6).double().requires_grad_(False)
    conditions, null = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)

    def conditional(x, t, c):
        return network(torch.cat([x.double(), c], 1), t)[:, :3]

    def run(factor, anchor):
        rollout = ROLLOUTS[kind](guided(conditional, conditions, null, scale), noise, SCHEDULE, "v", 3, clip=None)
        rollout.backward(factor * decode(rollout.images).square().sum() + anchor * network.outer.bias.sum())
        return gradients(network)

    plain, double, both = run(1, 0), run(2, 0), run(1, 5)
    torch.testing.assert_close(double, 2 * plain)
    torch.testing.assert_close(both[-4:], plain[-4:] + 5)
    torch.testing.assert_close(both[:-4], plain[:-4])
    assert plain.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_a_loss_over_several_rollouts_equals_one_rollout_of_the_batch(kind, network, noise):
    def batch_loss(images):
        return (images.mean(0) - 0.2).square().sum()

    whole = ROLLOUTS[kind](network, noise, SCHEDULE, "v", 4)
    whole.backward(batch_loss(whole.images))
    expected = gradients(network)
    rollouts = [ROLLOUTS[kind](network, noise[rows], SCHEDULE, "v", 4) for rows in (slice(0, 1), slice(1, 4))]
    batch_loss(torch.cat([rollout.images for rollout in rollouts])).backward()
    for rollout in rollouts:
        rollout.send_back(rollout.images.grad)
    torch.testing.assert_close(gradients(network), expected)


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_descent_through_it_moves_the_images(kind, noise):
    network = TinyNetwork()
    optimizer, losses = torch.optim.Adam(network.parameters(), 0.02), []
    for _ in range(40):
        optimizer.zero_grad()
        rollout = ROLLOUTS[kind](network, noise, SCHEDULE, "v", 5)
        loss = (rollout.images - 0.3).square().mean()
        rollout.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_mistakes_are_errors(kind, network, noise):
    with pytest.raises(InputError, match="last_steps = 9.*1 to 5"):
        ROLLOUTS[kind](network, noise, SCHEDULE, "v", 5, last_steps=9)
    with pytest.raises(InputError, match="unknown objective"):
        ROLLOUTS[kind](network, noise, SCHEDULE, "x", 5)
    rollout = ROLLOUTS[kind](network, noise, SCHEDULE, "v", 2)
    with pytest.raises(InputError, match="a gradient of"):
        rollout.send_back(torch.zeros(1))
    rollout.backward(rollout.images.sum())
    with pytest.raises(InputError, match="backpropagated only once"):
        rollout.backward(rollout.images.sum())
    with pytest.raises(InputError, match="nothing can be tuned"):
        rollout = ROLLOUTS[kind](network.requires_grad_(False), noise, SCHEDULE, "v", 2)
        rollout.backward(rollout.images.sum())


def peak_bytes(run):
    """The most memory that tensors held at a time, from the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    assert len(held)
    return held.max()


@pytest.mark.parametrize(
    ("kind", "options", "bound"),
    [
        (truncated, {}, (0.9, 1.5)),
        (adjusted_direct, {}, (0.9, 1.5)),
        (truncated, {"checkpoint": False}, (3, 6)),
    ],
    ids=["truncated", "adjusted", "without_checkpoints"],
)
def test_memory_at_50_steps_is_at_most_half_as_much_again_as_at_10(kind, options, bound):
    # as in a real network, what one evaluation keeps is far larger than a latent
    body = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 1), nn.SiLU(), nn.Conv2d(32, 1, 1)
    )
    start = torch.randn(4, 1, 16, 16)

    def run(num_steps):
        rollout = kind(lambda x, t: body(x), start, NoiseSchedule(), "v", num_steps, **options)
        rollout.backward(rollout.images.square().mean())

    run(2)
    peaks = [peak_bytes(lambda steps=steps: run(steps)) for steps in (10, 50)]
    assert bound[0] <= peaks[1] / peaks[0] <= bound[1], peaks
