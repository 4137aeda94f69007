import pytest

transformers = pytest.importorskip("transformers")

from medi_monai.networks.text import make_tokenizer, save_clip, small_clip  # noqa: E402
from medi_monai.networks.text.loading import quiet  # noqa: E402
from medi_monai.utils.errors import InputError  # noqa: E402

CAPTIONS = ["brain of a woman of 63 years", "brain of a man", "brain of a man with a lesion"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(CAPTIONS)


def test_any_text_can_be_spelled_and_read_back(tokenizer):
    for text in ["brain of a man", "zebra", "t2-weighted flair, 3.0 t", "é ω 字 🧠"]:
        codes = tokenizer(text)["input_ids"]
        assert codes[0] == tokenizer.bos_token_id and codes.index(tokenizer.eos_token_id) == len(codes) - 1
        read = tokenizer.decode(codes, skip_special_tokens=True).replace(" ", "")
        assert read == text.replace(" ", "")


def test_words_of_the_captions_are_one_token_each(tokenizer):
    assert tokenizer.tokenize("Brain of a woman") == ["brain</w>", "of</w>", "a</w>", "woman</w>"]
    assert len(tokenizer("brain of a woman of 63 years")["input_ids"]) == 10


def test_neither_order_nor_counts_of_the_captions_matter(tokenizer):
    other = make_tokenizer([*reversed(CAPTIONS), CAPTIONS[1], "", " "])
    assert other.get_vocab() == tokenizer.get_vocab() and other.model_max_length == tokenizer.model_max_length


def test_the_same_captions_give_the_same_merges_each_time():
    # letters that are as frequent as each other, so that ties decide
    captions = [
        f"{''.join(sorted('qwertyuiopasdfghjklzxcvbnm', key=lambda c: (ord(c) * k) % 31))} {k}" for k in range(9)
    ]
    first, *others = (make_tokenizer(captions).get_vocab() for _ in range(6))
    assert all(other == first for other in others)


def test_lengths_leave_room_or_are_as_asked_for(tokenizer):
    # the longest caption has 10 tokens: 15, and up to a multiple of 8
    assert tokenizer.model_max_length == 16
    assert make_tokenizer(CAPTIONS, max_length=10).model_max_length == 10
    with pytest.raises(InputError, match="max_length = 9: the longest caption has 10"):
        make_tokenizer(CAPTIONS, max_length=9)


def test_special_tokens_are_those_of_clip(tokenizer):
    theirs = transformers.CLIPTokenizer()
    assert tokenizer.special_tokens_map == theirs.special_tokens_map
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(tokenizer) - 1


def test_without_captions_there_is_no_tokenizer():
    with pytest.raises(InputError, match="at least one caption"):
        make_tokenizer(["", "  "])


def test_the_clip_is_small_and_of_transformers(tokenizer):
    model = small_clip(tokenizer)
    assert isinstance(model, transformers.CLIPModel)
    assert sum(value.numel() for value in model.parameters()) < 1_000_000
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2


@pytest.mark.parametrize("sizes", [{"image_size": 30}, {"hidden_size": 66}, {"patch_size": 0}])
def test_sizes_that_do_not_divide_are_refused(tokenizer, sizes):
    with pytest.raises(InputError, match="has to be a multiple"):
        small_clip(tokenizer, **sizes)


def test_the_folder_has_the_ordinary_layout(tokenizer, tmp_path):
    model = small_clip(tokenizer)
    folder = save_clip(model, tokenizer, tmp_path / "deep" / "clip")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= names
    with quiet():
        again = transformers.AutoModel.from_pretrained(folder)
        words = transformers.AutoTokenizer.from_pretrained(folder)
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert all((value == again.state_dict()[name]).all() for name, value in model.state_dict().items())
    assert words(CAPTIONS)["input_ids"] == tokenizer(CAPTIONS)["input_ids"]
    assert words.model_max_length == tokenizer.model_max_length
    assert dict(processor.size) == {"shortest_edge": 32}


def test_a_folder_appears_whole_or_not_at_all_and_is_never_overwritten(tokenizer, tmp_path, monkeypatch):
    model = small_clip(tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save_pretrained", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_clip(model, tokenizer, tmp_path / "clip")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "clip").mkdir()
    save_clip(model, tokenizer, tmp_path / "clip")
    with pytest.raises(InputError, match="not empty"):
        save_clip(model, tokenizer, tmp_path / "clip")
