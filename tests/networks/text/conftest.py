"""A small CLIP with random weights in the ordinary layout, made on the spot."""

import pytest
import torch

CAPTIONS = [
    "axial FLAIR slice of the brain of a woman",
    "axial FLAIR slice of the brain of a man with a lesion",
    "a man of 63 years",
]


def randomized(model, seed=0):
    # as transformers begins, all captions give nearly the same states
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 0:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    pytest.importorskip("transformers")
    from medi_monai.networks.text import make_tokenizer, save_clip, small_clip

    tokenizer = make_tokenizer(CAPTIONS, max_length=24)
    model = randomized(small_clip(tokenizer, 32, hidden_size=32, projection_dim=16))
    return save_clip(model, tokenizer, tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def dual_folder(tmp_path_factory):
    """A BERT beside an image tower, as BiomedCLIP has it."""
    transformers = pytest.importorskip("transformers")
    from medi_monai.networks.text.loading import quiet

    folder = tmp_path_factory.mktemp("dual") / "model"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "brain", "of", "a", "man", "woman", "the"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=12)
    text = transformers.BertConfig(
        vocab_size=11,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    vision = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    with quiet():
        randomized(transformers.VisionTextDualEncoderModel(config)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
