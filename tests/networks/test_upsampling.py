import numpy as np
import pytest
import torch

from medi_monai.networks.text.unet import TextDiffusionUNet
from medi_monai.networks.unet import MetadataDiffusionUNet
from medi_monai.networks.upsampling import (
    TextUpsamplingUNet,
    UpsamplingUNet,
    WithSmallImages,
    enlarged,
    shrunk,
)
from medi_monai.utils.errors import InputError

NETWORK = {"spatial_dims": 2, "channels": (8, 16), "attention_levels": (False, True), "num_res_blocks": 1}
NETWORK |= {"num_head_channels": 8, "norm_num_groups": 4}


@pytest.fixture
def network(tiny_schema):
    torch.manual_seed(0)
    built = UpsamplingUNet(tiny_schema, in_channels=3, out_channels=3, **NETWORK)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built.eval()


def test_image_small_image_and_level_all_matter(network):
    image, small, level = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([5, 5])
    codes = network.schema.null_codes(2)
    with torch.no_grad():
        output = network(image, torch.tensor([3, 3]), codes, small, level)
        assert output.shape == image.shape
        for other in (
            network(image + 1, torch.tensor([3, 3]), codes, small, level),
            network(image, torch.tensor([3, 3]), codes, small + 1, level),
            network(image, torch.tensor([3, 3]), codes, small, level + 50),
            network(image, torch.tensor([9, 9]), codes, small, level),
        ):
            assert not torch.allclose(output, other)
        assert torch.equal(network(image), network(image, None, None, torch.zeros_like(image), torch.tensor([-1, -1])))
    assert network.time_embed.level is None


def test_rows_are_independent_and_guidance_repeats_the_small_images(network):
    image, small, times = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16), torch.tensor([1, 2, 3])
    codes = network.schema.null_codes(3)
    bound = WithSmallImages(network, small, 7)
    with torch.no_grad():
        once = bound(image, timesteps=times, conditions=codes)
        twice = bound(torch.cat([image] * 2), timesteps=torch.cat([times] * 2), conditions=torch.cat([codes] * 2))
        alone = network(image[1:2], times[1:2], codes[1:2], small[1:2], torch.tensor([7]))
    torch.testing.assert_close(twice, torch.cat([once] * 2))
    torch.testing.assert_close(once[1:2], alone)


def test_both_networks_differ_from_the_first_stage_by_their_input_and_the_level_alone(tiny_schema):
    first = MetadataDiffusionUNet(tiny_schema, in_channels=3, out_channels=3, **NETWORK).state_dict()
    second = UpsamplingUNet(tiny_schema, in_channels=3, out_channels=3, **NETWORK).state_dict()
    renamed = {name.replace("time_embed.embed.", "time_embed."): value for name, value in second.items()}
    assert {name for name in renamed if name not in first} == {
        f"time_embed.project.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    changed = [name for name in first if first[name].shape != renamed[name].shape]
    assert changed == ["conv_in.conv.weight"] and renamed[changed[0]].shape[1] == 6
    assert issubclass(TextUpsamplingUNet, TextDiffusionUNet)
    with pytest.raises(InputError, match="have to be equal"):
        UpsamplingUNet(tiny_schema, in_channels=3, out_channels=1, **NETWORK)


def test_small_images_are_means_in_whole_gray_levels():
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    small = shrunk(images, 4)
    expected = images.numpy().reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    assert np.abs(small.numpy() - expected).max() <= 0.5 / 127.5 + 1e-6
    levels = (small + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert enlarged(small, 8).shape == images.shape
    constant = torch.full((1, 3, 8, 8), 0.2)
    torch.testing.assert_close(enlarged(shrunk(constant, 2), 8), constant, atol=0.5 / 127.5, rtol=0)
    for size in (3, 8):
        with pytest.raises(InputError, match=f"small_size = {size}: it has to divide the 8 pixels"):
            shrunk(images, size)
