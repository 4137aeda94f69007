"""What the runs of a text-to-image bundle share: its cohort, its text model, its classifiers, its target."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from medi_monai.alignment.functional import SubgroupTarget, make_target
from medi_monai.alignment.functional.targets import joint_attributes
from medi_monai.cohort import Cohort, StreamedPatchDataset
from medi_monai.cohort.captions import CaptionPreparation, prepare_captions
from medi_monai.cohort.folder import REJECTED_FILE, read_rejected
from medi_monai.cohort.table import require_columns
from medi_monai.engines.classifiers.accuracy import chance_warnings
from medi_monai.engines.clip import train_clip
from medi_monai.engines.distributed import main_process_first
from medi_monai.networks.classifier import AttributeClassifier, load_classifier
from medi_monai.networks.text import CaptionSchema, ClipModel, load_pretrained_unet, load_text_encoder
from medi_monai.networks.text.small import make_tokenizer, save_clip, small_clip
from medi_monai.runs.preparing import audit_run
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import cache_dir, json_digest, read_json, read_table, write_json
from medi_monai.utils.run_dir import finish_run

__all__ = [
    "captioned_cohort",
    "clip_features",
    "initialize_network",
    "load_caption_schema",
    "load_readers",
    "prepare_captions_run",
    "subgroup_target",
    "text_model_dir",
]

CONFIG = "config.json"
#: what a small CLIP was trained on
PAIRS = "pairs.json"
#: values that are named
SHOWN = 8


def prepare_captions_run(
    preparation: CaptionPreparation,
    output_dir: str | os.PathLike,
    attribute: str | None,
    on_error: str = "stop",
    num_workers: int | None = None,
) -> Cohort:
    """The run ``preparing`` of captioned images: the cohort, its audit, and ``summary.json``.

    Args:
        preparation: source, size and splits.
        output_dir: the cohort's folder.
        attribute: the sensitive one, or several as ``sex|age``; the audit looks at the shares of the first. Without
            one there is no audit.
        on_error: ``stop`` or ``skip``.
        num_workers: threads that read.
    """
    start = time.perf_counter()
    cohort = prepare_captions(preparation, output_dir, on_error, num_workers)
    if attribute is not None:
        first, *more = joint_attributes(attribute)
        others = [name for name in dict.fromkeys([*more, *preparation.source.metadata]) if name != first]
        audit_run(cohort, first, others, output_dir)
        for name in (first, *more):
            print(f"preparing: {name}: {_shares(cohort.table[name])}", flush=True)
    left_out = len(read_rejected(output_dir))
    if left_out:
        print(f"preparing: {left_out:,} rows or files are left out; {REJECTED_FILE} says why", flush=True)
    counts = cohort.table["split"].value_counts()
    finish_run(
        "preparing",
        output_dir,
        made={str(split): int(count) for split, count in counts.items()},
        figures={"images": len(cohort), "seconds": round(time.perf_counter() - start, 2)},
        settings=preparation.settings(),
        digests={"cohort": cohort.digest},
        where=output_dir,
    )
    return cohort


def _shares(column: pd.Series) -> str:
    """The values with their shares, those that lack last."""
    lacking = missing_cells(column)
    counts = column[~lacking].value_counts()
    shown = [f"{value} {count / len(column):.1%}" for value, count in counts.head(SHOWN).items()]
    shown += [f"{len(counts) - SHOWN} further values"] if len(counts) > SHOWN else []
    return ", ".join([*shown, *([f"missing {lacking.mean():.1%}"] if lacking.any() else [])])


def captioned_cohort(cohort: Cohort, split: str = "train") -> Cohort:
    """The captioned rows of a split.

    Raises:
        InputError: for a cohort without captions, or a split without rows.
    """
    require_columns(cohort.table, ["caption"], cohort.root)
    rows = cohort.split(split)
    if len(rows) == 0:
        raise InputError(f"the cohort in {cohort.root} has no image in the split {split!r}")
    return rows


def text_model_dir(
    text_model: str | None,
    cohort: Cohort,
    image_size: int,
    folder: str | os.PathLike,
    seed: int,
    max_steps: int,
    on_long: str = "error",
) -> str:
    """The text model that was given; without one, the folder of a small CLIP, trained on the cohort on first use.

    Args:
        text_model: id on a hub or a folder of transformers; None is the embedded one.
        cohort: rows in training, with captions.
        image_size: side of its images.
        folder: of the embedded model.
        seed: of its training.
        max_steps: of its training.
        on_long: captions of more tokens than CLIP has are an ``error``, or are cut (``truncate``).

    Raises:
        InputError: for a folder with a model that was trained on other captions.
    """
    if text_model is not None:
        return text_model
    captions = cohort.table["caption"].tolist()
    pairs = {"captions": json_digest(captions), "image_size": image_size}
    with main_process_first():
        if not (Path(folder) / CONFIG).is_file():
            images = StreamedPatchDataset(cohort, None, image_size)
            train_clip(images, captions, folder, max_steps=max_steps, seed=seed, on_long=on_long)
            write_json(Path(folder) / PAIRS, pairs)
            print(f"a small CLIP was trained on {len(cohort):,} pairs: {folder}", flush=True)
        elif (Path(folder) / PAIRS).is_file() and read_json(Path(folder) / PAIRS) != pairs:
            raise InputError(
                f"the small CLIP in {folder} was trained on other captions or images of another size: give another "
                f"--text_model_dir, or --text_model {folder} to take it all the same"
            )
    return str(folder)


def load_caption_schema(ckpt_dir: str | os.PathLike, text_model: str | None = None) -> CaptionSchema:
    """The schema beside a model; where there is no model yet, one of a small untrained CLIP.

    So that the network of a bundle can be built, and its shapes looked at, before anything was trained.
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
    """Begin from a checkpoint of ours, of MONAI or of monai-generative; from scratch with None."""
    if init_from is not None:
        found = load_pretrained_unet(network, init_from)
        print(f"the network begins from {init_from}: {found}", flush=True)
    return network


