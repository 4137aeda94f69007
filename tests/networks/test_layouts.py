import torch

from medi_monai.networks.layouts import identities, layout_of, monai_state


def test_the_library_is_known_by_names():
    zero = torch.zeros(1)
    assert layout_of({"class_embedding.schema_digest": zero, "time_embed.0.weight": zero}) == "medi_monai"
    assert layout_of({"time_embedding.linear_1.weight": zero}) == "diffusers"
    assert layout_of({"middle_block.attention.proj_attn.weight": zero}) == "monai-generative"
    assert layout_of({"up_blocks.0.upsampler.conv.conv.weight": zero}) == "monai-generative"
    assert layout_of({"up_blocks.0.upsampler.postconv.conv.weight": zero}) == "monai"


def test_query_key_and_value_are_joined_and_divided_as_the_network_has_them():
    parts = {f"a.attn.to_{letter}.{kind}": torch.randn(4, 4) for letter in "qkv" for kind in ("weight", "bias")}
    joined = monai_state(parts, "monai", {"a.attn.qkv.weight": torch.empty(0), "a.attn.qkv.bias": torch.empty(0)})
    assert torch.equal(joined["a.attn.qkv.bias"], torch.cat([parts[f"a.attn.to_{letter}.bias"] for letter in "qkv"]))
    divided = monai_state(joined, "monai", parts)
    assert divided.keys() == parts.keys() and all(torch.equal(divided[name], parts[name]) for name in parts)


def test_class_and_metadata_are_left_out_and_old_attention_of_diffusers_is_read():
    state = {
        "class_embedding.weight": torch.zeros(1),
        "domain_embeddings.center.weight": torch.zeros(1),
        "linear_comb.weight": torch.zeros(1),
        "mid_block.attentions.0.query.weight": torch.ones(4, 4, 1, 1),
        "mid_block.attentions.0.proj_attn.bias": torch.ones(4),
        "down_blocks.0.resnets.1.conv_shortcut.weight": torch.zeros(1),
    }
    translated = monai_state(state, "diffusers", {"middle_block.attention.attn.out_proj.bias": torch.ones(4)})
    assert {name: tuple(value.shape) for name, value in translated.items()} == {
        "middle_block.attention.attn.to_q.weight": (4, 4),
        "middle_block.attention.attn.out_proj.bias": (4,),
        "down_blocks.0.resnets.1.skip_connection.conv.weight": (1,),
    }


def test_the_unused_projection_is_the_identity():
    made = identities({"x.proj_attn.weight": torch.randn(3, 3), "x.proj_attn.bias": torch.randn(3), "y": torch.ones(1)})
    assert torch.equal(made["x.attn.out_proj.weight"], torch.eye(3)) and len(made) == 2
    assert torch.equal(made["x.attn.out_proj.bias"], torch.zeros(3))
