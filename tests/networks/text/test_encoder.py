import copy
import json
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers")

from medi_monai.networks.text import ClipModel, FrozenTextEncoder, load_text_encoder  # noqa: E402
from medi_monai.networks.text.loading import is_local, load_config, quiet  # noqa: E402
from medi_monai.utils.errors import InputError  # noqa: E402

TEXTS = ["a man of 63 years", "", "axial FLAIR slice of the brain of a woman", "a man of 63 years", "Ωé xyzzy"]


@pytest.fixture(scope="module")
def encoder(clip_folder):
    return load_text_encoder(clip_folder)


def theirs(folder, texts, length, loader=transformers.CLIPTextModel, tower=None, mask=True):
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = loader.from_pretrained(folder).eval()
        batch = tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
        model = getattr(model, tower) if tower else model
        with torch.no_grad():
            inputs = {**batch} if mask else {"input_ids": batch["input_ids"]}
            return batch["input_ids"], model(**inputs).last_hidden_state


def test_token_states_equal_those_of_transformers(encoder, clip_folder):
    codes, states = theirs(clip_folder, TEXTS, 24)
    assert torch.equal(encoder.tokenize(TEXTS), codes) and codes.dtype == torch.int64
    torch.testing.assert_close(encoder(codes), states, rtol=1e-5, atol=1e-5)
    assert encoder.dim == states.shape[2] == 32
    assert (states[0] - states[2]).abs().max() > 0.1


def test_without_mask_the_states_are_those_of_stable_diffusion(clip_folder, encoder):
    codes, states = theirs(clip_folder, TEXTS, 24, mask=False)
    plain = load_text_encoder(clip_folder, mask_padding=False)
    torch.testing.assert_close(plain(codes), states, rtol=1e-5, atol=1e-5)
    assert (plain(codes) - encoder(codes)).abs().max() > 1e-3
    assert plain.digest != encoder.digest


def test_the_text_tower_of_a_dual_encoder_equals_transformers(dual_folder):
    encoder = load_text_encoder(dual_folder, max_length=9)
    texts = ["brain of a man", "", "the woman", "xyzzy"]
    codes, states = theirs(dual_folder, texts, 9, transformers.VisionTextDualEncoderModel, "text_model")
    assert torch.equal(encoder.tokenize(texts), codes)
    torch.testing.assert_close(encoder(codes), states, rtol=1e-5, atol=1e-5)
    assert encoder.dim == 24 and load_text_encoder(dual_folder).max_length == 12


def test_a_text_tower_alone_has_the_states_and_the_digest_of_the_whole(encoder, clip_folder, tmp_path):
    with quiet():
        transformers.CLIPTextModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(clip_folder).save_pretrained(tmp_path)
    alone = load_text_encoder(str(tmp_path))
    assert alone.digest == encoder.digest
    assert torch.equal(alone(alone.tokenize(TEXTS)), encoder(encoder.tokenize(TEXTS)))


def test_a_bert_without_its_pooler_is_read_and_its_digest_does_not_depend_on_chance(dual_folder, tmp_path):
    with quiet():
        tower = transformers.VisionTextDualEncoderModel.from_pretrained(dual_folder).text_model
        bare = transformers.BertModel(tower.config, add_pooling_layer=False)
        bare.load_state_dict({name: value for name, value in tower.state_dict().items() if "pooler" not in name})
        bare.save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(dual_folder).save_pretrained(tmp_path)
    first, second = load_text_encoder(tmp_path), load_text_encoder(tmp_path)
    assert first.digest == second.digest
    whole = load_text_encoder(dual_folder)
    codes = whole.tokenize(["brain of a man"])
    assert torch.equal(first(codes), whole(codes))


def test_the_longest_caption_that_fits_fits_and_one_token_more_is_an_error(clip_folder):
    encoder = load_text_encoder(clip_folder, max_length=7)
    assert encoder.tokenize(["man man man man man"]).shape == (1, 7)
    with pytest.raises(InputError, match=r"1 of 2 .*'man man man man man man': 8 tokens .* at most 7"):
        encoder.tokenize(["man", "man man man man man man"])


def test_a_long_caption_is_cut_where_that_is_asked_for_and_keeps_its_end(clip_folder, capsys):
    encoder = load_text_encoder(clip_folder, max_length=7, on_long="truncate")
    codes = encoder.tokenize(["man", "man man man man man man woman"])
    assert torch.equal(codes[1:], encoder.tokenize(["man man man man man"]))
    assert "1 of 2 captions were truncated to 7 tokens" in capsys.readouterr().out


def test_the_mask_ends_with_the_first_end_token(encoder, clip_folder):
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder)
    batch = tokenizer(TEXTS, padding="max_length", max_length=24, return_tensors="pt")
    assert torch.equal(encoder.captions.mask(batch["input_ids"]), batch["attention_mask"])


def test_null_is_the_empty_caption(encoder):
    assert torch.equal(encoder.null_codes(3), encoder.tokenize(["", "", ""]))
    assert encoder.null_codes(0).shape == (0, 24) and encoder(encoder.null_codes(0)).shape == (0, 24, 32)


@pytest.mark.parametrize("count", [1, 50])
def test_the_same_captions_are_encoded_once_and_equal_ones_together(clip_folder, count):
    encoder = load_text_encoder(clip_folder)
    calls = []
    encoder.tower.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    codes = encoder.tokenize(TEXTS)
    for _ in range(count):
        encoder(codes.clone())
    assert calls == [4]
    codes[0, 3] = 5
    assert not torch.equal(encoder(codes), encoder(encoder.tokenize(TEXTS)))


