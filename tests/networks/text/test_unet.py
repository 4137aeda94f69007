import copy
import inspect
import io

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

pytest.importorskip("transformers")

from medi_monai.engines.handlers import WeightAverage
from medi_monai.networks.text import TextDiffusionUNet, load_pretrained_unet, load_text_encoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import save_tensors

SIZES = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (8, 16),
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "num_head_channels": 8,
    "norm_num_groups": 4,
}
CONDITIONED = {**SIZES, "with_conditioning": True, "cross_attention_dim": 32}
TEXTS = ["a man of 63 years", "axial FLAIR slice of the brain of a woman"]
TIMESTEPS = torch.tensor([3, 700])


def randomized(network, seed=0):
    # MONAI starts the last layers at zero, where no caption could be heard
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_text_encoder(clip_folder)


@pytest.fixture
def network(encoder):
    return randomized(TextDiffusionUNet(encoder, **SIZES))


@pytest.fixture
def image():
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_it_equals_monais_network_with_the_same_weights_and_context(network, encoder, image):
    theirs = DiffusionModelUNet(**CONDITIONED).eval()
    theirs.load_state_dict({name: value for name, value in network.state_dict().items() if name != "text_digest"})
    codes = encoder.tokenize(TEXTS)
    with torch.no_grad():
        prediction = network(image, TIMESTEPS, codes)
        assert torch.equal(prediction, theirs(image, TIMESTEPS, context=encoder(codes)))
        assert torch.equal(prediction, network(image, TIMESTEPS, context=encoder(codes)))
        other = network(image, TIMESTEPS, codes.flip(0))
    assert prediction.std() > 0.01 and (prediction - other).abs().max() > 1e-3


def test_with_the_image_alone_time_is_zero_and_the_caption_empty(network, encoder, image):
    with torch.no_grad():
        assert torch.equal(network(image), network(image, torch.zeros(2), encoder.tokenize(["", ""])))


def test_neither_parameters_nor_state_hold_the_text_encoder(network, encoder):
    plain = DiffusionModelUNet(**CONDITIONED)
    assert network.state_dict().keys() == {*plain.state_dict(), "text_digest"}
    assert sum(value.numel() for value in network.parameters()) == sum(value.numel() for value in plain.parameters())
    assert not any(module is encoder for module in network.modules())


def test_copies_share_the_text_encoder_and_nothing_else(network, encoder, image):
    copied = copy.deepcopy(network)
    assert copied.text_encoder is network.text_encoder is encoder
    with torch.no_grad():
        next(copied.parameters()).add_(1)
        assert not torch.equal(copied(image), network(image))


def test_the_text_encoder_follows_to_a_device_and_keeps_its_precision(clip_folder, image):
    own = load_text_encoder(clip_folder)
    network = TextDiffusionUNet(own, **SIZES).to(torch.float64)
    assert next(own.parameters()).dtype == torch.float32
    assert network(image.double()).dtype == torch.float64
    assert next(network.to("meta").text_encoder.parameters()).device.type == "meta"


def test_gradients_reach_all_that_reads_captions(network, encoder, image):
    network(image, TIMESTEPS, encoder.tokenize(TEXTS)).square().sum().backward()
    attending = [value for name, value in network.named_parameters() if "attn2.to_k" in name or "attn2.to_v" in name]
    assert len(attending) >= 6 and all(value.grad.abs().sum() > 0 for value in attending)


def test_weights_of_another_text_encoder_are_refused(network, clip_folder, image):
    other = randomized(TextDiffusionUNet(load_text_encoder(clip_folder, max_length=12), **SIZES), 1)
    before = other(image)
    with pytest.raises(InputError, match=f"{network.text_encoder.digest[:12]}.*{other.text_encoder.digest[:12]}"):
        other.load_state_dict(network.state_dict())
    assert torch.equal(before, other(image))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image": torch.zeros(1, 1, 17, 16)}, "sides divisible by 2"),
        ({"image": torch.zeros(1, 1, 16, 16), "conditions": torch.zeros(2, 24, dtype=torch.int64)}, "2 captions for 1"),
        (
            {"image": torch.zeros(1, 1, 16, 16), "conditions": torch.zeros(1, 24), "context": torch.zeros(1, 24, 32)},
            "both",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network, arguments, reason):
    with pytest.raises(InputError, match=reason):
        network(**arguments)


def test_widths_that_do_not_fit_are_refused_with_monais_reason(encoder):
    with pytest.raises(InputError, match="cannot be built.*num_groups"):
        TextDiffusionUNet(encoder, **{**SIZES, "channels": (9, 15)})


def test_its_arguments_and_defaults_are_monais_but_for_what_the_text_encoder_decides():
    own, theirs = (dict(inspect.signature(network).parameters) for network in (TextDiffusionUNet, DiffusionModelUNet))
    shown = {name: parameter.default for name, parameter in own.items() if name not in ("text_encoder", "pooled")}
    decided = ("with_conditioning", "cross_attention_dim", "num_class_embeds")
    assert shown == {name: parameter.default for name, parameter in theirs.items() if name not in decided}


def as_generative(state):
    """The names that monai-generative 0.2.3 gave to the same weights."""
    names = {
        name: name.replace(".postconv.", ".conv.").replace(".out_proj.", ".to_out.0.")
        for name in state
        if name != "text_digest"
    }
    return {old: state[name] for name, old in names.items()}


