"""Load models and tokenizers with transformers, by id or from a folder, with actionable errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import all_finite
from medi_monai.utils.optional import require
from medi_monai.utils.records import FileIndex

__all__ = [
    "CLIP_TYPES",
    "is_local",
    "load_clip",
    "load_config",
    "load_processing",
    "load_text_tower",
    "load_tokenizer",
    "quiet",
]

#: ``model_type`` of models with an image tower and a text tower that project into a common space
CLIP_TYPES = ("clip", "vision-text-dual-encoder")
#: files of a tokenizer; a folder has at least one of them
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
#: ``name`` or ``owner/name``, the form of ids on the hub
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
#: file in the folder of a model that this package wrote: digests of the other files
FILES = "medi_files.json"
LAYOUT = "a folder with config.json, model.safetensors and the files of the tokenizer"


def is_local(model: str | os.PathLike) -> bool:
    """Return whether ``model`` is a path, for which the hub is not accessed, rather than an id on a hub."""
    text = os.fspath(model)
    if isinstance(model, os.PathLike) or os.path.exists(os.path.expanduser(text)) or not HUB_ID.fullmatch(text):
        return True
    # `work/clip` has the form of an id; it is treated as a path if there is a folder `work`
    owner, slash, _ = text.partition("/")
    return bool(slash) and Path(owner).is_dir()


def load_config(model: str | os.PathLike) -> Any:
    """Load the configuration of a model.

    Raises:
        InputError: if transformers is missing, for a folder that does not exist or contains no model, or for an id that
            is not in the cache and cannot be downloaded.
    """
    transformers = require("transformers", f"for the text model {os.fspath(model)}")
    if is_local(model):
        _check_folder(Path(os.path.expanduser(model)))
    return _read("configuration", model, transformers.AutoConfig.from_pretrained)


def load_tokenizer(model: str | os.PathLike) -> Any:
    """Load the tokenizer of a model.

    Raises:
        InputError: for a folder without a tokenizer, or a tokenizer without a padding token.
    """
    transformers = require("transformers", f"for the tokenizer of {os.fspath(model)}")
    folder = Path(os.path.expanduser(model))
    if is_local(model) and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(
            f"there is no tokenizer in {folder}: none of {', '.join(TOKENIZER_FILES)} exists. Save it there "
            "with the model "
            "(`tokenizer.save_pretrained(folder)`)"
        )
    tokenizer = _read("tokenizer", model, transformers.AutoTokenizer.from_pretrained)
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer of {os.fspath(model)} has no padding token; set its pad_token and save it")
    return tokenizer


def load_text_tower(model: str | os.PathLike) -> tuple[nn.Module, tuple[str, ...]]:
    """Load the text tower of a CLIP model or dual encoder, or a text model such as BERT, in float32.

    Returns:
        The tower, whose output has ``last_hidden_state``, and the names of its weights that the file does not contain:
        heads on top of the token states, which are not used.

    Raises:
        InputError: see :func:`load_config`; also for a model that does not encode text, and for missing or damaged
            weights.
    """
    config = load_config(model)
    transformers = require("transformers", f"for the text model {os.fspath(model)}")
    # this class reads only the text tower from the file of a CLIP model
    loader = transformers.CLIPTextModel if config.model_type == "clip" else transformers.AutoModel
    network, lacking = _weights(model, loader)
    inner = getattr(network, "text_model", None)
    # up to transformers 4, a CLIPTextModel also wraps its tower, but returns its states
    if isinstance(inner, nn.Module) and config.model_type not in ("clip", "clip_text_model"):
        network, lacking = inner, [name.removeprefix("text_model.") for name in lacking]
    if not hasattr(network, "get_input_embeddings") or not hasattr(network.config, "vocab_size"):
        raise InputError(
            f"{os.fspath(model)} is a {config.model_type!r} model, which does not encode text: use a CLIP, a "
            "dual encoder of "
            "vision and text, or a text model such as BERT"
        )
    return network, tuple(lacking)


def load_clip(model: str | os.PathLike) -> nn.Module:
    """Load a complete CLIP model or dual encoder, in float32.

    Raises:
        InputError: see :func:`load_config`; also for a model that is neither, and for missing or damaged weights.
    """
    config = load_config(model)
    if config.model_type not in CLIP_TYPES:
        raise InputError(
            f"{os.fspath(model)} is a {config.model_type!r} model, but one of {', '.join(CLIP_TYPES)} is needed, with "
            "an image tower and a text tower"
        )
    transformers = require("transformers", f"for the model {os.fspath(model)}")
    return _weights(model, transformers.AutoModel)[0]


def load_processing(model: str | os.PathLike) -> dict[str, Any]:
    """Load a model's image preprocessing: the content of its ``preprocessor_config.json``.

    Raises:
        InputError: if the file is missing or cannot be read.
    """
    require("transformers", f"for the model {os.fspath(model)}")
    from transformers.image_processing_base import ImageProcessingMixin

    # read only the settings, because the class of the processor may need torchvision
    return _read("preprocessor_config.json", model, ImageProcessingMixin.get_image_processor_dict)[0]


def _weights(model: str | os.PathLike, loader: Any) -> tuple[nn.Module, list[str]]:
    network, info = _read("weights", model, loader.from_pretrained, dtype="float32", output_loading_info=True)
    lacking = sorted(info["missing_keys"])
    # pooling and prediction heads are not needed here
    needed = [name for name in lacking if not re.search(r"(^|\.)(pooler|cls|lm_head)\.", name)]
    if needed:
        raise InputError(
            f"the weights of {os.fspath(model)} are incomplete: {len(needed)} tensors are missing, such as {needed[0]}."
            " Download them again, or use the model that belongs to the config.json"
        )
    spoiled = next((name for name, value in network.state_dict().items() if not all_finite(value)), None)
    if spoiled is not None:
        raise InputError(f"the weights of {os.fspath(model)} are damaged: {spoiled} is not finite (NaN or infinity)")
    return network, lacking


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"there is no model at {folder}. Give {LAYOUT}, or the id of a model on a hub (owner/name)")
    if (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} has the layout of open_clip, which transformers does not read. Convert it to a "
            "VisionTextDualEncoderModel of transformers and save it with its tokenizer"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"there is no config.json in {folder}. Give {LAYOUT}")
    index = FileIndex(folder, FILES)
    for name in index.read():
        if not index.is_whole(name):
            raise InputError(
                f"{folder / name} is damaged, missing or was replaced: it does not have the SHA-256 in {FILES}. Copy "
                f"the folder again or train the text model again; where you changed it on purpose, remove {FILES}"
            )


def _read(kind: str, model: str | os.PathLike, load: Callable[..., Any], **settings: Any) -> Any:
    local = is_local(model)
    source = os.fspath(Path(os.path.expanduser(model))) if local else os.fspath(model)
    try:
        with quiet():
            return load(source, local_files_only=local or _offline(), **settings)
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if local:
            raise InputError(f"the {kind} in {source} cannot be read ({reason}). Give {LAYOUT}") from error
        raise InputError(
            f"the {kind} of {source!r} is neither in the cache nor can be downloaded ({reason}). Without "
            "network access, or "
            f"with HF_HUB_OFFLINE set, download it elsewhere (`hf download {source}`) and give the path of its folder"
        ) from error


def _offline() -> bool:
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in ("1", "ON", "YES", "TRUE") for value in values)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers: no progress bars, and no reports of weights that are omitted on purpose."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
