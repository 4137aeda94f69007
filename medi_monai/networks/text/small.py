"""A small CLIP with its own tokenizer, in the layout and the classes of transformers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from medi_monai.networks.text.loading import FILES, quiet
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest
from medi_monai.utils.optional import require
from medi_monai.utils.records import FileIndex

__all__ = ["check_free", "make_tokenizer", "save_clip", "small_clip"]

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MOST_TOKENS = 77
PURPOSE = "for a small CLIP"


def make_tokenizer(captions: Iterable[str], max_length: int | None = None, num_merges: int = 512) -> Any:
    """CLIP's byte-level tokenizer with merges learned from captions: it can spell any text.

    Args:
        captions: to learn from; their order does not count.
        max_length: tokens of a caption with start and end; by default room for half as many more as the longest has,
            a multiple of 8, and at most the 77 of CLIP.
        num_merges: at most.

    Returns:
        A ``transformers.CLIPTokenizer``; end and padding are one token, as in CLIP.

    Raises:
        InputError: without captions, or where the longest does not fit.
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
    # the trainer counts the alphabet of the texts twice, within words and at their end
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + num_merges,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        # numbered first: the trainer numbers ends of words as a hash map has them, and ties between merges go by number
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
    """A ``transformers.CLIPModel`` of less than a million parameters, with random weights of torch's global seed.

    Args:
        tokenizer: of :func:`make_tokenizer`.
        image_size: side of its images in pixels.
        patch_size: side of a patch in pixels; it divides ``image_size``.
        hidden_size: width of both towers.
        num_layers: of both towers.
        num_heads: of both towers; it divides ``hidden_size``.
        projection_dim: number of features.

    Raises:
        InputError: for sizes that do not divide.
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


def save_clip(model: nn.Module, tokenizer: Any, folder: str | os.PathLike) -> Path:
    """Write a CLIP in the ordinary layout: configuration, weights, tokenizer and ``preprocessor_config.json``.

    The folder appears whole or not at all.

    Args:
        model: a ``transformers.CLIPModel``.
        tokenizer: its tokenizer.
        folder: new, or empty.

    Raises:
        InputError: for a folder that holds something already.
    """
    transformers = require("transformers", PURPOSE)
    folder = check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quiet():
            model.save_pretrained(temporary)  # type: ignore[operator]
            tokenizer.save_pretrained(temporary)
            _processor(transformers, model).save_pretrained(temporary)
        index = FileIndex(temporary, FILES)
        for path in sorted(temporary.iterdir()):
            index.add(path.name, path, file_digest(path))
        temporary.chmod(0o755)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_free(folder: str | os.PathLike) -> Path:
    """The folder, which is not there or is empty; otherwise an :class:`InputError`."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty; choose another folder, or move it away")
    return folder


def _processor(transformers: Any, model: Any) -> Any:
    side = model.config.vision_config.image_size
    # [-1, 1] as the diffusion networks have it; without torchvision this class is the one of Pillow
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
