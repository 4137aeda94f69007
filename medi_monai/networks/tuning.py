"""Select the weights of a trained network to tune: all, the cross-attention, or a low-rank adapter."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import check_state, load_tensors, save_tensors, tensors_digest
from medi_monai.utils.optional import require

__all__ = ["TUNED", "apply_adapter", "merge_adapter", "save_adapter", "tuned_parameters"]

TUNED = ("all", "cross_attention", "lora")
#: linear layers of MONAI's attention blocks; ``to_qkv`` if query, key and value are combined
ATTENTION = ("to_q", "to_k", "to_v", "to_qkv", "out_proj")
#: name of the cross-attention in MONAI's transformer block
CROSS = "attn2"


def tuned_parameters(network: nn.Module, tuned: str = "all", rank: int = 8) -> list[nn.Parameter]:
    """Freeze a network except for the weights to tune.

    Args:
        network: network, which is changed in place; with ``lora``, peft adds an adapter to its attention layers (Hu et
            al., arXiv 2106.09685), which initially has no effect.
        tuned: weights to tune, one of :data:`TUNED`.
        rank: rank of the adapter.

    Returns:
        The parameters to tune, in the order of the network.

    Raises:
        InputError: for an unknown choice, a rank below 1, a network without such layers, or if peft is missing.
    """
    if tuned not in TUNED:
        raise unknown_value("choice of `tuned`", tuned, TUNED)
    if tuned == "lora":
        _inject(network, rank)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = tuned == "all" or (
            f".{CROSS}." in name if tuned == "cross_attention" else "lora_" in name
        )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError(f"the network has no cross-attention: tune {TUNED[0]!r} or {TUNED[2]!r} instead of {tuned!r}")
    return parameters


def save_adapter(network: nn.Module, path: str | os.PathLike, rank: int) -> None:
    """Write only the adapter of a network (weights and rank); it must not be merged yet.

    Raises:
        InputError: if the network has no adapter.
    """
    state = {name: value.detach().cpu() for name, value in network.state_dict().items() if "lora_" in name}
    if not state:
        raise InputError("the network has no adapter to save: it is already merged, or was never tuned with 'lora'")
    save_tensors(path, {"rank": rank, "state": state, "sha256": tensors_digest(state)})


def apply_adapter(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load an adapter written by :func:`save_adapter` into the untuned network, and merge it into the weights.

    Raises:
        InputError: for a file that is not an adapter or belongs to another network; the network is then unchanged.
    """
    content = load_tensors(path)
    if not isinstance(content, dict) or set(content) != {"rank", "state", "sha256"}:
        raise InputError(f"{path} is not an adapter; it holds {sorted(map(str, content))[:5]}")
    weights = check_state(path, content["state"], {})
    if tensors_digest(weights) != content["sha256"] or not isinstance(content["rank"], int):
        raise InputError(f"{path} is damaged: its weights do not fit the digest that they were written with")
    _inject(network, content["rank"])
    expected = {name: value.shape for name, value in network.state_dict().items() if "lora_" in name}
    state = content["state"]
    if expected != {name: value.shape for name, value in state.items()}:
        # merging an adapter without loaded weights leaves the network unchanged
        merge_adapter(network)
        raise InputError(f"the adapter in {path} belongs to another network: its layers differ in name or size")
    network.load_state_dict(state, strict=False)
    return merge_adapter(network)


def merge_adapter(network: nn.Module) -> nn.Module:
    """Merge adapters, if any, into the weights they adapt, which restores an ordinary network."""
    layers = [(name, module) for name, module in network.named_modules() if hasattr(module, "get_base_layer")]
    for name, module in layers:
        merging: Any = module
        merging.merge()
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, merging.get_base_layer())
    return network


def _inject(network: nn.Module, rank: int) -> None:
    if rank < 1:
        raise InputError(f"rank = {rank}: the rank of an adapter must be at least 1")
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ATTENTION
    ]
    if not names:
        raise InputError("the network has no attention layer for an adapter; tune 'all' instead of 'lora'")
    peft = require("peft", "to tune an adapter (lora)")
    # peft draws initial weights on the CPU from torch's generator: with this seed, they are always the same
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        peft.inject_adapter_in_model(config, network)
