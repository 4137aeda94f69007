import pytest
import torch
from monai.networks.nets import AutoencoderKL
from torch import nn

from medi_monai.networks.spaces import LatentSpace, PixelSpace, latent_scale
from medi_monai.utils.errors import InputError


def images(count=2, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def autoencoder(channels=3):
    network = AutoencoderKL(
        spatial_dims=2,
        in_channels=channels,
        out_channels=channels,
        channels=(4, 8),
        latent_channels=5,
        num_res_blocks=1,
        norm_num_groups=4,
        attention_levels=(False, False),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


class Halves(nn.Module):
    """An autoencoder without a loss: four pixels are four channels."""

    def encode(self, values):
        return nn.functional.pixel_unshuffle(values, 2)

    def decode(self, latents):
        return nn.functional.pixel_shuffle(latents, 2)


def test_three_channels_are_the_pixels_themselves():
    space = PixelSpace(3)
    assert torch.equal(space.encode(images()), images()) and torch.equal(space.decode(images()), images())
    assert space.shape(32) == (3, 32, 32) and space.clip == 1.0


def test_one_channel_is_the_mean_and_comes_back_gray():
    space = PixelSpace(1)
    gray = space.encode(images())
    torch.testing.assert_close(gray[:, 0], (images()[:, 0] + images()[:, 1] + images()[:, 2]) / 3)
    assert torch.equal(space.decode(gray), torch.cat([gray] * 3, 1)) and space.shape(8) == (1, 8, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_the_pixels_of_a_square_side_by_side(channels):
    space = PixelSpace(channels, patch_size=2)
    seen = images() if channels == 3 else images().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    values = space.encode(seen)
    assert values.shape[1:] == space.shape(16) == (4 * channels, 8, 8)
    for row in range(2):
        for column in range(2):
            torch.testing.assert_close(values[:, row * 2 + column :: 4], seen[:, :channels, row::2, column::2])
    torch.testing.assert_close(space.decode(values), seen)
    assert space.describe() != PixelSpace(channels).describe() == PixelSpace(channels, 1).describe()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_latents_are_the_scaled_mean_of_monais_posterior(channels, low):
    network = autoencoder(channels)
    space = LatentSpace(network, scale=0.7, channels=channels, low=low)
    seen = images() if channels == 3 else images().mean(1, keepdim=True)
    seen = seen if low == -1 else (seen + 1) / 2
    with torch.no_grad():
        mean, _ = network.encode(seen)
        torch.testing.assert_close(space.encode(images()), 0.7 * mean)
        expected = network.decode_stage_2_outputs(mean)
        expected = expected if low == -1 else 2 * expected - 1
        decoded = space.decode(space.encode(images()))
    # decoded in batches of their own, which round differently
    torch.testing.assert_close(decoded, expected.clamp(-1, 1).expand(-1, 3, -1, -1), rtol=0, atol=1e-4)
    assert space.shape(16) == tuple(mean.shape[1:]) and space.clip is None


def test_nothing_is_drawn():
    space = LatentSpace(autoencoder())
    assert torch.equal(space.encode(images()), space.encode(images()))


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_a_lossless_autoencoder_gives_the_images_back(low):
    space = LatentSpace(Halves(), scale=3.0, low=low)
    torch.testing.assert_close(space.decode(space.encode(images())), images())
    assert space.shape(16) == (12, 8, 8)


def test_decoding_is_differentiable_and_the_autoencoder_stays_frozen():
    space = LatentSpace(autoencoder().double(), scale=0.5)
    latents = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direction = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    leaf = latents.clone().requires_grad_()
    weights = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (space.decode(leaf) * weights).sum().backward()
    step = 1e-6
    up, down = ((space.decode(latents + sign * step * direction) * weights).sum() for sign in (1, -1))
    torch.testing.assert_close((leaf.grad * direction).sum(), (up - down) / (2 * step), rtol=1e-5, atol=1e-8)
    assert all(value.grad is None for value in space.parameters()) and not space.train().autoencoder.training


def test_the_scale_gives_latents_a_deviation_of_one():
    network = autoencoder()
    for first in (1.0, 5.0):
        scale = latent_scale(LatentSpace(network, scale=first), images(8))
        assert LatentSpace(network, scale=scale).encode(images(8)).std().item() == pytest.approx(1, rel=1e-4)
    with pytest.raises(InputError, match="deviation"):
        latent_scale(LatentSpace(Halves()), torch.zeros(2, 3, 4, 4))


def test_descriptions_tell_spaces_apart():
    network = autoencoder()
    spaces = [PixelSpace(1), PixelSpace(3), LatentSpace(network), LatentSpace(network, scale=2)]
    described = [str(space.describe()) for space in spaces]
    assert len(set(described)) == 4
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert str(LatentSpace(network).describe()) != described[2]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: PixelSpace(2), "channels = 2"),
        (lambda: PixelSpace(1, 0), "patch_size = 0"),
        (lambda: PixelSpace(1, 1.5), "patch_size = 1.5"),
        (lambda: PixelSpace(1, 3).shape(32), "32 pixels a side cannot be cut into patches of 3"),
        (lambda: PixelSpace(1, 4).encode(images(side=18)), "18 pixels"),
        (lambda: PixelSpace(1, 2).decode(torch.zeros(1, 1, 4, 4)), r"\(N, 4, H, W\)"),
        (lambda: LatentSpace(autoencoder(), scale=0.0), "scale = 0.0"),
        (lambda: LatentSpace(autoencoder(), scale=float("nan")), "scale = nan"),
        (lambda: LatentSpace(autoencoder(), low=1.0), "low = 1.0"),
        (lambda: LatentSpace(nn.Linear(2, 2)), "Linear is not an autoencoder"),
        (lambda: LatentSpace(autoencoder()).shape(17), "17"),
        (lambda: LatentSpace(Halves()).shape(17), "cannot take images of 17 pixels"),
        (lambda: PixelSpace(3).encode(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), "uint8"),
        (lambda: PixelSpace(1).encode(torch.zeros(1, 1, 4, 4)), r"\(1, 1, 4, 4\)"),
        (lambda: PixelSpace(1).decode(torch.zeros(1, 3, 4, 4)), r"\(N, 1, H, W\)"),
    ],
)
def test_what_cannot_be_is_refused(make, reason):
    with pytest.raises(InputError, match=reason):
        make()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_the_same_in_every_batch(channels):
    space = LatentSpace(autoencoder(channels), channels=channels)
    values = space.encode(images(5))
    alone = torch.cat([space.decode(value[None]) for value in values])
    assert torch.equal(space.decode(values), alone) and torch.equal(space.decode(values[2:4]), alone[2:4])
    assert torch.equal(space.encode(images(5)[3:]), values[3:])
