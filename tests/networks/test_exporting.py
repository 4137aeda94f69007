import io

import pytest
import torch
from torch import nn

from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.schema import CategoricalColumn, ContinuousColumn, MetadataSchema

SIZES = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (8, 16), "num_res_blocks": 1,
         "attention_levels": (False, True), "num_head_channels": 8, "norm_num_groups": 4}  # fmt: skip
SCHEMA = MetadataSchema(
    CategoricalColumn("label", ("LUAD", "LUSC")),
    (CategoricalColumn("center", ("Aspen", "Birch", "Cedar")), ContinuousColumn("age", 20.0, 90.0)),
)


def exported(network: nn.Module) -> nn.Module:
    """A network with random weights, as read from a file that ``torch.jit.script`` wrote, and the network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network.eval()), file)
    file.seek(0)
    return torch.jit.load(file)


@torch.no_grad()
def agree(network, scripted, conditions, side):
    image = torch.randn(len(conditions), 1, side, side, generator=torch.Generator().manual_seed(1))
    timesteps = torch.linspace(0, 999, len(conditions))
    ours, theirs = network(image, timesteps, conditions), scripted(image, timesteps, conditions)
    assert not torch.allclose(ours, network(image), atol=1e-3)  # the inputs matter
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(scripted(image), network(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("conditioning", ["concat", "additive", "linear"])
def test_an_exported_network_hears_timesteps_and_metadata(conditioning):
    network = MetadataDiffusionUNet(SCHEMA, conditioning, **SIZES)
    scripted = exported(network)
    agree(network, scripted, torch.tensor([[1, 2, 0.25]]), 8)
    agree(network, scripted, torch.tensor([[0, 0, 0.75], [1, -1, -2], [-2, 1, 1.0]]), 16)
    assert isinstance(network, MetadataDiffusionUNet) and "null" not in dict(network.named_buffers())
