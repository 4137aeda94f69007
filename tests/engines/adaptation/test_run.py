from copy import deepcopy

import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.cohort.demo import demo_schema
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.adaptation.learning import learn_embedding
from medi_monai.engines.adaptation.patches import new_value_patches
from medi_monai.engines.adaptation.run import adapt_run
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.prepare_batch import AutocastInferer
from medi_monai.engines.settings import AdaptationSettings
from medi_monai.networks.learned_values import load_values
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, read_json, save_tensors

CONFIG = {"image_size": 16, "mpp": 1.0, "augment": True}
INFERER = AutocastInferer()


@pytest.fixture
def network(tiny_network):
    return deepcopy(tiny_network)


def drawing(schema, seed=0):
    return ImageGenerator(schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=2, seed=seed)


@pytest.fixture
def table(tiny_cohort, tmp_path):
    """Patches of one center of the cohort, as if they were those of another one."""
    rows = tiny_cohort.split("train").table
    rows = rows[rows["center"] == "South"].drop(columns=["center", "split"])
    rows["image"] = [str(tiny_cohort.root / name) for name in rows["image"]]
    rows.to_csv(tmp_path / "patches.csv", index=False)
    return tmp_path / "patches.csv"


def settings(table, **more):
    return AdaptationSettings(**{"value": "Yew", "patches": str(table), "max_steps": 12, **more})


def learned(network, schema, table, seed=0, **more):
    value, patches = new_value_patches(settings(table), schema, CONFIG)
    column = schema.attributes[0]
    given = settings(table, **more)
    return learn_embedding(network, schema, column, value, patches, drawing(schema, seed), INFERER, given, CONFIG)


def test_an_embedding_is_learned_and_no_weight_changes(network, tiny_schema, table):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    embedded = learned(network, tiny_schema, table)
    assert embedded.loss < min(*embedded.known_losses.values(), embedded.mean_loss)
    assert embedded.nearest == min(embedded.known_losses, key=embedded.known_losses.get)
    assert set(embedded.known_losses) == set(tiny_schema.attributes[0].values)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()) and len(after) == len(before)


def test_the_same_seed_learns_the_same_and_more_steps_fit_better(network, tiny_schema, table):
    first = learned(network, tiny_schema, table)
    assert torch.equal(first.embedding, learned(network, tiny_schema, table).embedding)
    assert not torch.equal(first.embedding, learned(network, tiny_schema, table, seed=1).embedding)
    assert learned(network, tiny_schema, table, max_steps=60).loss < first.loss


def test_the_best_known_embedding_is_the_start_and_each_of_its_numbers_and_of_the_offset_is_learned(
    network, tiny_schema, table
):
    embedded = learned(network, tiny_schema, table, max_steps=1, learning_rate=1e-3)
    known = network.class_embedding.embeddings[1].table.weight[2:]
    starts = [*known, known.mean(0)]
    losses = [*(embedded.known_losses[name] for name in tiny_schema.attributes[0].values), embedded.mean_loss]
    start = torch.nn.functional.pad(starts[losses.index(min(losses))], (0, network.class_embedding.embed_dim))
    # the first step of Adam is the learning rate, whatever the size of the gradient
    torch.testing.assert_close((embedded.embedding - start).abs(), torch.full_like(start, 1e-3), rtol=0.05, atol=0)


