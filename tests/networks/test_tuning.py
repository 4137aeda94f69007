import copy

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from medi_monai.networks.tuning import apply_adapter, merge_adapter, save_adapter, tuned_parameters
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import load_tensors, save_tensors


def network_of(cross=True, attention=True, width=8, seed=0):
    torch.manual_seed(seed)
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(4, width),
        attention_levels=(False, attention),
        num_res_blocks=1,
        num_head_channels=4,
        norm_num_groups=4,
        with_conditioning=cross,
        cross_attention_dim=6 if cross else None,
    )
    # layers that start at zero would hide what an adapter does
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def predict(network, cross=True):
    generator = torch.Generator().manual_seed(2)
    images, context = torch.randn(2, 1, 16, 16, generator=generator), torch.randn(2, 5, 6, generator=generator)
    return network(images, torch.tensor([3, 40]), context=context if cross else None)


def update(network, parameters, cross=True):
    optimizer = torch.optim.Adam(parameters, 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        predict(network, cross).square().mean().backward()
        optimizer.step()


def test_all_weights():
    network = network_of()
    parameters = tuned_parameters(network, "all")
    assert len(parameters) == len(list(network.parameters()))
    before = copy.deepcopy(network.state_dict())
    update(network, parameters)
    assert sum(not torch.equal(before[name], value) for name, value in network.state_dict().items()) > 20


def test_the_cross_attention_alone():
    network = network_of()
    before = copy.deepcopy(network.state_dict())
    update(network, tuned_parameters(network, "cross_attention"))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}
    cross = {name for name in before if ".attn2." in name}
    assert changed <= cross and {name.split(".attn2.")[1].split(".")[0] for name in changed} == {
        "to_q",
        "to_k",
        "to_v",
        "out_proj",
    }
    # the input of queries and keys is the text: no other layer of the network hears it
    assert cross and not any("attn1" in name for name in cross)


@pytest.mark.parametrize("cross", [True, False])
def test_an_adapter_applied_to_the_untuned_network_is_the_merged_one(cross, tmp_path):
    pytest.importorskip("peft")
    untuned = network_of(cross)
    network = copy.deepcopy(untuned)
    parameters = tuned_parameters(network, "lora", 2)
    # an adapter is zero at first
    assert torch.allclose(predict(network, cross), predict(untuned, cross), atol=1e-6)
    assert {parameter.requires_grad for parameter in parameters} == {True}
    assert sum(map(torch.numel, parameters)) < 0.3 * sum(map(torch.numel, untuned.parameters()))
    update(network, parameters, cross)
    tuned = predict(network, cross).detach()
    assert (tuned - predict(untuned, cross)).abs().max() > 1e-3
    save_adapter(network, tmp_path / "adapter.pt", 2)
    merge_adapter(network)
    assert network.state_dict().keys() == untuned.state_dict().keys()
    assert torch.allclose(predict(network, cross), tuned, atol=1e-5)
    applied = apply_adapter(copy.deepcopy(untuned), tmp_path / "adapter.pt")
    for name, value in network.state_dict().items():
        assert torch.allclose(applied.state_dict()[name], value, atol=1e-6), name
    # nothing but attention has changed, and by matrices of the rank asked for
    ranks = set()
    for name, value in untuned.state_dict().items():
        difference = network.state_dict()[name] - value
        if difference.any():
            assert name.split(".")[-2] in ("to_q", "to_k", "to_v", "to_qkv", "out_proj")
            ranks.add(int(torch.linalg.matrix_rank(difference, rtol=1e-4)))
    assert ranks and max(ranks) <= 2


def test_adapters_start_alike_and_leave_the_generator_alone():
    pytest.importorskip("peft")
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = network_of()
        torch.manual_seed(seed)
        tuned_parameters(network, "lora", 2)
        states.append({name: value for name, value in network.state_dict().items() if "lora_A" in name})
        drawn = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(1))
    assert states[0] and all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_merging_an_ordinary_network_changes_nothing():
    network = network_of()
    before = copy.deepcopy(network.state_dict())
    merge_adapter(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(InputError, match="no adapter to save"):
        save_adapter(network, "never.pt", 2)


def test_what_cannot_be(tmp_path):
    for arguments, network, message in (
        (("cross_atention",), network_of(), "did you mean 'cross_attention'"),
        (("cross_attention",), network_of(cross=False), "no cross-attention"),
        (("lora", 0), network_of(), "rank = 0"),
    ):
        with pytest.raises(InputError, match=message):
            tuned_parameters(network, *arguments)
    with pytest.raises(InputError, match="no attention layer"):
        tuned_parameters(torch.nn.Sequential(torch.nn.Linear(2, 2)), "lora", 2)
    pytest.importorskip("peft")
    save_tensors(tmp_path / "weights.pt", network_of().state_dict())
    with pytest.raises(InputError, match="is not an adapter"):
        apply_adapter(network_of(), tmp_path / "weights.pt")
    wide = network_of(width=16)
    update(wide, tuned_parameters(wide, "lora", 2))
    save_adapter(wide, tmp_path / "adapter.pt", 2)
    assert load_tensors(tmp_path / "adapter.pt")["rank"] == 2
    network = network_of()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match="belongs to another network"):
        apply_adapter(network, tmp_path / "adapter.pt")
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], value) for name, value in after.items())
