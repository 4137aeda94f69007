"""The settings of a run, checked by name before any work: the command line hands over whatever was typed."""

from __future__ import annotations

import ast
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medi_monai.alignment.functional import DIVERGENCES, ROLLOUTS, SEPARATOR, check_shares
from medi_monai.diffusion import OBJECTIVES, SCHEDULES, SOLVERS
from medi_monai.networks.tuning import TUNED
from medi_monai.utils.checks import KINDS
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest
from medi_monai.utils.run_dir import is_command_line

__all__ = ["check_model", "check_overrides", "check_settings", "check_trained", "flags"]

#: ids that MONAI's command line takes besides those of the config files
COMMAND_LINE = "config_file bundle_root args_file meta_file logging_file tracking run_id init_id final_id workflow_type"


#: settings that are one of a few words
CHOICES: dict[str, tuple[str, ...]] = {
    "objective": OBJECTIVES,
    "schedule": SCHEDULES,
    "solver": tuple(SOLVERS),
    "divergence": DIVERGENCES,
    "rollout": tuple(ROLLOUTS),
    "scope": ("prompt", "batch"),
    "subgroup_loss": ("matching", "transport"),
    "tuned": TUNED,
    "role": ("guide", "validation", "judge"),
    "on_error": ("stop", "skip"),
}
NAMES = {
    "count": "max_steps batch_size accumulation_steps decay_steps log_every val_interval checkpoint_every sample_every "
    "num_validation image_size min_patches_per_label images_per_combination num_steps num_timesteps norm_num_groups "
    "num_head_channels num_folds encoder_batch_size sampling_batch_size max_images min_images num_halves "
    "num_replicates neighbors num_repeats sweep_repeats min_count num_augmented text_steps num_images "
    "classifier_steps classifier_batch_size align_steps align_batch_size draw_batch_size pool_size rank patience "
    "anchor_batch_size image_channels patch_size probe_replicates num_candidates width depth",
    "optional count": "num_workers max_patches_per_slide stride real_per_class last_steps draws max_length "
    "retrain_steps classifier_folds max_parallel_stages",
    "seed": "seed split_seed warmup_steps fold",
    "rate": "learning_rate max_grad_norm ema_width mpp ratio align_learning_rate retrain_learning_rate",
    "weight": "weight_decay guidance_scale subgroup_weight consistency_weight pixel_weight anchor_weight "
    "distillation_weight keep_weight change_weight",
    "fraction": "label_dropout attribute_dropout joint_dropout caption_dropout holdout_fraction min_tissue "
    "stain_jitter min_confidence tolerance",
    "optional fraction": "val_fraction",
    "optional rate": "source_mpp",
    "rates": "c_values sweep_ratios",
    "fractions": "sweep_correlations",
    "names": "demographics baselines attributes continuous subpopulation_columns metadata_columns split_columns "
    "plan_columns",
    "values": "holdout_values",
    "optional strings": "missing",
    "optional mapping": "mapping costs named",
    "shares": "target",
    "optional shares": "resample_to",
    "mapping": "columns arms",
    "table": "table encoder",
    "counts": "channels sweep_real_per_class sweep_num_centers",
    "path": "output_dir ckpt_dir cohort_dir plan sampling_dir aligned_dir classifier_dir reference_dir text_model_dir",
    "optional path": "dataset_dir target_table resample_table",
    "word": "arm label balance objective schedule conditioning solver on_error unit mpp_conflict patch_format backend "
    "split_scheme patch_cache measure audit_source focus normalization fit pad on_long role "
    "scope subgroup_loss divergence rollout tuned",
    "optional word": "attribute",
    "prompts": "prompts",
    "source": "guide validation_classifier judge init_from text_model clip_model alignment generated",
    "switches": "attention_levels",
}
KIND_OF = {name: kind for kind, names in NAMES.items() for name in names.split()}