def test_a_run_writes_the_value_beside_the_model_with_picture_plan_and_summary(
    network, tiny_schema, tiny_cohort, table, tmp_path
):
    folder, output = tmp_path / "models", tmp_path / "output"
    save_tensors(folder / "model.pt", network.state_dict())
    weights = file_digest(folder / "model.pt")
    path = adapt_run(network, drawing(tiny_schema), tiny_schema, settings(table), CONFIG, INFERER, folder, output, 3)
    (value,) = load_values(folder, tiny_schema)
    assert (value.column, value.value, value.weights) == ("center", "Yew", weights)
    assert value.origin["trained_on"]["combinations"] == [[["B", "Yew"], 5], [["C", "Yew"], 5]]
    assert file_digest(folder / "model.pt") == weights and path.parent == folder / "values"
    plan = pd.read_csv(output / "plan.csv")
    assert plan.values.tolist() == [[label, "Yew", 3] for label in "ABC"]
    with Image.open(output / "value.png") as picture:
        assert picture.size[0] > 3 * 4 * 64
    summary = read_json(output / "summary.json")
    assert summary["made"]["patches"] == 10 and summary["figures"]["loss"] < summary["figures"]["loss_of_nearest"]
    adapt_run(network, drawing(tiny_schema), tiny_schema, settings(table), CONFIG, INFERER, folder, output, 3)
    assert (folder / "earlier-1" / path.name).is_file() and path.is_file()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"value": "South"}, "knows this value of 'center' already"),
        ({"value": " "}, "Give a name that is new"),
        ({"value": None}, "no name: give it with --value"),
        ({"value": "NA:1+South:2"}, "reads like a mixture"),
        ({"attribute": "centre"}, "did you mean 'center'"),
        ({"attribute": "project_id"}, "another class, or a number, cannot"),
        ({"patches": "nowhere.csv"}, "no table of patches at nowhere.csv"),
    ],
)
def test_what_cannot_be_learned_is_refused(tiny_schema, table, given, message):
    with pytest.raises(InputError, match=message):
        new_value_patches(settings(table, **given), tiny_schema, CONFIG)


def test_rows_of_the_value_and_of_the_split_for_training_are_used(tiny_schema, tiny_cohort, tmp_path):
    table = tiny_cohort.table.assign(center=tiny_cohort.table["center"].replace("South", "Yew"))
    table.to_csv(tmp_path / "cohort.csv", index=False)
    value, patches = new_value_patches(settings(tmp_path), tiny_schema, CONFIG)
    expected = table[(table["center"] == "Yew") & (table["split"] == "train")]
    assert value == "Yew" and patches.table["image"].tolist() == expected["image"].tolist()
    with pytest.raises(InputError, match="'Oak'"):
        new_value_patches(settings(tmp_path, value="Oak"), tiny_schema, CONFIG)
    table.assign(split="holdout").to_csv(tmp_path / "cohort.csv", index=False)
    with pytest.raises(InputError, match="left for evaluation"):
        new_value_patches(settings(tmp_path), tiny_schema, CONFIG)


def test_at_most_so_many_patches_are_drawn_and_another_resolution_is_refused(tiny_schema, table, capsys):
    patches = [new_value_patches(settings(table, max_patches=4), tiny_schema, CONFIG)[1] for _ in range(2)]
    assert len(patches[0]) == 4 and patches[0].table.equals(patches[1].table)
    assert "4 of 10 patches are used" in capsys.readouterr().out
    with pytest.raises(InputError, match="1 microns per pixel, and the model was trained at 0.5"):
        new_value_patches(settings(table), tiny_schema, {**CONFIG, "mpp": 0.5})


def test_patches_of_an_unknown_class_or_another_size_are_refused(network, tiny_schema, table):
    rows = pd.read_csv(table, dtype=str)
    rows.assign(project_id="Z").to_csv(table, index=False)
    with pytest.raises(InputError, match="unknown value of 'project_id' 'Z'"):
        learned(network, tiny_schema, table)
    rows.to_csv(table, index=False)
    Image.new("RGB", (8, 8)).save(table.with_name("small.png"))
    rows.assign(image="small.png").to_csv(table, index=False)
    with pytest.raises(InputError, match="8 x 8 pixels"):
        learned(network, tiny_schema, table)


def test_the_patches_of_the_demo_are_those_of_a_further_center(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path))
    demo = AdaptationSettings()
    value, patches = new_value_patches(demo, demo_schema(), {"image_size": 32, "mpp": 1.0})
    assert value == "Yew" and len(patches) == 40
    assert patches.table["project_id"].value_counts().tolist() == [10] * 4
