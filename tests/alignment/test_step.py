import itertools
import math
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.networks.nets import AutoencoderKL
from small_alignment import SCHEDULE, SCHEMA, Levels, features, generator_of, network_of, pool_of, step_of
from torch.nn import functional

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.settings import AlignmentLosses
from medi_monai.alignment.step import AnchorLoss, sets_by_prompt
from medi_monai.cohort import PatchDataset
from medi_monai.diffusion import NoiseSchedule, sampling_timesteps
from medi_monai.engines.prepare_batch import AutocastInferer, DiffusionPrepareBatch
from medi_monai.networks.spaces import LatentSpace, PixelSpace
from medi_monai.utils.errors import InputError


def gradients(network):
    by_name = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    network.zero_grad(set_to_none=True)
    return by_name


def by_hand(network, rows, generator, space):
    """DDIM in plain words, with the whole graph kept."""
    conditions, null = SCHEMA.encode(rows), SCHEMA.null_codes(len(rows))
    sample, times = generator.noise(rows), sampling_timesteps(generator.num_steps, SCHEDULE).tolist()
    for now, later in zip(times[:-1], times[1:]):
        steps, scale = torch.full((len(rows),), now), generator.guidance_scale
        velocity = network(sample, steps, conditions)
        if scale != 1:
            free = network(sample, steps, null)
            velocity = free + scale * (velocity - free)
        bars = [1.0 if t < 0 else float(SCHEDULE.alphas.square()[t]) for t in (now, later)]
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
    losses = AlignmentLosses(
        subgroup_loss="matching",
        min_confidence=0.8,
        scope="batch",
        rollout="truncated",
        pixel_weight=0.0,
        subgroup_weight=2.0,
        consistency_weight=0.5,
    )
    terms = step_of(pool, network, losses=losses).backward(2)
    actual = gradients(network)

    rows = pool.rows.iloc[pool.row_numbers(2, 6)]
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
    assert actual.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-3 and 0 < float((weights < 1).sum()) < 6
    assert all(torch.allclose(actual[name], expected[name], atol=2e-5 * largest, rtol=1e-3) for name in actual)


@pytest.mark.parametrize("rollout", ["truncated", "adjusted"])
@pytest.mark.parametrize("loss", ["matching", "transport"])
def test_what_is_drawn_at_once_does_not_count(rollout, loss):
    losses = AlignmentLosses(subgroup_loss=loss, rollout=rollout, min_confidence=0.5, last_steps=2)
    by_size = {}
    for size in (6, 4):
        network = network_of(seed=1)
        step = step_of(pool_of(generator_of(size)), network, losses=losses, augment=lambda images, step: images * 0.9)
        terms = step.backward(1)
        by_size[size] = terms, gradients(network)
    assert set(by_size[6][0]) == {"subgroup", "consistency", "pixels"} and all(by_size[6][0].values())
    assert by_size[4][0] == pytest.approx(by_size[6][0], rel=1e-4)
    for name, gradient in by_size[6][1].items():
        assert torch.allclose(by_size[4][1][name], gradient, atol=1e-6, rtol=1e-3), name


def test_the_joint_of_two_attributes_is_brought_to_its_target():
    shares = {"shade": {"dark": 0.2, "bright": 0.8}, "power": {"low": 0.7, "high": 0.3}}
    target = make_target(shares, Levels().attributes)
    network = network_of()
    pool = pool_of(generator_of(8), network_of(), target, size=16)
    losses = AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, consistency_weight=0.0, pixel_weight=0.0)
    step = step_of(pool, network, 16, losses)
    step.optimizer.param_groups[0]["lr"] = 1e-2
    engine = Engine(step)
    engine.register_events(*IterationEvents)
    terms_of_steps = []
    engine.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED, lambda e: terms_of_steps.append(e.state.output["terms"])
    )
    engine.run(range(25), epoch_length=25)
    losses = [terms["subgroup"] for terms in terms_of_steps]
    assert losses[-1] < 0.3 * losses[0], losses


def peak_bytes(num_steps, batch_size, rollout):
    """The most that PyTorch's allocator held during one update."""
    network = network_of()
    pool = pool_of(generator_of(batch_size, num_steps), network_of())
    step = step_of(pool, network, 8, AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, rollout=rollout))
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


def test_an_anchor_adds_its_own_gradients():
    pool, seen = pool_of(generator_of()), []

    def anchor(network, untuned, step, distilled):
        seen.append((untuned is pool.network, step, distilled))
        weight = network.conv_in.conv.weight
        terms = {"anchor": weight.square().sum()}
        return {**terms, "distillation": weight.sum()} if distilled else terms

    by_weights = {}
    for weights in ((0.0, 0.0), (3.0, 0.0), (0.0, 2.0), (3.0, 2.0)):
        network = network_of(seed=1)
        losses = AlignmentLosses(
            subgroup_loss="matching", min_confidence=0.8, anchor_weight=weights[0], distillation_weight=weights[1]
        )
        terms = step_of(pool, network, losses=losses, anchor=anchor).backward(7)
        by_weights[weights] = terms, gradients(network)["conv_in.conv.weight"]
    assert seen == [(True, 7, False), (True, 7, True), (True, 7, True)]
    weight = network_of(seed=1).conv_in.conv.weight.detach()
    for (real, distilled), (terms, gradient) in by_weights.items():
        assert torch.allclose(gradient - by_weights[0.0, 0.0][1], real * 2 * weight + distilled, atol=1e-5)
        assert terms.get("anchor", 0) == pytest.approx(real * float(weight.square().sum()), rel=1e-5)
        assert terms.get("distillation", 0) == pytest.approx(distilled * float(weight.sum()), rel=1e-5)


