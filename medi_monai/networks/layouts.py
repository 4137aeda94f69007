"""Translate the names of weights of diffusion UNets in other libraries to those of MONAI's ``DiffusionModelUNet``."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

__all__ = ["CONDITIONS", "identities", "layout_of", "monai_state"]

#: prefix of the embeddings of class and metadata, which are not translated
CONDITIONS = "class_embedding."
#: prefixes of the embeddings of metadata in published MeDi models
DOMAINS = ("domain_embeddings.", "positional_domain_embeddings.", "linear_comb.")
#: patterns of names in diffusers' ``UNet2DModel`` (also of its attention before version 0.12), and their replacements
DIFFUSERS = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "conv_in.conv."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2.conv."),
    (r"\.downsamplers\.0\.conv\.", ".downsampler.op.conv."),
    (r"\.upsamplers\.0\.conv\.", ".upsampler.postconv.conv."),
    (r"^mid_block\.resnets\.0\.", "middle_block.resnet_1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "middle_block.attention."),
    (r"\.(conv1|conv2)\.", r".\1.conv."),
    (r"\.conv_shortcut\.", ".skip_connection.conv."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.|\.proj_attn\.", ".attn.out_proj."),
    (r"\.(?:to_q|query)\.", ".attn.to_q."),
    (r"\.(?:to_k|key)\.", ".attn.to_k."),
    (r"\.(?:to_v|value)\.", ".attn.to_v."),
)
#: patterns of names in monai-generative, for networks without cross-attention, and their replacements
GENERATIVE = (
    (r"\.upsampler\.conv\.", ".upsampler.postconv."),
    (r"\.proj_attn\.", ".attn.out_proj."),
    (r"(?<!\.attn)\.(to_[qkv])\.", r".attn.\1."),
)


def layout_of(state: Mapping[str, torch.Tensor]) -> str:
    """Return the library that weights are from: ``medi_monai``, ``monai``, ``monai-generative`` or ``diffusers``."""
    if f"{CONDITIONS}schema_digest" in state:
        return "medi_monai"
    if any(name.startswith("time_embedding.") for name in state):
        return "diffusers"
    old = any(".proj_attn." in name or ".upsampler.conv." in name for name in state)
    return "monai-generative" if old else "monai"


def monai_state(
    state: Mapping[str, torch.Tensor], layout: str, expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return weights under the names of MONAI's network, without those of class and metadata.

    Args:
        state: weights by name.
        layout: result of :func:`layout_of`.
        expected: ``state_dict`` of the network, which determines whether query, key and value are one linear layer.
    """
    rules = {"diffusers": DIFFUSERS, "monai-generative": GENERATIVE}.get(layout, ())
    trunk: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name.startswith((CONDITIONS, *DOMAINS)):
            continue
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        # diffusers before 0.12 had 1 x 1 convolutions here
        trunk[new] = value.flatten(1) if value.ndim == 4 and re.search(r"\.attn\.(to_|out_)", new) else value
    if layout == "monai-generative":
        trunk.update(identities(state))
    return _as_expected(trunk, expected)


def identities(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return output layers of self-attention for weights of monai-generative, under their names in MONAI.

    monai-generative has a projection after its self-attention that its forward pass never applies, while MONAI applies
    it. Replacing it by the identity makes the outputs equal.

    Args:
        state: weights of monai-generative by name.
    """
    return {
        name.replace(".proj_attn.", ".attn.out_proj."): _identity(value)
        for name, value in state.items()
        if ".proj_attn." in name
    }


def _identity(value: torch.Tensor) -> torch.Tensor:
    return torch.eye(len(value), dtype=value.dtype) if value.ndim == 2 else torch.zeros_like(value)


def _as_expected(state: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join or split the linear layers of query, key and value, as the network expects them."""
    for name in expected:
        whole = re.sub(r"\.to_q\.", ".qkv.", name)
        parts = [re.sub(r"\.qkv\.", f".to_{letter}.", whole) for letter in "qkv"]
        if whole == name and ".qkv." in name and all(part in state for part in parts):
            state[name] = torch.cat([state.pop(part) for part in parts])
        elif ".to_q." in name and name not in state and whole in state:
            state.update(zip(parts, state.pop(whole).chunk(3)))
    # a network whose attention has no output layer does not need the identity
    for name in [name for name in state if ".attn.out_proj." in name and name not in expected]:
        if torch.equal(state[name], _identity(state[name])):
            del state[name]
    return state
