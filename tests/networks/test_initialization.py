import json
from copy import deepcopy

import pytest
import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import DiffusionModelUNet

from medi_monai.engines.handlers import WeightAverage
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.networks.initialization import initialize_network, load_initial_weights, origin_of
from medi_monai.schema import CategoricalColumn, ContinuousColumn, MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import save_tensors

LABEL = CategoricalColumn("label", ("A", "B", "C"))
AGE = ContinuousColumn("age", 20, 80)
SCHEMA = MetadataSchema(LABEL, (CategoricalColumn("center", ("Ash", "Birch")),))
OTHER = MetadataSchema(CategoricalColumn("label", ("B", "C", "D")), (CategoricalColumn("center", ("Ash", "Elm")),))
SIZES = {
    "spatial_dims": 2, "in_channels": 3, "out_channels": 3, "channels": (32, 64), "attention_levels": (False, True),
    "num_res_blocks": 2, "num_head_channels": 8, "norm_num_groups": 32,
}  # fmt: skip
IMAGE = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([0, 7, 999])


def randomized(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return network.eval()


def unet(schema=SCHEMA, seed=1, mode="concat", **more):
    return randomized(MetadataDiffusionUNet(schema, mode, **{**SIZES, "use_combined_linear": True, **more}), seed)


def saved(network, folder, schema=SCHEMA, mode="concat"):
    save_tensors(folder / "model.pt", network.state_dict())
    schema.save(folder / "schema.json")
    record = {"num_head_channels": 8, "norm_num_groups": 32, "conditioning": mode}
    (folder / "model.json").write_text(json.dumps(record))
    return folder / "model.pt"


def close(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["concat", "additive", "linear"])
def test_values_of_both_schemas_give_the_same_outputs_and_new_ones_have_fresh_embeddings(tmp_path, mode, capsys):
    trained, fresh = unet(mode=mode), unet(OTHER, 2, mode)
    before = deepcopy(fresh.state_dict())
    report = load_initial_weights(fresh, saved(trained, tmp_path, mode=mode))
    rows = {"label": ["B", "C", None], "center": ["Ash", "", None]}
    with torch.no_grad():
        expected = trained(IMAGE, TIMESTEPS, SCHEMA.encode(rows))
        close(fresh(IMAGE, TIMESTEPS, OTHER.encode(rows)), expected)
    for column, row in ((0, 4), (1, 3)):
        name = f"class_embedding.embeddings.{column}.table.weight"
        assert torch.equal(fresh.state_dict()[name][row], before[name][row])
    assert report["layout"] == "medi_monai" and report["fresh"] == {"label": ["D"], "center": ["Elm"]}
    assert report["carried"] == {"label": ["B", "C"], "center": ["Ash"]}
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "center: 1 of 2 values carried over" in out and "fresh embeddings of center" in out


def test_a_checkpoint_of_a_training_gives_its_averaged_weights(tmp_path):
    trained, fresh = unet(), unet(seed=2)
    saved(unet(seed=3), tmp_path)
    content = {"network": unet(seed=4).state_dict(), "average": WeightAverage(trained, 0.1).state_dict(), "step": 5}
    save_tensors(tmp_path / "checkpoint_00000005.pt", content)
    load_initial_weights(fresh, tmp_path / "checkpoint_00000005.pt")
    with torch.no_grad():
        close(fresh(IMAGE, TIMESTEPS), trained(IMAGE, TIMESTEPS))


def test_a_further_attribute_leaves_what_moves_in_z_fresh_and_a_number_is_kept_within_the_same_range(tmp_path):
    aged = MetadataSchema(LABEL, (*SCHEMA.attributes, AGE))
    report = load_initial_weights(unet(aged, 2), saved(unet(), tmp_path))
    assert report["carried"] == {} and set(report["fresh"]) == {"label", "center", "age"}
    report = load_initial_weights(unet(aged, 2, "additive"), saved(unet(mode="additive"), tmp_path, mode="additive"))
    assert set(report["carried"]) == {"label", "center"} and report["fresh"] == {"age": ["all"]}
    trained = unet(aged)
    saved(trained, tmp_path, aged)
    wider = MetadataSchema(LABEL, (*SCHEMA.attributes, ContinuousColumn("age", 20, 90)))
    assert load_initial_weights(unet(wider, 2), tmp_path / "model.pt")["fresh"] == {"age": ["all"]}
    fresh = unet(aged, 2)
    assert load_initial_weights(fresh, tmp_path / "model.pt")["fresh"] == {}
    rows = {"label": ["A", "B", "C"], "center": ["Ash", "", "Birch"], "age": [20, 45, ""]}
    with torch.no_grad():
        close(fresh(IMAGE, TIMESTEPS, aged.encode(rows)), trained(IMAGE, TIMESTEPS, aged.encode(rows)))


@pytest.mark.parametrize("classes", [None, 4])
@pytest.mark.parametrize("combined", [False, True])
def test_monais_network_gives_the_same_outputs_but_for_its_classes(tmp_path, classes, combined):
    theirs = randomized(DiffusionModelUNet(**SIZES, num_class_embeds=classes, use_combined_linear=not combined))
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, tmp_path / "m.pt"
    )
    own = unet(seed=2, use_combined_linear=combined)
    report = load_initial_weights(own, tmp_path / "m.pt")
    assert report["layout"] == "monai" and report["carried"] == {}
    labels = None if classes is None else torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        _with_condition(own, 0 if labels is None else theirs.class_embedding.weight[0])
        close(own(IMAGE, TIMESTEPS), theirs(IMAGE, TIMESTEPS, class_labels=labels))


