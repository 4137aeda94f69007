import itertools

import pandas as pd
import pytest
import torch
from small_alignment import PLAN, TARGET, Levels, generator_of, network_of, pool_of, step_of

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.pool import SubgroupPredictor, draw_images, spread_rows
from medi_monai.utils.errors import InputError


def test_a_reference_is_of_the_same_prompt_and_noise():
    network = network_of()
    pool = pool_of(generator_of(3), network)
    for step in (1, 2, 5):
        numbers = pool.row_numbers(step, 4)
        alone = [draw_images(network, pool.generator, pool.rows.iloc[[number]]) for number in numbers]
        assert torch.allclose(pool.reference(numbers)["images"], torch.cat(alone), atol=1e-5)
        # a network that was not tuned yet has nothing to be drawn back to
        terms = step_of(pool, network_of(), batch_size=4).backward(step)
        assert terms["consistency"] < 1e-6 and terms["pixels"] < 1e-6 < terms["subgroup"]
    other = pool.reference([0])["images"] - pool.reference([1])["images"]
    assert other.abs().max() > 0.1


def test_the_pool_is_drawn_once_in_the_same_company(monkeypatch):
    pool, drawn = pool_of(generator_of(3), size=8), []
    inner = pool._draw
    monkeypatch.setattr(pool, "_draw", lambda rows: drawn.append(rows["number"].tolist()) or inner(rows))
    turns = [number for step in range(1, 5) for number in pool.row_numbers(step, 4)]
    assert turns[:8] == list(range(8)) and sorted(turns[8:]) == list(range(8)) and turns[8:] != turns[:8]
    for step in (1, 2, 3):
        pool.reference(pool.row_numbers(step, 4))
    assert drawn == [[0, 1, 2], [3, 4, 5], [6, 7]]
    later = pool_of(generator_of(3), size=8)
    numbers = pool.row_numbers(3, 4)
    assert all(torch.equal(value, later.reference(numbers)[name]) for name, value in pool.reference(numbers).items())


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
    logs, turned_logs = (
        SubgroupPredictor("x", classifier, target, size)(images) for classifier, size in ((Levels(), 5), (turned, 2))
    )
    assert torch.allclose(logs, turned_logs) and logs.shape == (5, 4)
    bright = torch.sigmoid(12 * images.mean((1, 2, 3)))
    low = torch.sigmoid(-12 * (images.square().mean((1, 2, 3)) - 0.4))
    assert torch.allclose(logs.exp()[:, 2], bright * low, atol=1e-6)
    with pytest.raises(InputError, match="judge classifier predicts the values.*'dim'"):
        SubgroupPredictor("judge", Levels({"shade": ("dim", "bright")}), TARGET, 4)
    with pytest.raises(InputError, match="shade"):
        SubgroupPredictor("judge", Levels({"power": ("low", "high")}), TARGET, 4)


def test_another_solver_is_refused():
    generator = generator_of()
    generator.solver = "dpm_solver"
    with pytest.raises(InputError, match="ddim"):
        pool_of(generator)


def test_images_of_a_prompt_follow_each_other():
    prompts = pd.DataFrame({"kind": ["a", "b"], "count": [30, 10]})
    pool = pool_of(generator_of(), prompts=prompts, size=40, together=8)
    assert pool.rows["number"].tolist() == list(range(40))
    for step in (1, 2):
        numbers = pool.row_numbers(step, 40)
        assert sorted(numbers) == list(range(40))
        kinds = pool.rows["kind"].iloc[numbers]
        runs = kinds.groupby((kinds != kinds.shift()).cumsum()).agg(["first", "size"])
        # 30 of a are blocks of 8, 8, 8 and 6, 10 of b of 8 and 2
        blocks = {"a": [6, 8, 8, 8], "b": [2, 8]}
        assert all(sum(runs.loc[runs["first"] == kind, "size"]) == sum(sizes) for kind, sizes in blocks.items())
        assert len(runs) <= 6 and all(size in _sums(blocks[kind]) for kind, size in runs.to_numpy())
    assert pool.row_numbers(1, 40) != pool.row_numbers(2, 40)
    mixed = pool_of(generator_of(), prompts=prompts, size=40)
    kinds = mixed.rows["kind"]
    assert (kinds != kinds.shift()).sum() > 8
    assert pool.prompts.tolist() == pd.factorize(pool.rows["kind"])[0].tolist()


def _sums(sizes):
    return {sum(chosen) for count in range(1, len(sizes) + 1) for chosen in itertools.combinations(sizes, count)}