def test_it_stays_frozen_float32_and_in_evaluation_mode(encoder):
    codes = encoder.tokenize(["a woman"])
    before = encoder(codes)
    encoder._kept.clear()
    with torch.autocast("cpu", torch.bfloat16):
        during = encoder(codes)
    assert during.dtype == torch.float32 and torch.equal(before, during)
    assert not encoder.train().training and not encoder.tower.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters()) and not during.requires_grad
    assert copy.deepcopy(encoder) is encoder


def test_states_of_inference_mode_are_not_handed_to_training(encoder):
    codes = encoder.tokenize(["a man with a lesion"])
    encoder._kept.clear()
    with torch.inference_mode():
        encoder(codes)
    weight = torch.ones(32, requires_grad=True)
    (encoder(codes) * weight).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_the_digest_tells_weights_tokenizers_and_lengths_apart(clip_folder, tmp_path, encoder):
    assert load_text_encoder(clip_folder).digest == encoder.digest
    assert load_text_encoder(clip_folder, max_length=12).digest != encoder.digest
    shutil.copytree(clip_folder, tmp_path / "other", ignore=shutil.ignore_patterns("medi_files.json"))
    with quiet():
        model = transformers.CLIPModel.from_pretrained(clip_folder)
        model.text_model.final_layer_norm.bias.data[3] += 1e-4
        model.save_pretrained(tmp_path / "other")
    assert load_text_encoder(tmp_path / "other").digest != encoder.digest
    words = json.loads((clip_folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    shutil.copytree(clip_folder, tmp_path / "words", ignore=shutil.ignore_patterns("medi_files.json"))
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps(words))
    assert load_text_encoder(tmp_path / "words").digest != encoder.digest


@pytest.mark.parametrize(
    ("codes", "reason"),
    [(torch.zeros(2, 5, dtype=torch.int64), r"\(2, 5\).*\(N, 24\)"), (torch.zeros(2, 24), "float32")],
)
def test_codes_of_another_shape_or_type_are_refused(encoder, codes, reason):
    with pytest.raises(InputError, match=reason):
        encoder(codes)


@pytest.mark.parametrize(("length", "reason"), [(25, "at most 24"), (2, "of 3 or more"), (True, "whole number")])
def test_lengths_that_cannot_be_are_refused(clip_folder, length, reason):
    with pytest.raises(InputError, match=reason):
        load_text_encoder(clip_folder, max_length=length)


def test_what_is_no_text_is_refused(encoder):
    with pytest.raises(InputError, match="not 3.5"):
        encoder.tokenize([3.5])
    with pytest.raises(InputError, match="'cut'.*'truncate'"):
        FrozenTextEncoder(encoder.tower, encoder.captions.tokenizer, on_long="cut")


@pytest.mark.parametrize(
    "model", ["./clip", "/nowhere/clip", "~/clip", "a/b/c", "..", "work\\clip", "owner/", "-x/clip", "ex isting"]
)
def test_what_looks_like_a_path_is_never_asked_of_a_network(model, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("asked a network"))
    assert is_local(model)
    with pytest.raises(InputError, match="there is no|cannot be read"):
        load_text_encoder(model)


def test_a_folder_is_read_without_a_network(clip_folder, dual_folder, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("asked a network"))
    assert load_text_encoder(clip_folder).dim == 32 and load_text_encoder(str(dual_folder)).dim == 24
    assert ClipModel(clip_folder).dim == 16


def test_ids_are_told_from_folders(tmp_path, monkeypatch):
    assert not is_local("openai/clip-vit-base-patch32") and not is_local("bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    assert is_local("work/clip") and is_local(tmp_path / "clip")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_an_id_without_network_says_what_to_do_and_asks_none_where_offline(name, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("asked a network"))
    monkeypatch.setenv(name, "1")
    # the hub's client reads the same variables when it is imported, which was before
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="nobody/nothing-at-all.*neither in the cache.*hf download.*folder"):
        load_config("nobody/nothing-at-all")


def test_folders_that_are_no_models_are_refused(clip_folder, tmp_path):
    def folder(name, *without):
        target = tmp_path / name
        shutil.copytree(
            clip_folder,
            target,
            ignore=shutil.ignore_patterns(*without, "medi_files.json"),
        )
        return target

    with pytest.raises(InputError, match="no tokenizer in .*tokenizer.json"):
        load_text_encoder(folder("mute", "tokenizer*"))
    with pytest.raises(InputError, match="no config.json"):
        load_text_encoder(folder("bare", "config.json"))
    with pytest.raises(InputError, match="weights .*cannot be read"):
        load_text_encoder(folder("empty", "model.safetensors"))
    broken = folder("broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="weights .*cannot be read"):
        load_text_encoder(broken)
    clip = folder("open_clip", "config.json")
    (clip / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="open_clip.*VisionTextDualEncoderModel"):
        load_text_encoder(clip)


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(clip_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(clip_folder, tmp_path / "clip", ignore=shutil.ignore_patterns("medi_files.json"))
    state = load_file(clip_folder / "model.safetensors")
    del state["text_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(state, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"incomplete: 1 tensors are missing.*layers\.1\.mlp\.fc1\.weight"):
        load_text_encoder(tmp_path / "clip")


def test_models_that_read_no_text_are_refused(dual_folder, tmp_path):
    with quiet():
        transformers.VisionTextDualEncoderModel.from_pretrained(dual_folder).vision_model.save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(dual_folder).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'vit' model, which does not encode text"):
        load_text_encoder(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(clip_folder, dual_folder):
    with quiet():
        tower = transformers.VisionTextDualEncoderModel.from_pretrained(dual_folder).text_model
        tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder)
    with pytest.raises(InputError, match="11: they do not match"):
        FrozenTextEncoder(tower, tokenizer)
