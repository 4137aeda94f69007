import copy

import pytest
import torch
from torch import nn

from medi_monai.networks.optimizers import MuonAdamW
from medi_monai.utils.errors import InputError

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")


class Net(nn.Module):
    """A network with an edge, a convolution, a matrix and vectors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_in = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, images):
        return self.head(self.norm(self.inner(self.conv_in(images))).mean((2, 3)))


def trained(network, optimizer, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        network(torch.randn(8, 1, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()
    return network


def test_matrices_are_those_of_muon_and_all_else_is_adamws():
    network = Net()
    trained(network, MuonAdamW(network, 0.01, 0.1, precision="bfloat16"), 4)
    oracle = Net()
    flat = [
        nn.Parameter(parameter.detach().flatten(1).clone()) for parameter in (oracle.inner.weight, oracle.head.weight)
    ]
    others = [parameter for name, parameter in oracle.named_parameters() if name not in ("inner.weight", "head.weight")]
    muon = torch.optim.Muon(flat, 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, 0.01, weight_decay=0.1)
    for step in range(4):
        with torch.no_grad():
            oracle.inner.weight.copy_(flat[0].view_as(oracle.inner.weight))
            oracle.head.weight.copy_(flat[1])
        oracle.zero_grad()
        images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(step))
        oracle(images).square().mean().backward()
        flat[0].grad, flat[1].grad = oracle.inner.weight.grad.flatten(1), oracle.head.weight.grad
        muon.step()
        adamw.step()
    torch.testing.assert_close(network.inner.weight.flatten(1), flat[0])
    torch.testing.assert_close(network.head.weight, flat[1])
    for name, parameter in network.named_parameters():
        if name not in ("inner.weight", "head.weight"):
            torch.testing.assert_close(parameter, oracle.get_parameter(name))


def test_the_update_of_a_matrix_has_singular_values_that_are_alike():
    network = Net()
    before = network.head.weight.detach().clone()
    trained(network, MuonAdamW(network, 0.01), 1)
    change = torch.linalg.svdvals(network.head.weight.detach() - before)
    gradient = torch.linalg.svdvals(network.head.weight.grad)
    # Newton and Schulz's iteration brings all but those near 0 to 0.5 to 1.5, by the rate that matches AdamW's
    scaled, large = change / (0.01 * 0.2 * 6**0.5), gradient > 1e-3 * gradient[0]
    assert large.sum() >= 3 and scaled[large].min() > 0.5 and scaled.max() < 1.5
    assert change[0] / change[large].min() < 0.5 * gradient[0] / gradient[large].min()


def test_going_on_from_a_state_is_as_if_never_interrupted(tmp_path):
    whole = Net()
    trained(whole, MuonAdamW(whole, 0.01), 6)
    first = Net()
    optimizer = MuonAdamW(first, 0.01)
    trained(first, optimizer, 3)
    torch.save({"network": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = Net()
    again = MuonAdamW(second, 0.5)
    second.load_state_dict(state["network"])
    again.load_state_dict(state["optimizer"])
    trained(second, again, 3, first=3)
    assert all(torch.equal(parameter, other) for parameter, other in zip(whole.parameters(), second.parameters()))


def test_a_schedule_sets_the_rate_of_both():
    network, other = Net(), Net()
    optimizer = MuonAdamW(network, 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    trained(network, optimizer, 2)
    schedule.step()
    assert all(torch.equal(parameter, start) for parameter, start in zip(network.parameters(), other.parameters()))


def test_frozen_parameters_stay():
    network = Net()
    network.inner.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    trained(network, MuonAdamW(network, 0.01), 1)
    assert torch.equal(network.inner.weight, before["inner.weight"])
    assert not torch.equal(network.head.weight, before["head.weight"])
    assert not torch.equal(network.conv_in.weight, before["conv_in.weight"])


def test_a_network_without_matrices_is_refused():
    with pytest.raises(InputError, match="no hidden weight matrices"):
        MuonAdamW(nn.ModuleDict({"conv_in": nn.Conv2d(1, 1, 3)}))
