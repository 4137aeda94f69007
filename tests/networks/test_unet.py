import inspect

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from torch import nn
from torch.nn.functional import silu

from medi_monai.networks import MetadataConditioner, MetadataDiffusionUNet
from medi_monai.schema import NULL, UNKNOWN, CategoricalColumn, ContinuousColumn, MetadataSchema
from medi_monai.utils.errors import InputError

LABEL = CategoricalColumn("label", ("LUAD", "LUSC"))
SCHEMA = MetadataSchema(LABEL, (CategoricalColumn("center", ("Aspen", "Birch")), ContinuousColumn("age", 20.0, 90.0)))
SIZES = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "channels": (8, 16),
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "num_head_channels": 8,
    "norm_num_groups": 4,
    "resblock_updown": True,
}
CODES = torch.tensor([[0, 1, 0.25], [1, NULL, UNKNOWN]])
TIMESTEPS = torch.tensor([3, 700])


def randomized(network):
    # MONAI starts the last layer of every block at zero, where no condition could be heard
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def make(schema=SCHEMA, **changes):
    return randomized(MetadataDiffusionUNet(schema, **{**SIZES, **changes}))


@pytest.fixture
def image():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def embeddings_heard(network, image, timesteps, codes):
    """The input of every residual block's time projection, in the order of the blocks."""
    heard = []
    blocks = [module for module in network.modules() if isinstance(module, DiffusionUNetResnetBlock)]
    hooks = [block.time_emb_proj.register_forward_pre_hook(lambda _, args: heard.append(args[0])) for block in blocks]
    with torch.no_grad():
        network(image, timesteps, codes)
    for hook in hooks:
        hook.remove()
    assert len(heard) == len(blocks) >= 8
    return heard


@pytest.mark.parametrize("mode", ["concat", "additive", "linear"])
def test_every_residual_block_hears_the_sum_of_time_and_conditions(image, mode):
    network = make(conditioning=mode)
    with torch.no_grad():
        z_t = network.time_embed(get_timestep_embedding(TIMESTEPS, SIZES["channels"][0]))
        z_cond = network.class_embedding(CODES)
    for heard in embeddings_heard(network, image, TIMESTEPS, CODES):
        torch.testing.assert_close(heard, silu(z_t + z_cond))


@pytest.mark.parametrize("column", range(3))
def test_a_change_of_any_one_condition_reaches_every_residual_block(image, column):
    network = make()
    codes = torch.tensor([[0, 0, 0.2], [0, 0, 0.2]])
    other = codes.clone()
    other[1, column] = 0.8 if column == 2 else 1
    before = embeddings_heard(network, image, TIMESTEPS, codes)
    after = embeddings_heard(network, image, TIMESTEPS, other)
    for old, new in zip(before, after):
        assert torch.equal(old[0], new[0])
        assert (old[1] - new[1]).abs().max() > 1e-3


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


def test_the_network_equals_monais_with_the_same_weights(image):
    ours = make()
    theirs = DiffusionModelUNet(**SIZES, num_class_embeds=1).eval()
    with torch.no_grad():
        theirs.class_embedding = Constant(ours.class_embedding(CODES))
        weights = {name: value for name, value in ours.state_dict().items() if not name.startswith("class_embedding")}
        theirs.load_state_dict(weights)
        prediction = ours(image, TIMESTEPS, CODES)
        assert torch.equal(prediction, theirs(image, TIMESTEPS, class_labels=torch.zeros(2, dtype=torch.long)))
    assert prediction.shape == image.shape and prediction.std() > 0.01


def test_left_out_timesteps_are_zero_and_left_out_conditions_null(image):
    network = make()
    with torch.no_grad():
        bare = network(image)
        assert torch.equal(bare, network(image, torch.zeros(2), torch.full((2, 3), float(NULL))))
        assert not torch.allclose(bare, network(image, TIMESTEPS))
        assert not torch.allclose(bare, network(image, None, CODES))


def test_an_image_is_predicted_alike_alone_and_in_a_batch(image):
    network = make()
    with torch.no_grad():
        batch = network(image, TIMESTEPS, CODES)
        alone = torch.cat([network(image[[n]], TIMESTEPS[[n]], CODES[[n]]) for n in range(2)])
    torch.testing.assert_close(batch, alone, rtol=1e-4, atol=1e-5)


def test_the_class_only_network_hears_the_class(image):
    network = make(MetadataSchema(LABEL))
    same = image[:1].expand(2, -1, -1, -1)
    with torch.no_grad():
        first, second = network(same, torch.tensor([5, 5]), torch.tensor([[0.0], [1.0]]))
    assert (first - second).abs().max() > 1e-3
    assert network.class_embedding.embeddings[0].table.weight.shape == (2 + 2, 4 * SIZES["channels"][0])


def test_cross_attention_hears_the_context_beside_the_conditions(image):
    network = make(with_conditioning=True, cross_attention_dim=5, resblock_updown=False)
    context, other = torch.randn(2, 2, 7, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not torch.allclose(network(image, TIMESTEPS, CODES, context), network(image, TIMESTEPS, CODES, other))
        assert not torch.allclose(network(image, TIMESTEPS, CODES, context), network(image, TIMESTEPS, None, context))


def test_volumes_hear_the_conditions_too():
    network = make(spatial_dims=3, in_channels=1, out_channels=1)
    volume = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3)).expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        first, second = network(volume, torch.tensor([5, 5]), CODES)
    assert first.shape == (1, 8, 8, 8) and (first - second).abs().max() > 1e-3


def test_weights_of_another_schema_are_refused_before_any_is_copied():
    trained = make().state_dict()
    swapped = MetadataSchema(LABEL, (CategoricalColumn("center", ("Birch", "Aspen")), SCHEMA.attributes[1]))
    network = MetadataDiffusionUNet(swapped, **SIZES)
    with pytest.raises(InputError, match=f"{SCHEMA.digest[:12]}.*{swapped.digest[:12]}"):
        network.load_state_dict(trained)
    center = network.class_embedding.embeddings[1].table.weight
    assert not torch.equal(center, trained["class_embedding.embeddings.1.table.weight"])


def test_weights_survive_a_checkpoint_read_without_pickle(image, tmp_path):
    network = make()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    fresh = MetadataDiffusionUNet(MetadataSchema.from_dict(SCHEMA.to_dict()), **SIZES).eval()
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(fresh(image, TIMESTEPS, CODES), network(image, TIMESTEPS, CODES))


def test_the_network_gives_its_schema_back():
    network = MetadataDiffusionUNet(SCHEMA, **SIZES)
    assert network.schema == SCHEMA
    assert isinstance(network.class_embedding, MetadataConditioner)


def test_an_unknown_mode_of_conditioning_is_refused():
    with pytest.raises(InputError, match="'film'.*'concat'"):
        MetadataDiffusionUNet(SCHEMA, "film", **SIZES)


def test_sides_that_the_levels_cannot_halve_are_refused():
    network = make()
    with pytest.raises(InputError, match="sides divisible by"):
        network(torch.zeros(1, 3, 17, 16))


def test_widths_that_do_not_fit_are_refused_with_monais_reason():
    with pytest.raises(InputError, match="cannot be built.*num_groups"):
        make(channels=(15, 30))


def test_its_arguments_and_defaults_are_monais():
    own, theirs = (
        dict(inspect.signature(network).parameters) for network in (MetadataDiffusionUNet, DiffusionModelUNet)
    )
    shown = {name: parameter.default for name, parameter in own.items() if name not in ("schema", "conditioning")}
    assert shown == {name: parameter.default for name, parameter in theirs.items() if name != "num_class_embeds"}
