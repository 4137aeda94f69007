from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from medi_monai.cohort import expand_plan
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.extension import along_path, extend_model, path_grid, path_of, with_learned
from medi_monai.engines.generator import ImageGenerator
from medi_monai.networks.learned_values import LearnedValue
from medi_monai.utils.errors import InputError

COLUMNS = ["project_id", "center", "count"]


@pytest.fixture
def network(tiny_network):
    return deepcopy(tiny_network)


@pytest.fixture
def drawing(tiny_schema):
    return ImageGenerator(tiny_schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=3, seed=3)


def plan_of(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def learned(network, value="Yew", embedding=None):
    row = network.class_embedding.embeddings[1].table.weight[2] if embedding is None else embedding
    return LearnedValue("center", value, row.detach().clone(), network.schema.digest, "0" * 64)


def test_plans_without_further_values_change_nothing(network, drawing):
    plan = plan_of(("A", "NA", 2), ("B", "", 1), ("B", None, 1))
    before = network.class_embedding
    generator, spelled = extend_model(network, drawing, plan, [learned(network)])
    assert generator is drawing and spelled is plan and network.class_embedding is before


def test_equal_mixtures_are_one_combination_and_nulls_and_empty_cells_stay(network, drawing):
    plan = plan_of(("A", "North:7+NA:3", 1), ("A", "", 4), ("A", "NA:30+North:70", 2), ("A", None, 5))
    generator, spelled = extend_model(network, drawing, plan)
    assert spelled["count"].tolist() == [3, 4, 5]
    assert spelled["center"].tolist()[:2] == ["NA:30+North:70", ""] and spelled["center"].isna().tolist()[2]
    codes = generator.schema.encode(spelled.astype(object).where(spelled.notna(), None))
    assert codes[:, 1].tolist() == [3, -1, -2]


def test_the_code_of_a_mixture_reaches_the_network_as_the_combination_of_its_values(network, drawing):
    generator, spelled = extend_model(network, drawing, plan_of(("A", "NA:25+South:75", 1)))
    noise, steps = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1)
    mixed = network(noise, steps, generator.schema.encode(spelled))
    table = network.class_embedding.embeddings[1].table
    with torch.no_grad():
        table.weight[2] = 0.25 * table.weight[2] + 0.75 * table.weight[4]
    value = network(noise, steps, drawing.schema.encode(spelled.assign(center="NA")))
    torch.testing.assert_close(mixed, value, rtol=0, atol=1e-5)


def test_images_of_known_values_are_the_same_before_and_after_a_network_is_extended(network, drawing):
    rows = expand_plan(plan_of(("A", "South", 2)))
    before = drawing.draw(network, rows)
    generator, _ = extend_model(network, drawing, plan_of(("A", "NA:25+South:75", 1)), [learned(network)])
    assert np.array_equal(before, generator.draw(network, rows)) and np.array_equal(before, drawing.draw(network, rows))
    assert generator.recipe() == drawing.recipe()


def test_a_learned_value_with_the_embedding_of_a_known_one_has_its_prediction(network, drawing):
    plan = plan_of(("B", "Yew", 1), ("B", "Yew:50+NA:50", 1))
    generator, spelled = extend_model(network, drawing, plan, [learned(network), learned(network, "Oak")])
    codes = generator.schema.encode(spelled)
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    known = drawing.schema.encode(plan_of(("B", "NA", 1), ("B", "NA", 1)))
    torch.testing.assert_close(network(noise, torch.zeros(2), codes), network(noise, torch.zeros(2), known))
    assert [value.value for value in generator.schema.added] == ["Yew"]
    assert generator.recipe()["schema"] != drawing.recipe()["schema"]


def test_all_steps_of_a_path_have_the_noise_of_its_start(network, drawing, tiny_schema):
    path = path_of("center=NA..South", 3, tiny_schema)
    plan = along_path(path, tiny_schema, 2)
    assert plan["project_id"].tolist() == [label for label in tiny_schema.label.values for _ in range(3)]
    generator, spelled = extend_model(network, drawing, plan, path=path)
    rows = expand_plan(spelled)
    noise = generator.noise(rows)
    start = drawing.noise(rows[rows["center"] == "NA"])
    for value in path.values:
        assert torch.equal(noise[np.flatnonzero(rows["center"] == value)], start)
    assert generator.recipe() != drawing.recipe()


def test_a_path_along_the_label_needs_no_label_and_one_with_a_table_takes_its_rows(tiny_schema, tmp_path):
    path = path_of("project_id=A..B", 3, tiny_schema)
    assert along_path(path, tiny_schema, 2)["count"].tolist() == [2, 2, 2]
    pd.DataFrame({"center": ["NA", "South"], "count": [1, 5]}).to_csv(tmp_path / "plan.csv", index=False)
    plan = along_path(path, tiny_schema, 2, str(tmp_path / "plan.csv"))
    assert plan[["center", "count"]].values.tolist() == [["NA", 1]] * 3 + [["South", 5]] * 3
    with pytest.raises(InputError, match="leave the column out"):
        along_path(path_of("center=NA..South", 3, tiny_schema), tiny_schema, 2, str(tmp_path / "plan.csv"))
    with pytest.raises(InputError, match="plan of its own"):
        along_path(path, tiny_schema, 2, "all")
    assert len(along_path(path, tiny_schema, 2, "all", given=())) == 3


def test_the_picture_of_a_path_has_its_steps_in_order(tiny_schema):
    path = path_of("center=South..NA", 3, tiny_schema)
    manifest = pd.DataFrame({"project_id": ["A"] * 3, "center": path.values})
    shades = [np.full((96, 96, 3), shade, np.uint8) for shade in (10, 120, 200)]
    grid = path_grid(path, manifest, shades)
    row = grid[-50].tolist()
    assert [row.index([shade] * 3) for shade in (10, 120, 200)] == sorted(row.index([s] * 3) for s in (10, 120, 200))


def test_a_model_of_captions_is_left_alone(network, drawing):
    drawing.schema = object()
    plan = plan_of(("A", "NA:1+South:1", 1))
    assert extend_model(network, drawing, plan)[1] is plan


def test_patches_of_a_learned_value_that_is_used_count_as_trained_on(network, drawing):
    record = {"cohort": "c", "columns": ["project_id", "center"], "combinations": [[["A", "NA"], 3], [["B", "NA"], 1]]}
    own = {"cohort": "d", "columns": ["project_id", "center"], "combinations": [[["A", "Yew"], 40]]}
    values = [replace(learned(network), origin={"trained_on": own})]
    config = {"seed": 0, "trained_on": record}
    plain, _ = extend_model(network, drawing, plan_of(("A", "NA", 1)), values)
    assert with_learned(config, plain.schema, values) == config
    used, _ = extend_model(network, drawing, plan_of(("B", "Yew", 1)), values)
    combinations = with_learned(config, used.schema, values)["trained_on"]["combinations"]
    assert combinations == [[["A", "NA"], 3], [["A", "Yew"], 40], [["B", "NA"], 1]]
    assert with_learned(None, used.schema, values) is None and with_learned({}, used.schema, values) == {}