def test_a_checkpoint_of_a_training_gives_its_averaged_weights(encoder, image, tmp_path):
    trained, other = (randomized(TextDiffusionUNet(encoder, **SIZES)) for _ in range(2))
    average = WeightAverage(trained, 0.1).state_dict()
    content = {"network": other.state_dict(), "average": average, "step": 5, "settings": {"seed": 0}}
    save_tensors(tmp_path / "checkpoint_00000005.pt", content)
    fresh = TextDiffusionUNet(encoder, **SIZES).eval()
    load_pretrained_unet(fresh, tmp_path / "checkpoint_00000005.pt")
    with torch.no_grad():
        assert torch.equal(fresh(image, TIMESTEPS), trained.eval()(image, TIMESTEPS))


@pytest.mark.parametrize("layout", ["medi_monai", "monai", "monai-generative"])
@pytest.mark.parametrize("updown", [False, True])
def test_weights_of_three_layouts_are_loaded_whole(encoder, image, tmp_path, layout, updown, capsys):
    sizes = {**SIZES, "resblock_updown": updown}
    trained = randomized(TextDiffusionUNet(encoder, **sizes))
    if layout == "medi_monai":
        state = trained.state_dict()
    else:
        theirs = DiffusionModelUNet(**{**CONDITIONED, "resblock_updown": updown})
        theirs.load_state_dict({name: value for name, value in trained.state_dict().items() if name != "text_digest"})
        state = theirs.state_dict() if layout == "monai" else as_generative(theirs.state_dict())
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "model.pt")
    fresh = TextDiffusionUNet(encoder, **sizes).eval()
    report = load_pretrained_unet(fresh, tmp_path / "model.pt")
    with torch.no_grad():
        assert torch.equal(fresh(image, TIMESTEPS), trained(image, TIMESTEPS))
    count = sum(value.numel() for value in trained.parameters())
    assert report == {"layout": layout, "tensors": len(list(trained.parameters())), "parameters": count}
    assert f"tensors with {count:,} parameters ({layout})" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [{"include_fc": False}, {"use_combined_linear": True}, {"channels": (8, 24)}])
def test_old_weights_that_would_be_loaded_in_part_are_refused(encoder, image, tmp_path, settings):
    state = as_generative(randomized(TextDiffusionUNet(encoder, **SIZES)).state_dict())
    torch.save(state, tmp_path / "old.pt")
    network = randomized(TextDiffusionUNet(encoder, **{**SIZES, **settings}), 1)
    before = network(image)
    with pytest.raises(InputError, match="old.pt"):
        load_pretrained_unet(network, tmp_path / "old.pt")
    assert torch.equal(before, network(image))


def test_weights_of_other_networks_are_refused_and_nothing_is_copied(encoder, image, network, tmp_path):
    before = network(image)
    cases = {
        "unconditioned.pt": DiffusionModelUNet(**SIZES).state_dict(),
        "part.pt": dict(list(network.state_dict().items())[:20]),
        "narrow.pt": DiffusionModelUNet(**{**CONDITIONED, "cross_attention_dim": 16}).state_dict(),
        "more.pt": {**network.state_dict(), "further": torch.zeros(2)},
    }
    for name, state in cases.items():
        torch.save(state, tmp_path / name)
        with pytest.raises(InputError, match=name):
            load_pretrained_unet(network, tmp_path / name)
    assert torch.equal(before, network(image))
    with pytest.raises(InputError, match="no weights found at"):
        load_pretrained_unet(network, tmp_path / "none.pt")


def test_the_state_of_the_last_token_reaches_every_residual_block(encoder, image):
    network = randomized(TextDiffusionUNet(encoder, pooled=True, **SIZES))
    codes = encoder.tokenize(TEXTS)
    states = encoder(codes)
    # the tokenizer's own output says where a caption ends
    lengths = [len(encoder.captions.tokenizer(text)["input_ids"]) for text in TEXTS]
    ends = torch.stack([states[row, length - 1] for row, length in enumerate(lengths)])
    theirs = DiffusionModelUNet(**CONDITIONED, num_class_embeds=1).eval()
    theirs.class_embedding = copy.deepcopy(network.class_embedding)
    theirs.load_state_dict({name: value for name, value in network.state_dict().items() if name != "text_digest"})
    with torch.no_grad():
        expected = theirs(image, TIMESTEPS, context=states, class_labels=ends)
        assert torch.equal(network(image, TIMESTEPS, codes), expected)


def test_weights_without_the_projection_begin_as_they_were(encoder, image, tmp_path):
    plain = randomized(TextDiffusionUNet(encoder, **SIZES))
    torch.save(plain.state_dict(), tmp_path / "model.pt")
    network = TextDiffusionUNet(encoder, pooled=True, **SIZES).eval()
    load_pretrained_unet(network, tmp_path / "model.pt")
    codes = encoder.tokenize(TEXTS)
    with torch.no_grad():
        assert torch.equal(network(image, TIMESTEPS, codes), plain(image, TIMESTEPS, codes))


def test_an_exported_network_reads_captions(encoder):
    network = randomized(TextDiffusionUNet(encoder, True, **SIZES))
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    codes, timesteps = encoder.tokenize([*TEXTS, ""]), torch.tensor([3.0, 700.0, 40.0])
    for rows in (slice(0, 3), slice(1, 2)):
        image = torch.randn(len(codes[rows]), 1, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ours = network(image, timesteps[rows], codes[rows])
            assert not torch.allclose(ours, network(image), atol=1e-3)
            torch.testing.assert_close(scripted(image, timesteps[rows], codes[rows]), ours, rtol=0, atol=1e-6)
            torch.testing.assert_close(scripted(image), network(image), rtol=0, atol=1e-6)
