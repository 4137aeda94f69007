import pytest
import torch
from torch import nn

from medi_monai.diffusion import Guidance, NoiseSchedule, guided
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


def without(column):
    changed = CONDITIONS.clone()
    changed[:, column] = NULLS[:, column]
    return changed


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("columns", [{0: 2.5}, {0: 0.0, 1: 0.0}, {0: 2.0, 1: 1.5}])
def test_scales_of_columns_add_what_leaving_each_out_changes(network, noisy, scale, columns):
    plain, free = network(noisy, TIMESTEPS, CONDITIONS), network(noisy, TIMESTEPS, NULLS)
    expected = plain + (scale - 1) * (plain - free)
    for column, of_column in columns.items():
        expected = expected + (of_column - 1) * (plain - network(noisy, TIMESTEPS, without(column)))
    network.rows = 0
    result = guided(network, CONDITIONS, NULLS, Guidance(scale, columns))(noisy, TIMESTEPS)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert network.rows == 4 * (1 + (scale != 1) + len(columns))


@torch.no_grad()
def test_scales_of_one_are_the_conditional_network_at_no_cost(network, noisy):
    expected = network(noisy, TIMESTEPS, CONDITIONS)
    network.rows = 0
    guidance = Guidance(1.0, {0: 1.0, 1: 1.0}, (0.1, 2.0), 0.5)
    assert torch.equal(guided(network, CONDITIONS, NULLS, guidance)(noisy, TIMESTEPS), expected)
    assert network.rows == 4


@torch.no_grad()
def test_outside_its_interval_guidance_neither_acts_nor_costs(network, noisy):
    schedule = NoiseSchedule("cosine")
    level = (schedule.sigmas / schedule.alphas)[TIMESTEPS.long()]
    # images 1 and 2 are within
    interval = (level[2].item() * 0.99, level[1].item() * 1.01)
    predict = guided(network, CONDITIONS, NULLS, Guidance(3.0, interval=interval), schedule)
    plain, free = network(noisy, TIMESTEPS, CONDITIONS), network(noisy, TIMESTEPS, NULLS)
    result = predict(noisy, TIMESTEPS)
    torch.testing.assert_close(result[1:3], (free + 3 * (plain - free))[1:3], rtol=0, atol=1e-5)
    assert torch.equal(result[[0, 3]], plain[[0, 3]])
    network.rows = 0
    outside = torch.full((4,), 999.0)
    assert torch.equal(predict(noisy, outside), network(noisy, outside, CONDITIONS))
    assert network.rows == 8


@torch.no_grad()
@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_brings_back_the_standard_deviation(network, noisy, rescale):
    plain = network(noisy, TIMESTEPS, CONDITIONS)
    pushed = guided(network, CONDITIONS, NULLS, 6.0)(noisy, TIMESTEPS)
    result = guided(network, CONDITIONS, NULLS, Guidance(6.0, rescale=rescale))(noisy, TIMESTEPS)
    for image, of_plain, of_pushed in zip(result, plain, pushed):
        # Lin et al. 2023, eq. 15 and 16
        expected = rescale * of_pushed * of_plain.std() / of_pushed.std() + (1 - rescale) * of_pushed
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
    if rescale == 1:
        torch.testing.assert_close(result.std((1, 2, 3)), plain.std((1, 2, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": {1: -2.0}}, "-2.0: it has to be 0 or more"),
        ({"interval": (2.0, 1.0)}, r"\[2.0, 1.0\]: give the lowest"),
        ({"interval": (-1.0, 1.0)}, "both 0 or more"),
        ({"rescale": 1.5}, r"guidance_rescale = 1.5.*\[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Guidance(**settings)


def test_an_interval_without_a_schedule_is_refused(network):
    with pytest.raises(InputError, match="needs the noise schedule"):
        guided(network, CONDITIONS, NULLS, Guidance(2.0, interval=(0.1, 2.0)))