def test_the_target_is_met_within_each_prompt():
    """Batch-wide the shares are as wanted, and all of one prompt are bright: only the scope of a prompt sees it."""
    shades = {"a": -3.0, "b": 3.0}
    prompts = pd.DataFrame({"kind": ["a", "b"], "count": [4, 4]})
    target = make_target("uniform", {"shade": ("dark", "bright")})
    pool = pool_of(generator_of(8), target=target, prompts=prompts)
    logits = torch.tensor([shades[kind] for kind in pool.rows["kind"]])
    logs = functional.logsigmoid(torch.stack([-logits, logits], 1)).requires_grad_()
    outcomes = {}
    for loss, scope in itertools.product(("matching", "transport"), ("batch", "prompt")):
        step = step_of(pool, network_of(), 8, AlignmentLosses(subgroup_loss=loss, scope=scope, draws=None))
        value, weights = step._subgroup(logs, logs.detach().exp(), range(8), 1)
        outcomes[loss, scope] = value.item(), (weights < 1).tolist()
    assert outcomes["matching", "batch"] == (pytest.approx(0, abs=1e-6), [False] * 8)
    assert outcomes["transport", "batch"] == (pytest.approx(math.log(1 + math.exp(-3)), rel=1e-5), [False] * 8)
    # two of each four have to change
    p = 1 / (1 + math.exp(-3))
    assert outcomes["matching", "prompt"][0] == pytest.approx(-0.5 * math.log(4 * p * (1 - p)), rel=1e-5)
    assert outcomes["transport", "prompt"][0] == pytest.approx(-0.5 * math.log(p * (1 - p)), rel=1e-5)
    for loss in ("matching", "transport"):
        changed = pd.Series(outcomes[loss, "prompt"][1]).groupby(pool.rows["kind"]).sum()
        assert changed.to_dict() == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([0] * 5, [[0, 1, 2, 3, 4]]),
        ([7, 3, 7, 3, 7, 3, 7, 3], [[1, 3, 5, 7], [0, 2, 4, 6]]),
        # few of each: together
        ([0, 1, 2, 3, 4], [[0, 1, 2, 3, 4]]),
        ([0, 0, 0, 0, 1, 2, 1, 2], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        # too few even so: with the smallest set
        ([0, 0, 0, 0, 0, 1, 1, 1, 1, 2], [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        ([0, 1], [[0, 1]]),
    ],
)
def test_images_are_taken_together_by_prompt(prompts, expected):
    assert [members.tolist() for members in sets_by_prompt(np.array(prompts), 4)] == expected


def test_no_confident_image_moves_nothing():
    network = network_of()
    losses = AlignmentLosses(subgroup_loss="transport", min_confidence=1.0, consistency_weight=0.0, pixel_weight=0.0)
    pool = pool_of(generator_of(), guide=Levels(gain=1e-9))
    step = step_of(pool, network, losses=losses)
    assert step.backward(1) == {"subgroup": 0.0}
    assert all(not value.any() for value in gradients(network).values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"subgroup_loss": "matchin"}, "did you mean 'matching'"),
        ({"rollout": "direct"}, "unknown choice of `rollout`"),
        ({"scope": "promt"}, "did you mean 'prompt'"),
        ({"distillation_weight": -1}, "distillation_weight = -1"),
        ({"subgroup_weight": 0}, "subgroup_weight = 0.*above 0"),
        ({"pixel_weight": -1}, "pixel_weight = -1"),
        ({"anchor_weight": math.nan}, "anchor_weight = nan"),
        ({"change_weight": "much"}, "change_weight = 'much'"),
        ({"min_confidence": 1.2}, "min_confidence = 1.2.*from 0 to 1"),
        ({"draws": 0}, "draws = 0"),
        ({"last_steps": 1.5}, "last_steps = 1.5.*or null"),
    ],
)
def test_settings_of_the_losses_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        AlignmentLosses(**wrong)


def test_the_anchor_is_the_denoising_loss_and_the_distance_to_the_untuned(tiny_cohort, tiny_schema, tiny_network):
    dataset = PatchDataset(tiny_cohort.split("train"), tiny_schema, 16)
    prepare = DiffusionPrepareBatch(NoiseSchedule("cosine", 100), "v", 0.0, 0.0, 0.0, augment=False)
    anchor = AnchorLoss(dataset, 5, prepare, AutocastInferer("float32"), seed=4)
    indices = anchor.sampler.batch(3)
    batch = {
        "image": dataset.images[indices],
        "conditions": dataset.conditions[indices],
        "index": torch.tensor(indices),
    }
    noisy, target, _, arguments = prepare(batch, "cpu", step=3)
    tuned = deepcopy(tiny_network)
    with torch.no_grad():
        tuned.conv_in.conv.weight.mul_(1.5)
    now, before = tuned(noisy, **arguments), tiny_network(noisy, **arguments)
    terms = anchor(tuned, tiny_network, 3)
    assert terms["anchor"].item() == pytest.approx((now - target).square().mean().item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx((now - before).square().mean().item(), rel=1e-5)
    assert anchor(tiny_network, tiny_network, 3)["distillation"] == 0
    assert list(anchor(tuned, tiny_network, 3, distilled=False)) == ["anchor"]
    assert anchor(tuned, tiny_network, 4)["anchor"] != terms["anchor"]
    balanced = AnchorLoss(dataset, 3000, prepare, AutocastInferer("float32"), attributes=["center"])
    shares = dataset.table["center"].iloc[balanced.sampler.batch(1)].value_counts(normalize=True)
    assert (shares - 1 / 3).abs().max() < 0.04
    assert dataset.table["center"].value_counts(normalize=True).min() < 0.27
