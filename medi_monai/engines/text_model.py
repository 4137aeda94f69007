"""Text model, schema, initial weights and CLIP features of a text-to-image model."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from medi_monai.cohort import Cohort, StreamedPatchDataset
from medi_monai.engines.clip import ClipTraining, train_clip
from medi_monai.engines.distributed import main_process_first
from medi_monai.networks.encoders import ImageFeatures
from medi_monai.networks.text import CaptionSchema, ClipImageEncoder, ClipModel, load_pretrained_unet, load_text_encoder
from medi_monai.networks.text.small import make_tokenizer, save_clip, small_clip
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import cache_dir, json_digest, read_json
from medi_monai.utils.text import plural
from medi_monai.utils.workers import folder_lock

__all__ = ["clip_features", "initialize_network", "load_caption_schema", "text_model_dir"]

CONFIG = "config.json"
#: record of the captions and images that a small CLIP was trained on
PAIRS = "pairs.json"


def text_model_dir(
    text_model: str | None,
    cohort: Cohort,
    image_size: int,
    folder: str | os.PathLike,
    seed: int,
    max_steps: int,
    on_long: str = "error",
) -> str:
    """Return the given text model, or the folder of a small CLIP, which is trained on the cohort on first use.

    Args:
        text_model: hub id, or folder in the layout of transformers; None for a small CLIP.
        cohort: training rows with captions.
        image_size: side of the images in pixels.
        folder: folder of the small CLIP.
        seed: random seed of its training.
        max_steps: number of steps of its training.
        on_long: what to do with captions that are too long: ``error`` or ``truncate``.

    Raises:
        InputError: if the model in the folder was trained on other captions, or images of another size.
    """
    if text_model is not None:
        return text_model
    captions = cohort.table["caption"].tolist()
    pairs = {"captions": json_digest(captions), "image_size": image_size}
    with main_process_first(), _alone(Path(folder)):
        if not (Path(folder) / CONFIG).is_file():
            images = StreamedPatchDataset(cohort, None, image_size)
            records = {PAIRS: pairs}
            training = ClipTraining(max_steps=max_steps, seed=seed)
            train_clip(images, captions, folder, training, on_long=on_long, records=records)
            print(f"a small CLIP was trained on {plural(len(cohort), 'pair')}: {folder}", flush=True)
        elif (Path(folder) / PAIRS).is_file() and read_json(Path(folder) / PAIRS) != pairs:
            raise InputError(
                f"the small CLIP in {folder} was trained on other captions or on images of another size: give another "
                f"--text_model_dir, or --text_model {folder} to use it anyway"
            )
    return str(folder)


def _alone(folder: Path) -> AbstractContextManager:
    # trainings with different ckpt_dir may share a text model; the first one trains it
    return nullcontext() if (folder / CONFIG).is_file() else folder_lock(folder.parent)


def load_caption_schema(ckpt_dir: str | os.PathLike, text_model: str | None = None) -> CaptionSchema:
    """Return the schema in a model folder; without a model, that of ``text_model`` or of a small untrained CLIP.

    The latter allows the network of a bundle to be built and its shapes to be checked before training.
    """
    path = Path(ckpt_dir) / "schema.json"
    if path.is_file() or (Path(ckpt_dir) / "model.pt").is_file():
        return CaptionSchema.load(path, text_model)
    return CaptionSchema(load_text_encoder(text_model or _untrained()))


def _untrained() -> Path:
    captions = ["FLAIR MR slice of the brain of a woman", "FLAIR MR slice of the brain of a man"]
    folder = cache_dir() / f"untrained_clip_{json_digest(captions)[:8]}"
    with main_process_first():
        if not (folder / CONFIG).is_file():
            tokenizer = make_tokenizer(captions, 16)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                save_clip(small_clip(tokenizer, 32), tokenizer, folder)
    return folder


def initialize_network(network: nn.Module, init_from: str | os.PathLike | None) -> nn.Module:
    """Load initial weights from a checkpoint of this package, MONAI or monai-generative; do nothing for None."""
    if init_from is not None:
        loaded = load_pretrained_unet(network, init_from)
        print(f"initial weights from {init_from}: {loaded}", flush=True)
    return network


def clip_features(model: str, device: str | torch.device) -> ImageFeatures:
    """Return a CLIP's image features as a differentiable function of ``(N, 3, H, W)`` images in [-1, 1]."""
    clip = ClipModel(model).to(device)
    return ImageFeatures(clip.image_features, ClipImageEncoder(clip).describe())
