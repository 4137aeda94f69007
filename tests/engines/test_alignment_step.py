import math

import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.networks.nets import AutoencoderKL
from torch.nn import functional

from medi_monai.alignment import make_target
from medi_monai.diffusion import NoiseSchedule, sampling_timesteps
from medi_monai.engines import AlignmentLosses, ImageGenerator
from medi_monai.engines.alignment_step import AlignmentStep, ReferencePool, SubgroupReader, draw_images, spread_rows
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.spaces import LatentSpace, PixelSpace
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError

SCHEMA = MetadataSchema.from_table(pd.DataFrame({"kind": ["a", "b"]}), "kind", [])
PLAN = pd.DataFrame({"kind": ["a", "b"], "count": [6, 2]})
TARGET = make_target({"dark": 0.3, "bright": 0.7}, {"shade": ("dark", "bright")})
SCHEDULE = NoiseSchedule("cosine", 100)


class Levels(AttributeClassifier):
    """Reads the mean of an image and, as a second attribute, its power."""

    def __init__(self, attributes=None, gain=6.0):
        super().__init__(attributes or {"shade": ("dark", "bright"), "power": ("low", "high")}, None)
        self.gain = torch.nn.Parameter(torch.tensor(gain), requires_grad=False)

    def logits(self, images):
        levels = {"shade": images.mean((1, 2, 3)), "power": images.square().mean((1, 2, 3)) - 0.4}
        signs = {"dark": -1, "bright": 1, "low": -1, "high": 1}
        parts = [signs[value] * levels[name] for name, values in self.attributes.items() for value in values]
        return self.gain * torch.stack(parts, 1)


def features(images):
    return functional.avg_pool2d(images, 4).flatten(1) + 0.5


def network_of(channels=1, seed=0):
    torch.manual_seed(seed)
    network = MetadataDiffusionUNet(
        SCHEMA,
        spatial_dims=2,
        in_channels=channels,
        out_channels=channels,
        channels=(4, 8),
        attention_levels=(False, True),
        num_res_blocks=1,
        num_head_channels=8,
        norm_num_groups=4,
    )
    # the last layers start at zero, where nothing could be heard
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def generator_of(batch_size=6, num_steps=3, space=None, guidance_scale=1.0):
    return ImageGenerator(
        SCHEMA, SCHEDULE, "v", 16, "ddim", num_steps, guidance_scale, batch_size, space=space or PixelSpace(1)
    )


def pool_of(generator, network=None, target=TARGET, guide=None, size=8, prompts=PLAN):
    untuned = (network or network_of()).requires_grad_(False)
    return ReferencePool(untuned, generator, prompts, size, guide or Levels(), target, features, seed=3)


def step_of(pool, network, batch_size=6, losses=None, **options):
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.0)
    return AlignmentStep(network, optimizer, pool, losses or AlignmentLosses(), batch_size, **options)


def gradients(network):
    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad(set_to_none=True)
    return found


def by_hand(network, rows, generator, space):
    """DDIM in plain words, with the whole graph kept."""
    conditions, null = SCHEMA.encode(rows), SCHEMA.null_codes(len(rows))
    sample, times = generator.noise(rows), sampling_timesteps(generator.num_steps, 100).tolist()
    for now, later in zip(times[:-1], times[1:]):
        steps, scale = torch.full((len(rows),), now), generator.guidance_scale
        velocity = network(sample, steps, conditions)
        if scale != 1:
            free = network(sample, steps, null)
            velocity = free + scale * (velocity - free)
        bars = [1.0 if t < 0 else float(SCHEDULE.alphas_cumprod[t]) for t in (now, later)]
        (alpha, alpha_later), (sigma, sigma_later) = ([b**0.5 for b in bars], [(1 - b) ** 0.5 for b in bars])
        image = alpha * sample - sigma * velocity
        image = image if space.clip is None else image.clamp(-1, 1)
        sample = alpha_later * image + sigma_later * (sample - alpha * image) / sigma
    return space.decode(sample)


def latent_space():
    torch.manual_seed(5)
    model = AutoencoderKL(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        num_res_blocks=(1, 1),
        channels=(4, 8),
        attention_levels=(False, False),
        latent_channels=2,
        norm_num_groups=4,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )
    return LatentSpace(model, 0.7)


