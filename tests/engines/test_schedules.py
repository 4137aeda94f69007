"""Learning rates against the formulas that the schedules took the place of, to the last digit."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from medi_monai.engines.schedules import SinglePrecisionWarmupCosine, WarmupCosine, WarmupTimesCosine


def rates(schedule_of, count):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, seen = schedule_of(optimizer), []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("max_steps", [1, 2, 19, 60, 333])
def test_from_the_first_update_the_rise_and_the_cosine_are_those_of_the_formula(max_steps):
    warmup = max(1, max_steps // 20)
    taken = rates(lambda optimizer: WarmupCosine(optimizer, warmup, max_steps, cosine_start=0), max_steps)
    expected = [min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / max_steps)) for step in range(max_steps)]
    # as the optimizer takes them, in float32; in double, pi s / T and pi (s / T) differ in the last bit
    assert np.array_equal(np.float32(taken), np.float32(expected))
    assert taken == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("max_steps", [1, 2, 60, 600])
def test_the_rates_of_clip_are_those_of_a_cosine_in_single_precision(max_steps):
    warmup = max(1, min(50, max_steps // 10))

    def expected(step):
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, max_steps - warmup)
        return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))

    taken = rates(lambda optimizer: SinglePrecisionWarmupCosine(optimizer, warmup, max_steps), max_steps)
    assert taken == [expected(step) for step in range(max_steps)]


@pytest.mark.parametrize("max_steps", [1, 2, 12, 37, 300])
def test_the_rates_of_an_adaptation_are_the_product_of_rise_and_cosine_to_the_last_bit(max_steps):
    def expected(step):
        rise = min(1.0, step / max(1.0, 0.1 * max_steps))
        return rise * 0.5 * (1 + np.cos(np.pi * ((step - 1) / max_steps)))

    taken = rates(lambda optimizer: WarmupTimesCosine(optimizer, max(1.0, 0.1 * max_steps), max_steps), max_steps)
    # a product of three factors, one of which is a power of two, is rounded alike in any order
    assert taken == [expected(step) for step in range(1, max_steps + 1)]


def test_an_attached_schedule_takes_a_step_after_every_update():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, seen = WarmupCosine(optimizer, 3, 9), []

    def update(engine, batch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()

    engine = Engine(update)
    schedule.attach(engine)
    engine.run(range(9))
    assert seen == rates(lambda own: WarmupCosine(own, 3, 9), 9)


def test_before_the_cosine_the_rate_is_full_and_after_its_end_what_is_left():
    taken = rates(lambda optimizer: WarmupCosine(optimizer, 2, 8, cosine_start=4, end_factor=0.2), 11)
    assert taken[:5] == [0.5, 1, 1, 1, 1] and taken[6] == pytest.approx(0.6) and taken[8:] == pytest.approx([0.2] * 3)
    assert all(earlier > later for earlier, later in zip(taken[4:8], taken[5:9]))


def test_a_resumed_schedule_goes_on_where_it_was():
    def schedule_of(optimizer):
        return WarmupCosine(optimizer, 3, 20)

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = schedule_of(optimizer)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    resumed = schedule_of(other)
    resumed.load_state_dict(schedule.state_dict())
    other.load_state_dict(optimizer.state_dict())
    other.step()
    resumed.step()
    assert other.param_groups[0]["lr"] == rates(schedule_of, 9)[8]
