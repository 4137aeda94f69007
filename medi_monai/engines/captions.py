"""What the runs of a text-to-image bundle share: its cohort, its text model, its classifiers, its prompts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from medi_monai.alignment import SubgroupTarget, make_target
from medi_monai.cohort import Cohort, StreamedPatchDataset
from medi_monai.cohort.captions import (
    CaptionPreparation,
    CaptionTemplates,
    named_subgroups,
    prepare_captions,
    read_prompts,
)
from medi_monai.cohort.captions.prompts import NEUTRAL
from medi_monai.cohort.table import require_columns
from medi_monai.engines.arms import read_arms
from medi_monai.engines.classifier_accuracy import chance_warnings
from medi_monai.engines.clip_training import train_clip
from medi_monai.engines.distributed import main_process_first
from medi_monai.engines.neutral import joint_attributes
from medi_monai.engines.preparing import audit_run
from medi_monai.engines.runs import finish_run
from medi_monai.networks.classifier import AttributeClassifier, ClassifierEnsemble, load_classifier
from medi_monai.networks.text import CaptionSchema, ClipModel, load_pretrained_unet, load_text_encoder
from medi_monai.networks.text.small import make_tokenizer, save_clip, small_clip
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import cache_dir, json_digest, read_table

__all__ = [
    "attribute_words",
    "captioned_cohort",
    "clip_features",
    "generated_cohort",
    "initialize_network",
    "load_caption_schema",
    "load_readers",
    "named_prompts",
    "naming_cohort",
    "prepare_captions_run",
    "prompt_plan",
    "subgroup_target",
    "text_model_dir",
]

CONFIG = "config.json"
#: prompts of the training captions that name the attribute
NAMED = "named"


def prepare_captions_run(
    preparation: CaptionPreparation,
    output_dir: str | os.PathLike,
    attribute: str,
    on_error: str = "stop",
    num_workers: int | None = None,
) -> Cohort:
    """The run ``preparing`` of captioned images: the cohort, its audit, and ``summary.json``.

    Args:
        preparation: source, size and splits.
        output_dir: the cohort's folder.
        attribute: the sensitive one; the audit looks at its shares.
        on_error: ``stop`` or ``skip``.
        num_workers: threads that read.
    """
    start = time.perf_counter()
    cohort = prepare_captions(preparation, output_dir, on_error, num_workers)
    others = [name for name in preparation.source.metadata if name != attribute]
    audit_run(cohort, attribute, others, output_dir)
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
    text_model: str | None, cohort: Cohort, image_size: int, folder: str | os.PathLike, seed: int, max_steps: int
) -> str:
    """The text model that was given; without one, the folder of a small CLIP, trained on the cohort on first use.

    Args:
        text_model: id on a hub or a folder of transformers; None is the embedded one.
        cohort: rows in training, with captions.
        image_size: side of its images.
        folder: of the embedded model.
        seed: of its training.
        max_steps: of its training.
    """
    if text_model is not None:
        return text_model
    with main_process_first():
        if not (Path(folder) / CONFIG).is_file():
            images = StreamedPatchDataset(cohort, None, image_size)
            train_clip(images, cohort.table["caption"].tolist(), folder, max_steps=max_steps, seed=seed)
            print(f"a small CLIP was trained on {len(cohort):,} pairs: {folder}", flush=True)
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


def prompt_plan(
    prompts: str | Sequence[str],
    num_images: int,
    training: Callable[[], Cohort],
    templates: Any,
    attribute: str,
) -> pd.DataFrame:
    """The prompts to sample.

    Args:
        prompts: a file or a list, as for :func:`medi_monai.cohort.captions.read_prompts`; ``neutral``, made by the
            templates that do not name the attribute; or ``named``, the captions in training that do (of one
            attribute).
        num_images: of all prompts together.
        training: returns the rows in training; called for a word alone.
        templates: of the captions; None where captions were read, not composed.
        attribute: the sensitive one, or several as ``sex|age``.

    Returns:
        ``caption`` and ``count``.

    Raises:
        InputError: as :func:`medi_monai.cohort.captions.read_prompts` and :func:`named_prompts`; also for ``neutral``
            without templates.
    """
    composed = None if templates is None else CaptionTemplates.from_setting(templates)
    attributes = joint_attributes(attribute)
    if prompts == NAMED:
        cohort = training()
        return named_prompts(cohort, attribute_words(cohort, templates, attribute), num_images)
    table = training().table if prompts == NEUTRAL else None
    return read_prompts(prompts, num_images=num_images, table=table, templates=composed, attributes=attributes)


def attribute_words(cohort: Cohort, templates: Any, attribute: str) -> dict[str, tuple[str, ...]]:
    """Value of the attribute to the words that name it in captions: those of the templates, and the value itself."""
    require_columns(cohort.table, [attribute], cohort.root)
    column = cohort.table[attribute]
    values = sorted(set(column[~missing_cells(column)]))
    if templates is None:
        return {value: (value,) for value in values}
    return CaptionTemplates.from_setting(templates).names_of(attribute, values)


def named_prompts(cohort: Cohort, words: Mapping[str, Sequence[str]], num_images: int) -> pd.DataFrame:
    """Prompts of the training captions that name a value of the attribute, with the same count for each value.

    Args:
        cohort: rows in training.
        words: value to the words that name it.
        num_images: of all prompts together.

    Returns:
        ``caption`` and ``count``.

    Raises:
        InputError: where a value is named by no caption, or there are more values than images.
    """
    share = num_images // len(words)
    if share < 1:
        raise InputError(f"num_images = {num_images}: there are {len(words)} values to name, {', '.join(words)}")
    captions = cohort.table["caption"].drop_duplicates().sort_values()
    named = named_subgroups(captions, words)
    plan = []
    for value in words:
        chosen = captions[named == value].tolist()
        if not chosen:
            raise InputError(f"no caption in training names {value!r} (by {list(words[value])}): nothing to ask for")
        # where there are fewer images than captions, those that get one are spread over all
        ends = [place * share // len(chosen) for place in range(len(chosen) + 1)]
        plan += [(caption, end - start) for caption, start, end in zip(chosen, ends, ends[1:]) if end > start]
    return pd.DataFrame(plan, columns=["caption", "count"])


def naming_cohort(cohort: Cohort, templates: Any, attribute: str) -> Cohort | None:
    """The rows in training with a value of the attribute that the caption names (all of ``sex|age``); None without."""
    named = np.ones(len(cohort), bool)
    for name in joint_attributes(attribute):
        words = attribute_words(cohort, templates, name)
        named &= (named_subgroups(cohort.table["caption"], words) != "").to_numpy()
        named &= ~missing_cells(cohort.table[name])
    if not named.any():
        print(
            f"no caption in training names {attribute!r}: the anchor keeps to all images, and so to their shares, and "
            "there is nothing to distill"
        )
        return None
    return Cohort(cohort.table[named].reset_index(drop=True), cohort.root)


def generated_cohort(folder: str | os.PathLike, cohort: Cohort, templates: Any, attribute: str) -> Cohort:
    """Images sampled for prompts that name the attribute, labeled by what was asked for.

    Args:
        folder: the ``output_dir`` of a sampling.
        cohort: rows in training.
        templates: of the captions.
        attribute: the sensitive one.

    Raises:
        InputError: where no prompt names it.
    """
    made = read_arms({"generated": folder}, ["caption"])["generated"]
    named = named_subgroups(made.table["caption"], attribute_words(cohort, templates, attribute))
    table = made.table.assign(**{attribute: named})[(named != "").to_numpy()]
    if table.empty:
        raise InputError(f"no prompt of the images in {folder} names {attribute!r}; sample with --prompts named")
    return Cohort(table.reset_index(drop=True), made.root)


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
        InputError: for a classifier without the attribute, or where two of them are the same, also as a member of an
            ensemble.
    """
    found: dict[str, AttributeClassifier] = {}
    for name, spec in (("guide", guide), ("validation", validation), ("judge", judge)):
        if spec is None:
            continue
        reader = load_classifier(spec, device)
        for one in joint_attributes(attribute):
            reader.column(one)
        for other, earlier in found.items():
            if any(part in _parts(earlier) for part in _parts(reader)):
                raise InputError(
                    f"the {name} classifier is the {other}, or a part of it: what it says of the result would be "
                    "worthless. Train another one, on other patients and with another seed"
                )
        found[name] = reader
        _warn_at_chance(name, reader, attribute)
    return found


def _parts(reader: AttributeClassifier) -> list[dict[str, Any]]:
    """The classifiers that an ensemble is made of; one by itself is its own part."""
    if not isinstance(reader, ClassifierEnsemble):
        return [reader.describe()]
    return [part for member in reader.members if isinstance(member, AttributeClassifier) for part in _parts(member)]


def _warn_at_chance(name: str, reader: AttributeClassifier, attribute: str) -> None:
    measured = {key: value for key, value in reader.held_out.items() if key in joint_attributes(attribute)}
    for sentence in chance_warnings(measured):
        print(f"warning: the {name} classifier: {sentence}", flush=True)


def subgroup_target(
    target: Any, guide: AttributeClassifier, attribute: str, table: str | os.PathLike | None = None
) -> SubgroupTarget:
    """The shares wanted of an attribute; see :func:`medi_monai.alignment.make_target`.

    Args:
        target: ``uniform``, ``table``, or a mapping of values to shares.
        guide: knows the values.
        attribute: the sensitive one, or several as ``sex|age`` for their joint.
        table: path of a reference table, for ``table``.
    """
    rows = None if table is None else read_table(table)
    return make_target(target, guide.attributes, rows, names=joint_attributes(attribute))
