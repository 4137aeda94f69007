"""The model folder: weights, schema, and the settings of the training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medi_monai.cohort import default_cohort_dir
from medi_monai.cohort.demo import demo_schema
from medi_monai.cohort.folder import holds_cohort
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import load_tensors, read_json, write_json

__all__ = ["MODEL_FILES", "load_network", "load_schema", "load_settings", "save_settings", "trained_cohort_dir"]

#: files that a training writes next to its checkpoints: averaged weights, settings, and schema
MODEL_FILES = ("model.pt", "model.json", "schema.json")
#: entry of ``model.json``: path of the cohort relative to the model
FROM_HERE = "cohort_from_here"


def load_network(network: nn.Module, path: str | os.PathLike, device: str | torch.device = "cpu") -> nn.Module:
    """Load ``model.pt`` into a network and set it to evaluation mode.

    Args:
        network: built with the schema in the same folder as the weights.
        path: averaged weights written by a training.
        device: device to load to.

    Raises:
        InputError: for a missing or damaged file, or weights that do not fit the schema or the network.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no model at {path}: run `training` first, or give --ckpt_dir of a trained model")
    state = load_tensors(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"the weights in {path} do not fit the network: {' '.join(str(error).split())[:300]}. Use the channels, "
            "the conditioning and the schema.json of the training."
        ) from error
    return network.to(device).eval()


def load_schema(ckpt_dir: str | os.PathLike) -> MetadataSchema:
    """The schema in a model folder; without a model, the demo cohort's, which allows the network to be built."""
    if not (Path(ckpt_dir) / "model.pt").is_file() and not (Path(ckpt_dir) / "schema.json").is_file():
        return demo_schema()
    return MetadataSchema.load(Path(ckpt_dir) / "schema.json")


def load_settings(ckpt_dir: str | os.PathLike, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Training settings of the model in ``ckpt_dir`` (``model.json``), or the defaults if there is no model yet.

    Raises:
        InputError: for weights without a readable ``model.json``, since guessed settings would give wrong images.
    """
    path = Path(ckpt_dir) / "model.json"
    if not path.is_file():
        if (Path(ckpt_dir) / "model.pt").is_file():
            raise InputError(f"there is no {path} beside the weights, which records how they were trained")
        return dict(defaults)
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold training settings")
    # if model and cohort were moved together, the relative path is still valid
    beside = Path(ckpt_dir) / content.get(FROM_HERE, ".")
    if not holds_cohort(content.get("cohort_dir") or "") and FROM_HERE in content and holds_cohort(beside):
        content["cohort_dir"] = str(beside.resolve())
    return {**defaults, **content}


def save_settings(ckpt_dir: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Write ``model.json``: the training settings, and the path of the cohort relative to the model."""
    cohort_path = {}
    if settings.get("cohort_dir"):
        cohort_path[FROM_HERE] = os.path.relpath(settings["cohort_dir"], ckpt_dir)
    write_json(Path(ckpt_dir) / "model.json", {**settings, **cohort_path})


def trained_cohort_dir(settings: Mapping[str, Any], preparation: Any, bundle_root: str | os.PathLike) -> str:
    """The cohort that a model was trained on, if it still exists; its training table defines what is unseen.

    Args:
        settings: training settings from :func:`load_settings`.
        preparation: preparation of the cohort to use instead; its data set is read only in that case.
        bundle_root: as for :func:`medi_monai.cohort.default_cohort_dir`.
    """
    recorded = settings.get("cohort_dir")
    if recorded and holds_cohort(recorded):
        return str(recorded)
    default = default_cohort_dir(preparation, bundle_root)
    if recorded:
        print(
            f"warning: the cohort that the model was trained on is no longer in {recorded}; {default} is "
            "used instead. Give its folder with --cohort_dir",
            flush=True,
        )
    return default
