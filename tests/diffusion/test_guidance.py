import pytest
import torch
from torch import nn

from medi_monai.diffusion import guided
from medi_monai.utils.errors import InputError


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Conv2d(3, 3, 3, padding=1)
        self.embed = nn.Linear(3, 3)
        self.rows = 0

    def forward(self, noisy, timesteps, conditions):
        self.rows += len(noisy)
        hidden = self.embed(torch.cat([timesteps[:, None] / 1000, conditions], dim=1))[:, :, None, None]
        return torch.tanh(self.image(noisy) + hidden)


@pytest.fixture
def network():
    return Small().eval()


@pytest.fixture
def noisy():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


TIMESTEPS = torch.tensor([999.0, 500.0, 20.0, 0.0])
CONDITIONS = torch.tensor([[0.0, 3.0], [1.0, 2.0], [2.0, -1.0], [0.0, 0.0]])
NULLS = torch.full((4, 2), -2.0)


@torch.no_grad()
def test_scale_one_is_the_conditional_network_bit_for_bit_at_half_the_work(network, noisy):
    expected = network(noisy, TIMESTEPS, CONDITIONS)
    network.rows = 0
    assert torch.equal(guided(network, CONDITIONS, NULLS, 1.0)(noisy, TIMESTEPS), expected)
    assert network.rows == 4


@torch.no_grad()
def test_scale_zero_ignores_the_conditions(network, noisy):
    guidance = guided(network, CONDITIONS, NULLS, 0.0)(noisy, TIMESTEPS)
    assert torch.equal(guidance, network(noisy, TIMESTEPS, NULLS))
    assert torch.equal(guidance, guided(network, CONDITIONS.flip(0), NULLS, 0.0)(noisy, TIMESTEPS))


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.3, 1.5, 7.0])
def test_any_scale_is_the_formula_of_ho_and_salimans(network, noisy, scale):
    # (1 + w) conditional - w unconditional, with w = scale - 1
    conditional, unconditional = network(noisy, TIMESTEPS, CONDITIONS), network(noisy, TIMESTEPS, NULLS)
    expected = scale * conditional - (scale - 1) * unconditional
    torch.testing.assert_close(guided(network, CONDITIONS, NULLS, scale)(noisy, TIMESTEPS), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_image_is_guided_alike_alone_and_in_a_batch(network, noisy, scale):
    batch = guided(network, CONDITIONS, NULLS, scale)(noisy, TIMESTEPS)
    for n in range(4):
        alone = guided(network, CONDITIONS[[n]], NULLS[[n]], scale)(noisy[[n]], TIMESTEPS[[n]])
        torch.testing.assert_close(batch[[n]], alone)


def test_a_negative_scale_is_refused(network):
    with pytest.raises(InputError, match="guidance_scale = -0.5"):
        guided(network, CONDITIONS, NULLS, -0.5)