def _with_condition(network, vector):
    """Let a network receive one vector as its condition."""

    class Constant(torch.nn.Module):
        def forward(self, codes):
            return torch.zeros(len(codes), 128) + vector

    network.class_embedding = Constant()


@pytest.mark.parametrize("fc", [False, True])
def test_the_projection_that_monai_generative_never_applies_becomes_the_identity(tmp_path, fc):
    theirs = randomized(DiffusionModelUNet(**SIZES))
    state = {
        name.replace(".upsampler.postconv.", ".upsampler.conv.")
        .replace(".attn.out_proj.", ".proj_attn.")
        .replace(".attn.to_", ".to_"): value
        for name, value in theirs.state_dict().items()
    }
    torch.save(state, tmp_path / "model.pt")
    # its attention block ends with the heads joined (generative 0.2.3, AttentionBlock.forward)
    for module in theirs.modules():
        if isinstance(module, SABlock):
            module.include_fc = False
    own = unet(seed=2, include_fc=fc)
    report = load_initial_weights(own, tmp_path / "model.pt")
    assert report["layout"] == "monai-generative"
    with torch.no_grad():
        _with_condition(own, 0)
        close(own(IMAGE, TIMESTEPS), theirs(IMAGE, TIMESTEPS))


def published(mode, attention=False):
    """A network of diffusers in the layout of the published models, and its embeddings of class and center."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    down = ("DownBlock2D", "AttnDownBlock2D" if attention else "DownBlock2D")
    up = ("AttnUpBlock2D" if attention else "UpBlock2D", "UpBlock2D")
    theirs = UNet2DModel(
        sample_size=16, block_out_channels=(32, 64), down_block_types=down, up_block_types=up, norm_num_groups=32
    )
    theirs = randomized(theirs)
    width = 64 if mode == "concat" else 128
    embeddings = torch.nn.ModuleDict({"class": torch.nn.Embedding(3, width), "center": torch.nn.Embedding(3, width)})
    state = dict(theirs.state_dict())
    state["class_embedding.weight"] = embeddings["class"].weight.detach()
    state["domain_embeddings.center.weight"] = embeddings["center"].weight.detach()
    if mode == "linear":
        embeddings["linear"] = torch.nn.Linear(256, 128)
        state.update({f"linear_comb.{name}": value.detach() for name, value in embeddings["linear"].named_parameters()})
    return theirs, embeddings, state


@pytest.mark.parametrize("mode", ["concat", "additive", "linear"])
@pytest.mark.parametrize("attention", [False, True])
def test_published_models_of_diffusers_give_the_same_outputs_for_values_that_both_know(tmp_path, mode, attention):
    theirs, embeddings, state = published(mode, attention)
    torch.save(state, tmp_path / "model_final.pth")
    (tmp_path / "config.json").write_text(json.dumps(dict(theirs.config)))
    (tmp_path / "cancer_type_mapping.json").write_text(json.dumps({"C": 0, "B": 1, "X": 2}))
    (tmp_path / "domain_value_mapping.json").write_text(json.dumps({"center": {"Birch": 0, "Unknown": 1, "Y": 2}}))
    own = unet(seed=2, mode=mode, attention_levels=(False, attention), norm_eps=1e-5)
    report = load_initial_weights(own, tmp_path / "model_final.pth")
    assert report["layout"] == "diffusers" and report["carried"] == {"label": ["B", "C"], "center": ["Birch"]}
    assert report["fresh"] == {"label": ["A"], "center": ["Ash"]}
    label, center = embeddings["class"](torch.tensor([0, 1, 1])), embeddings["center"](torch.tensor([0, 0, 1]))
    both = torch.cat([label, center], 1)
    condition = {"concat": both, "additive": label + center, "linear": both}[mode]
    condition = embeddings["linear"](condition) if mode == "linear" else condition
    theirs.class_embedding = torch.nn.Identity()
    with torch.no_grad():
        expected = theirs(IMAGE, TIMESTEPS, class_labels=condition).sample
        rows = {"label": ["C", "B", "B"], "center": ["Birch", "Birch", ""]}
        close(own(IMAGE, TIMESTEPS, SCHEMA.encode(rows)), expected)


def test_a_saved_folder_of_diffusers_is_read_and_settings_that_shapes_do_not_show_are_compared(tmp_path, capsys):
    theirs, _, _ = published("concat")
    plain = {"attention_levels": (False, False)}
    theirs.save_pretrained(tmp_path)
    load_initial_weights(unet(seed=2, **plain), tmp_path)
    assert "not checked: norm_eps 1e-05 (here 1e-06" in capsys.readouterr().out
    with pytest.raises(InputError, match="num_head_channels = 16: the weights .* need 8"):
        load_initial_weights(unet(**plain, num_head_channels=16), tmp_path)
    with pytest.raises(InputError, match="norm_num_groups = 16: the weights .* need 32"):
        load_initial_weights(unet(**plain, norm_num_groups=16), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "freq_shift": 1}))
    with pytest.raises(InputError, match="freq_shift = 1"):
        load_initial_weights(unet(**plain), tmp_path)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"channels": (32, 96)}, "have another shape"),
        ({"num_res_blocks": 1}, "do not belong to it"),
        ({"channels": (32, 64, 64), "attention_levels": (False, True, True)}, "are missing"),
        ({"num_head_channels": 16}, "num_head_channels = 16: the model in .* was trained with 8"),
        ({"mode": "linear"}, "conditioning = 'linear'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(tmp_path, sizes, message):
    path, own = saved(unet(), tmp_path), unet(**sizes)
    before = deepcopy(own.state_dict())
    with pytest.raises(InputError, match=message):
        load_initial_weights(own, path)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_schema_that_is_missing_or_of_another_model_and_damaged_weights_are_refused(tmp_path):
    path = saved(unet(), tmp_path, OTHER)
    with pytest.raises(InputError, match="belongs to another model"):
        load_initial_weights(unet(), path)
    (tmp_path / "schema.json").unlink()
    with pytest.raises(InputError, match="no schema.json beside"):
        load_initial_weights(unet(), path)
    broken = unet()
    broken.conv_in.conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="conv_in.conv.weight are not finite"):
        load_initial_weights(unet(), saved(broken, tmp_path))


def test_a_network_knows_what_it_was_initialized_from(tmp_path):
    assert origin_of(initialize_network(unet(), None)) == {}
    network = initialize_network(unet(seed=2), saved(unet(), tmp_path))
    assert origin_of(network)["initialized"]["path"] == str(tmp_path / "model.pt")