@pytest.mark.parametrize(("latent", "guidance"), [(False, 1.0), (False, 2.5), (True, 1.0)])
def test_the_gradient_is_that_of_the_loss_by_hand(latent, guidance):
    space = latent_space() if latent else PixelSpace(1)
    channels = space.shape(16)[0]
    generator = generator_of(4, 3, space, guidance)
    pool, network = pool_of(generator, network_of(channels)), network_of(channels, seed=1)
    losses = AlignmentLosses(rollout="truncated", pixel_weight=0.0, subgroup_weight=2.0, consistency_weight=0.5)
    terms = step_of(pool, network, losses=losses).backward(2)
    found = gradients(network)

    rows = pool.rows.iloc[pool.places(2, 6)]
    with torch.no_grad():
        before = by_hand(pool.network, rows, pool.generator, space)
    images = by_hand(network, rows, pool.generator, space)
    bright = torch.sigmoid(12 * images.mean((1, 2, 3)))
    subgroup = 0.3 * (0.3 / (1 - bright).mean()).log() + 0.7 * (0.7 / bright.mean()).log()
    was = torch.sigmoid(12 * before.mean((1, 2, 3)))
    # 2 of 6 are to be dark (1.8), 4 bright (4.2): of those too many, the least sure ones change
    bright_before, weights = was > 0.5, torch.ones(6)
    for value, wanted in ((False, 2), (True, 4)):
        members = [n for n in range(6) if bool(bright_before[n]) is value]
        members.sort(key=lambda n: abs(float(was[n]) - 0.5))
        for n in members[: max(0, len(members) - wanted)]:
            weights[n] = 0.2
    kept = (weights * (1 - functional.cosine_similarity(features(images), features(before)))).mean()
    assert terms["subgroup"] == pytest.approx(2 * subgroup.item(), rel=1e-4)
    assert terms["consistency"] == pytest.approx(0.5 * kept.item(), rel=1e-3)
    (2 * subgroup + 0.5 * kept).backward()
    expected = gradients(network)
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-3 and 0 < float((weights < 1).sum()) < 6
    assert all(torch.allclose(found[name], expected[name], atol=2e-5 * largest, rtol=1e-3) for name in found)


@pytest.mark.parametrize("rollout", ["truncated", "adjusted"])
@pytest.mark.parametrize("loss", ["matching", "transport"])
def test_what_is_drawn_at_once_does_not_count(rollout, loss):
    losses = AlignmentLosses(loss=loss, rollout=rollout, min_confidence=0.5, last_steps=2)
    found = {}
    for size in (6, 4):
        network = network_of(seed=1)
        step = step_of(pool_of(generator_of(size)), network, losses=losses, augment=lambda images, step: images * 0.9)
        terms = step.backward(1)
        found[size] = terms, gradients(network)
    assert set(found[6][0]) == {"subgroup", "consistency", "pixels"} and all(found[6][0].values())
    assert found[4][0] == pytest.approx(found[6][0], rel=1e-4)
    for name, gradient in found[6][1].items():
        assert torch.allclose(found[4][1][name], gradient, atol=1e-6, rtol=1e-3), name


def test_a_reference_is_of_the_same_prompt_and_noise():
    network = network_of()
    pool = pool_of(generator_of(3), network)
    for step in (1, 2, 5):
        places = pool.places(step, 4)
        alone = [draw_images(network, pool.generator, pool.rows.iloc[[place]]) for place in places]
        assert torch.allclose(pool.reference(places)["images"], torch.cat(alone), atol=1e-5)
        # a network that was not tuned yet has nothing to be drawn back to
        terms = step_of(pool, network_of(), batch_size=4).backward(step)
        assert terms["consistency"] < 1e-6 and terms["pixels"] < 1e-6 < terms["subgroup"]
    other = pool.reference([0])["images"] - pool.reference([1])["images"]
    assert other.abs().max() > 0.1


def test_the_pool_is_drawn_once_in_the_same_company(monkeypatch):
    pool, drawn = pool_of(generator_of(3), size=8), []
    inner = pool._draw
    monkeypatch.setattr(pool, "_draw", lambda rows: drawn.append(rows["number"].tolist()) or inner(rows))
    turns = [place for step in range(1, 5) for place in pool.places(step, 4)]
    assert turns[:8] == list(range(8)) and sorted(turns[8:]) == list(range(8)) and turns[8:] != turns[:8]
    for step in (1, 2, 3):
        pool.reference(pool.places(step, 4))
    assert drawn == [[0, 1, 2], [3, 4, 5], [6, 7]]
    later = pool_of(generator_of(3), size=8)
    places = pool.places(3, 4)
    assert all(torch.equal(value, later.reference(places)[name]) for name, value in pool.reference(places).items())


def test_rows_have_the_shares_of_the_plan_however_many():
    for prompts in (PLAN, PLAN.loc[PLAN.index.repeat(PLAN["count"])].drop(columns="count")):
        assert spread_rows(prompts, 4)["kind"].value_counts().to_dict() == {"a": 3, "b": 1}
        rows = spread_rows(prompts, 16)
        assert rows["kind"].value_counts().to_dict() == {"a": 12, "b": 4}
        assert rows["number"].tolist() == list(range(16)) and list(rows) == ["kind", "number"]
    unnamed = spread_rows(pd.DataFrame({"kind": [None], "count": [3]}), 5)
    assert unnamed["kind"].isna().all() and len(unnamed) == 5
    assert len(spread_rows(pd.DataFrame({"count": [3]}), 2)) == 2
    with pytest.raises(InputError, match="no prompt"):
        spread_rows(PLAN.head(0), 3)


