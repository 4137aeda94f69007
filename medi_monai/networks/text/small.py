"""Create a small CLIP model and its tokenizer, with the classes and file layout of transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from medi_monai.networks.text.loading import FILES, quiet
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, temporary_dir, write_json
from medi_monai.utils.optional import require
from medi_monai.utils.records import FileIndex

__all__ = ["check_free", "make_tokenizer", "save_clip", "small_clip"]

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MOST_TOKENS = 77
PURPOSE = "for a small CLIP"


def make_tokenizer(captions: Iterable[str], max_length: int | None = None, num_merges: int = 512) -> Any:
    """Train a byte-level tokenizer of CLIP's kind on captions; it can encode any text.

    Args:
        captions: training captions, in any order.
        max_length: number of tokens of a caption, including start and end; by default 1.5 times the longest, rounded
            to a multiple of 8, and at most CLIP's 77.
        num_merges: maximum number of merges.

    Returns:
        A ``transformers.CLIPTokenizer``; end and padding are the same token, as in CLIP.

    Raises:
        InputError: if there are no captions, or the longest does not fit.
    """
    transformers = require("transformers", PURPOSE)
    texts = sorted({caption for caption in captions if caption.strip()})
    if not texts:
        raise InputError("a tokenizer needs at least one caption")
    alphabet, merges = _learn(texts, num_merges, transformers)
    words = [*alphabet, *(sign + WORD_END for sign in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    longest = max(len(row) for row in tokenizer(texts)["input_ids"])
    if max_length is not None and longest > max_length:
        raise InputError(f"max_length = {max_length}: the longest caption has {longest} tokens including start and end")
    tokenizer.model_max_length = max_length or min(-(-3 * longest // 16) * 8, MOST_TOKENS)
    return tokenizer


def _learn(texts: list[str], num_merges: int, transformers: Any) -> tuple[list[str], list[tuple[str, ...]]]:
    from tokenizers import pre_tokenizers, trainers

    blank = transformers.CLIPTokenizer()._tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # the trainer counts the alphabet of the texts twice: within words, and at the end of words
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + num_merges,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        # listed explicitly: otherwise, the trainer numbers word endings in hash order, which decides ties between
        # merges
        special_tokens=[sign + WORD_END for sign in alphabet],
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    merges = json.loads(blank.to_str())["model"]["merges"]
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    return alphabet, pairs[:num_merges]


def small_clip(
    tokenizer: Any,
    image_size: int = 32,
    patch_size: int = 8,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    projection_dim: int = 64,
) -> nn.Module:
    """Create a small ``transformers.CLIPModel`` with random weights, drawn with torch's global generator.

    Args:
        tokenizer: tokenizer from :func:`make_tokenizer`.
        image_size: side of the images in pixels.
        patch_size: side of a patch in pixels; has to divide ``image_size``.
        hidden_size: width of both towers.
        num_layers: number of layers of each tower.
        num_heads: number of attention heads of each tower; has to divide ``hidden_size``.
        projection_dim: number of features.

    Raises:
        InputError: if a size is not divisible as required.
    """
    transformers = require("transformers", PURPOSE)
    for name, value, divisor_name, divisor in (
        ("image_size", image_size, "patch_size", patch_size),
        ("hidden_size", hidden_size, "num_heads", num_heads),
    ):
        if divisor < 1 or value % divisor:
            raise InputError(f"{name} = {value} has to be a multiple of {divisor_name} = {divisor}")
    tower = {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
    }
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "image_size": image_size, "patch_size": patch_size}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection_dim)
    return transformers.CLIPModel(config)


def save_clip(
    model: nn.Module,
    tokenizer: Any,
    folder: str | os.PathLike,
    beside: Mapping[str, Path | dict[str, Any]] | None = None,
) -> Path:
    """Write a CLIP model in the standard layout: configuration, weights, tokenizer and ``preprocessor_config.json``.

    The folder appears only when it is complete.

    Args:
        model: a ``transformers.CLIPModel``.
        tokenizer: tokenizer of the model.
        folder: new or empty folder.
        beside: additional content of the folder, by name: a folder to move there, or the content of a JSON file.

    Raises:
        InputError: for a folder that is not empty.
    """
    transformers = require("transformers", PURPOSE)
    folder = check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_dir(folder) as temporary:
        with quiet():
            model.save_pretrained(temporary)  # type: ignore[operator]
            tokenizer.save_pretrained(temporary)
            _processor(transformers, model).save_pretrained(temporary)
        index = FileIndex(temporary, FILES)
        for path in sorted(temporary.iterdir()):
            index.add(path.name, path, file_digest(path))
        for name, content in (beside or {}).items():
            if isinstance(content, Path):
                content.rename(temporary / name)
            else:
                write_json(temporary / name, content)
        temporary.replace(folder)
    return folder


def check_free(folder: str | os.PathLike) -> Path:
    """Return the folder if it does not exist or is empty; otherwise raise an :class:`InputError`."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty; choose another folder, or move it away")
    return folder


def _processor(transformers: Any, model: Any) -> Any:
    side = model.config.vision_config.image_size
    # the normalization gives [-1, 1], as in the diffusion networks; without torchvision, this is Pillow's processor
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