def check_settings(device: str | torch.device = "cpu", **settings: Any) -> None:
    """Refuse settings of the wrong kind, options that no config knows, and a device that is not there.

    Args:
        device: where to compute.
        settings: by the ids of the bundle's configs; see :data:`NAMES`.

    Raises:
        InputError: naming the first setting that is wrong, what was given, and what it has to be; also for a target
            that cannot be, and a column that is named twice, or is the label and an attribute.
    """
    check_overrides(sys.argv)
    for name, value in settings.items():
        test, words = KINDS[KIND_OF[name]]
        if isinstance(value, str) and value == "null":
            raise InputError(f"{name} = 'null': nothing is written '$None' on the command line, and null in a file")
        if not test(value):
            raise InputError(f"{name} = {value!r}: it has to be {words}")
        if name in CHOICES and value not in CHOICES[name]:
            raise unknown_value(name, value, CHOICES[name])
    if settings.get("target") is not None and settings.get("attribute"):
        check_shares(settings["target"], settings["attribute"].split(SEPARATOR), settings.get("target_table"))
    for name in ("attributes", "metadata_columns"):
        _check_named_once(name, settings.get(name, ()), settings.get("label"))
    if settings.get("decay_steps", math.inf) < settings.get("max_steps", 0):
        raise InputError(f"decay_steps = {settings['decay_steps']} is less than max_steps = {settings['max_steps']}")
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = "cuda (or cuda:0, …) and cpu" if torch.cuda.is_available() else "cpu; PyTorch finds no GPU"
        raise InputError(f"device {str(device)!r} is not here: {known}") from error


def _check_named_once(setting: str, names: Sequence[str], label: str | None) -> None:
    twice = sorted({name for name in names if [label, *names].count(name) > 1})
    if twice:
        reason = "the label is no attribute of its own" if label in twice else "name each column once"
        raise InputError(f"{setting} = {list(names)}: {', '.join(map(repr, twice))} is named twice; {reason}")


def check_model(
    arm: str,
    label: str,
    attributes: Sequence[str],
    subpopulation_columns: Sequence[str],
    metadata_columns: Sequence[str],
    image_size: int,
    channels: Sequence[int],
) -> None:
    """Refuse settings that contradict each other before any patch is cut.

    Raises:
        InputError: for a class-only arm with attributes or another without, subpopulations that do not begin with the
            label, an attribute that is not carried into the cohort, or an image size that the levels of the network
            cannot halve.
    """
    if (arm == "cls") != (not attributes):
        raise InputError(
            f"arm {arm!r} with the attributes {list(attributes)}: `cls` has none, any other arm has some. The overlay "
            "class_only.json has to come last in --config_file"
        )
    if list(subpopulation_columns[:1]) != [label]:
        raise InputError(
            f"subpopulation_columns = {list(subpopulation_columns)}: the label, {label!r}, has to be first"
        )
    for name in (*attributes, *subpopulation_columns[1:]):
        if name not in metadata_columns:
            raise unknown_value("attribute", name, metadata_columns, "Name it in `metadata_columns` as well.")
    factor = 2 ** (len(channels) - 1)
    if image_size % factor:
        raise InputError(f"image_size = {image_size}: a network of {len(channels)} levels needs a multiple of {factor}")


def check_trained(ckpt_dir: str | os.PathLike, trained: Mapping[str, Any], **settings: Any) -> None:
    """Refuse settings that are others than those of the training: a model would draw something else in silence.

    Args:
        ckpt_dir: where the model lies; where there is none, nothing is compared.
        trained: its ``model.json``.
        settings: that decide what its weights mean.

    Raises:
        InputError: naming the first setting that differs.
    """
    if not (Path(ckpt_dir) / "model.json").is_file():
        return
    for name, value in settings.items():
        if name in trained and json_digest(trained[name]) != json_digest(value):
            raise InputError(
                f"{name} = {value!r}: the model in {ckpt_dir} was trained with {trained[name]!r}; leave the option out"
            )


def flags(**values: Any) -> dict[str, bool]:
    """Settings that are on or off: the command line hands over ``true`` as a string, and ``"false"`` would be true.

    Raises:
        InputError: for anything but true and false, in any case.
    """
    known = {"true": True, "false": False}
    for name, value in values.items():
        if str(value).lower() not in known:
            raise InputError(f"{name} = {value!r}: it has to be true or false")
    return {name: known[str(value).lower()] for name, value in values.items()}


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse an option of ``python -m monai.bundle`` that no config file has; MONAI would add it and go on.

    Args:
        arguments: ``sys.argv``; of another program, nothing is checked.
    """
    if not is_command_line(arguments):
        return
    given = [part for argument in arguments[1:] for part in argument.split("=", 1)]
    if "--config_file" not in given:
        return
    value = given[given.index("--config_file") + 1]
    files = ast.literal_eval(value) if value.startswith("[") else [value]
    known = {*ConfigParser.load_config_files(list(files)), *COMMAND_LINE.split()}
    for argument in arguments[1:]:
        name = argument[2:].split("=")[0]
        if argument.startswith("--") and name.replace("::", "#").split("#")[0].lstrip("+") not in known:
            raise unknown_value("option --", name, sorted(known), "Options are the ids of the config files.")