def clip_features(model: str, device: str | torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Image features of a CLIP, differentiable with respect to ``(N, 3, H, W)`` images in [-1, 1]."""
    return ClipModel(model).to(device).image_features


def load_readers(
    guide: Any, validation: Any, judge: Any, attribute: str, device: str | torch.device = "cpu"
) -> dict[str, AttributeClassifier]:
    """Guide, validation classifier and judge, each as :func:`medi_monai.networks.classifier.load_classifier` takes it.

    Args:
        guide: whose gradient tunes the model.
        validation: decides when to stop; None leaves that to the guide.
        judge: written down alone; None for no judge.
        attribute: that all of them have to read; several as ``sex|age``.
        device: where to.

    Raises:
        InputError: for a classifier without the attribute, or where two of them are the same.
    """
    readers: dict[str, AttributeClassifier] = {}
    for name, spec in (("guide", guide), ("validation", validation), ("judge", judge)):
        if spec is None:
            continue
        reader = load_classifier(spec, device)
        for column in joint_attributes(attribute):
            reader.column(column)
        for other, earlier in readers.items():
            if earlier.describe() == reader.describe():
                raise InputError(
                    f"the {name} classifier is the same as the {other}: it cannot check it. Train another one, on "
                    "other patients and with another seed"
                )
        readers[name] = reader
        _warn_at_chance(name, reader, attribute)
    return readers


def _warn_at_chance(name: str, reader: AttributeClassifier, attribute: str) -> None:
    measured = {key: value for key, value in reader.held_out.items() if key in joint_attributes(attribute)}
    for sentence in chance_warnings(measured):
        print(f"warning: the {name} classifier: {sentence}", flush=True)


def subgroup_target(
    target: Any, guide: AttributeClassifier, attribute: str, table: str | os.PathLike | None = None
) -> SubgroupTarget:
    """The shares wanted of an attribute; see :func:`medi_monai.alignment.functional.make_target`.

    Args:
        target: ``uniform``, ``table``, or a mapping of values to shares.
        guide: knows the values.
        attribute: the sensitive one, or several as ``sex|age`` for their joint.
        table: path of a reference table, for ``table``.
    """
    rows = None if table is None else read_table(table)
    return make_target(target, guide.attributes, rows, names=joint_attributes(attribute))
