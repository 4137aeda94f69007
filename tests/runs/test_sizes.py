import pytest

from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.runs.settings import GROUPS, check_groups
from medi_monai.runs.sizes import unet_parameters
from medi_monai.schema import CategoricalColumn, MetadataSchema
from medi_monai.utils.errors import InputError


@pytest.mark.parametrize(("channels", "blocks"), [([32, 64, 64], [2, 2, 1]), ([16, 32], 3), ([16], 1)])
def test_a_network_has_at_least_the_parameters_of_the_estimate(channels, blocks):
    schema = MetadataSchema(CategoricalColumn("tumor", ("A", "B")), (CategoricalColumn("center", ("x", "y")),))
    network = MetadataDiffusionUNet(
        schema,
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        channels=channels,
        num_res_blocks=blocks,
        attention_levels=[False] * len(channels),
        norm_num_groups=16,
    )
    count = sum(parameter.numel() for parameter in network.parameters())
    assert 0.25 * count < unet_parameters(channels, blocks) < count


@pytest.mark.parametrize(
    ("network", "training", "message"),
    [
        ({"channels": [65536] * 3}, {}, r"at least 1,005,022,347,264 parameters: .* 20\.1 TB of memory"),
        ({"num_res_blocks": 1000, "channels": [8192] * 3}, {}, "num_res_blocks = 1000.*of memory"),
        ({}, {"batch_size": 10**9}, "batch_size = 1,000,000,000 with images of 32 × 32 pixels: .*4.1 TB of memory"),
    ],
)
def test_networks_and_batches_beyond_the_memory_are_refused(network, training, message):
    groups = {
        "cohort": GROUPS["cohort"](),
        "network": GROUPS["network"](**network),
        "training": GROUPS["training"](**training),
    }
    with pytest.raises(InputError, match=message):
        check_groups(groups)


def test_the_defaults_fit():
    check_groups({name: GROUPS[name]() for name in ("cohort", "network", "training")})
    check_groups({name: GROUPS[name]() for name in ("captions", "text_network", "text_training")})
