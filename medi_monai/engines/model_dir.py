"""What every run has in common: its start, its checks, and the summary it ends with."""

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

#: what a training leaves beside its checkpoints: averaged weights, how they were trained, and the vocabulary
MODEL_FILES = ("model.pt", "model.json", "schema.json")
#: in ``model.json``, the cohort as seen from the model
FROM_HERE = "cohort_from_here"


def load_network(network: nn.Module, path: str | os.PathLike, device: str | torch.device = "cpu") -> nn.Module:
    """Load ``model.pt`` into a network and put it into evaluation mode.

    Args:
        network: built with the schema that lies beside the checkpoint.
        path: the averaged weights that a training wrote.
        device: where to.

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
            f"the weights in {path} do not fit the network: {' '.join(str(error).split())[:300]}. Give the channels "
            "and the conditioning of the training, and the schema.json that lies beside the weights."
        ) from error
    return network.to(device).eval()


def load_schema(ckpt_dir: str | os.PathLike) -> MetadataSchema:
    """The schema beside a model; where there is no model yet, the demo cohort's, so that the network can be built."""
    if not (Path(ckpt_dir) / "model.pt").is_file() and not (Path(ckpt_dir) / "schema.json").is_file():
        return demo_schema()
    return MetadataSchema.load(Path(ckpt_dir) / "schema.json")


def load_settings(ckpt_dir: str | os.PathLike, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """How the model in ``ckpt_dir`` was trained (``model.json``); where there is no model yet, the defaults.

    Raises:
        InputError: for weights without a readable ``model.json``: guessing would give wrong images in silence.
    """
    path = Path(ckpt_dir) / "model.json"
    if not path.is_file():
        if (Path(ckpt_dir) / "model.pt").is_file():
            raise InputError(f"there is no {path} beside the weights, which records how they were trained")
        return dict(defaults)
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold training settings")
    # a folder that was moved as a whole, model and cohort
    beside = Path(ckpt_dir) / content.get(FROM_HERE, ".")
    if not holds_cohort(content.get("cohort_dir") or "") and FROM_HERE in content and holds_cohort(beside):
        content["cohort_dir"] = str(beside.resolve())
    return {**defaults, **content}


def save_settings(ckpt_dir: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Write ``model.json``: how a model was trained, and where its cohort lies as seen from there."""
    cohort_path = {}
    if settings.get("cohort_dir"):
        cohort_path[FROM_HERE] = os.path.relpath(settings["cohort_dir"], ckpt_dir)
    write_json(Path(ckpt_dir) / "model.json", {**settings, **cohort_path})


def trained_cohort_dir(settings: Mapping[str, Any], preparation: Any, bundle_root: str | os.PathLike) -> str:
    """The cohort that a model was trained on, where it still is: its training table says what was unseen.

    Args:
        settings: of the training, as :func:`load_settings` gives them.
        preparation: of the cohort that takes its place; its data set is looked at only then.
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