def test_values_in_another_order_are_read_alike():
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    joint = {"shade": ("dark", "bright"), "power": ("low", "high")}
    target = make_target("uniform", joint)
    turned = Levels({"power": ("high", "low"), "shade": ("bright", "dark")})
    one, two = (SubgroupReader("x", reader, target, size)(images) for reader, size in ((Levels(), 5), (turned, 2)))
    assert torch.allclose(one, two) and one.shape == (5, 4)
    bright = torch.sigmoid(12 * images.mean((1, 2, 3)))
    low = torch.sigmoid(-12 * (images.square().mean((1, 2, 3)) - 0.4))
    assert torch.allclose(one.exp()[:, 2], bright * low, atol=1e-6)
    with pytest.raises(InputError, match="judge classifier knows.*'dim'"):
        SubgroupReader("judge", Levels({"shade": ("dim", "bright")}), TARGET, 4)
    with pytest.raises(InputError, match="shade"):
        SubgroupReader("judge", Levels({"power": ("low", "high")}), TARGET, 4)


def test_the_joint_of_two_attributes_is_brought_to_its_target():
    shares = {"shade": {"dark": 0.2, "bright": 0.8}, "power": {"low": 0.7, "high": 0.3}}
    target = make_target(shares, Levels().attributes)
    network = network_of()
    pool = pool_of(generator_of(8), network_of(), target, size=16)
    losses = AlignmentLosses(consistency_weight=0.0, pixel_weight=0.0)
    step = step_of(pool, network, 16, losses)
    step.optimizer.param_groups[0]["lr"] = 1e-2
    engine = Engine(step)
    engine.register_events(*IterationEvents)
    found = []
    engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda e: found.append(e.state.output["terms"]))
    engine.run(range(25), epoch_length=25)
    losses = [terms["subgroup"] for terms in found]
    assert losses[-1] < 0.3 * losses[0], losses


def peak_bytes(num_steps, batch_size, rollout):
    """The most that PyTorch's allocator held during one update."""
    network = network_of()
    pool = pool_of(generator_of(batch_size, num_steps), network_of())
    step = step_of(pool, network, 8, AlignmentLosses(rollout=rollout))
    pool.reference(range(8))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step.backward(1)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).cumsum(0)
    assert len(held) > 100
    return int(held.max())


@pytest.mark.parametrize("rollout", ["truncated", "adjusted"])
def test_memory_does_not_grow_with_the_steps(rollout):
    few = peak_bytes(10, 8, rollout)
    assert peak_bytes(50, 8, rollout) < 1.5 * few
    assert peak_bytes(10, 2, rollout) < 0.6 * few


def test_an_anchor_adds_its_own_gradient():
    pool, seen = pool_of(generator_of()), []

    def anchor(network, step):
        seen.append(step)
        return network.conv_in.conv.weight.square().sum()

    found = {}
    for weight in (0.0, 3.0):
        network = network_of(seed=1)
        terms = step_of(pool, network, losses=AlignmentLosses(anchor_weight=weight), anchor=anchor).backward(7)
        found[weight] = terms, gradients(network)
    assert seen == [7] and "anchor" not in found[0.0][0]
    weight = network_of(seed=1).conv_in.conv.weight.detach()
    assert found[3.0][0]["anchor"] == pytest.approx(3 * float(weight.square().sum()), rel=1e-5)
    difference = found[3.0][1]["conv_in.conv.weight"] - found[0.0][1]["conv_in.conv.weight"]
    assert torch.allclose(difference, 6 * weight, atol=1e-5)


def test_no_confident_image_moves_nothing():
    network = network_of()
    losses = AlignmentLosses("transport", min_confidence=1.0, consistency_weight=0.0, pixel_weight=0.0)
    pool = pool_of(generator_of(), guide=Levels(gain=1e-9))
    step = step_of(pool, network, losses=losses)
    assert step.backward(1) == {"subgroup": 0.0}
    assert all(not value.any() for value in gradients(network).values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "matchin"}, "did you mean 'matching'"),
        ({"divergence": "kll"}, "did you mean 'kl'"),
        ({"rollout": "direct"}, "unknown rollout"),
        ({"subgroup_weight": 0}, "subgroup_weight = 0.*above 0"),
        ({"pixel_weight": -1}, "pixel_weight = -1"),
        ({"anchor_weight": math.nan}, "anchor_weight = nan"),
        ({"changes": "much"}, "changes = 'much'"),
        ({"min_confidence": 1.2}, "min_confidence = 1.2.*from 0 to 1"),
        ({"draws": 0}, "draws = 0"),
        ({"last_steps": 1.5}, "last_steps = 1.5.*or null"),
    ],
)
def test_settings_of_the_losses_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        AlignmentLosses(**wrong)


def test_another_solver_is_refused():
    generator = generator_of()
    generator.solver = "dpm_solver"
    with pytest.raises(InputError, match="ddim"):
        pool_of(generator)
