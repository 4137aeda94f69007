"""The model folder: weights, schema, and the settings of the training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import nn

from medi_monai.cohort import default_cohort_dir
from medi_monai.cohort.demo import demo_schema
from medi_monai.cohort.folder import holds_cohort
from medi_monai.results.training import RECORD
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import (
    atomic_path,
    check_state,
    file_digest,
    load_tensors,
    read_json,
    write_json,
    write_tensors,
)
from medi_monai.utils.records import Document, check_unchanged, parse_document, sealed

__all__ = [
    "FROM_HERE",
    "MODEL_FILES",
    "has_format",
    "load_network",
    "load_schema",
    "load_settings",
    "portable_settings",
    "save_model",
    "save_settings",
    "trained_cohort_dir",
]

#: files that a training writes next to its checkpoints: averaged weights, settings, and schema
MODEL_FILES = ("model.pt", "model.json", "schema.json")
#: entry of ``model.json``: path of the cohort relative to the model
FROM_HERE = "cohort_from_here"
MODEL_RECORD = "model.json"
#: entries of ``model.json`` that are not settings of the training
BOOKKEEPING = ("format", "weights_sha256", "digest")


def load_network(network: nn.Module, path: str | os.PathLike, device: str | torch.device = "cpu") -> nn.Module:
    """Load ``model.pt`` into a network and set it to evaluation mode.

    Args:
        network: network that was built with the schema in the same folder as the weights.
        path: file of averaged weights written by a training.
        device: device to which the network is moved.

    Raises:
        InputError: for a missing or damaged file, or weights that do not fit the schema or the network.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no model at {path}: run `training` first, or give --ckpt_dir of a trained model")
    state = check_state(path, load_tensors(path, _recorded_digests(Path(path))), network.state_dict())
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"the weights in {path} do not fit the network: {' '.join(str(error).split())[:300]}. Use the channels, "
            "the conditioning and the schema.json of the training."
        ) from error
    return network.to(device).eval()


def load_schema(ckpt_dir: str | os.PathLike) -> MetadataSchema:
    """Return the schema in a model folder; without a model, that of the demo cohort, so that a network can be built."""
    if not (Path(ckpt_dir) / "model.pt").is_file() and not (Path(ckpt_dir) / "schema.json").is_file():
        return demo_schema()
    return MetadataSchema.load(Path(ckpt_dir) / "schema.json")


def load_settings(ckpt_dir: str | os.PathLike, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings of a model (``model.json``), or the defaults if there is no model yet.

    Args:
        ckpt_dir: folder of the model.
        defaults: settings to use for those that ``model.json`` does not have.

    Raises:
        InputError: for weights without a readable ``model.json``, since guessed settings would give wrong images.
    """
    path = Path(ckpt_dir) / MODEL_RECORD
    if not path.is_file():
        if (Path(ckpt_dir) / "model.pt").is_file():
            raise InputError(f"there is no {path} beside the weights, which records how they were trained")
        return dict(defaults)
    content = {key: value for key, value in _read_record(path).items() if key not in BOOKKEEPING}
    # if model and cohort were moved together, the relative path is still valid
    beside = Path(ckpt_dir) / (content.get(FROM_HERE) or ".")
    if not holds_cohort(content.get("cohort_dir") or "") and FROM_HERE in content and holds_cohort(beside):
        content["cohort_dir"] = str(beside.resolve())
    return {**defaults, **content}


def has_format(ckpt_dir: str | os.PathLike) -> bool:
    """Return whether ``model.json`` has a format number; records of earlier versions have none."""
    return "format" in _read_record(Path(ckpt_dir) / MODEL_RECORD)


def portable_settings(ckpt_dir: str | os.PathLike) -> dict[str, Any]:
    """Return the content of ``model.json`` for other machines: without the cohort's folder, and with names for paths.

    Raises:
        InputError: for a damaged record, or a model of latents, whose autoencoder is elsewhere.
    """
    content = _read_record(Path(ckpt_dir) / MODEL_RECORD)
    if content.get("autoencoder") is not None:
        raise InputError(f"the model in {ckpt_dir} needs the autoencoder {content['autoencoder']}, which is not packed")
    kept = {key: value for key, value in content.items() if key not in (FROM_HERE, "digest")}
    named = {key: Path(value).name if _is_absolute(value) else value for key, value in kept.items()}
    return sealed({**named, "cohort_dir": None})


def _is_absolute(value: Any) -> bool:
    return isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))


def save_settings(
    ckpt_dir: str | os.PathLike, settings: Mapping[str, Any], digests: Sequence[str] | None = None
) -> None:
    """Write ``model.json``: the training settings, and the path of the cohort relative to the model.

    Args:
        ckpt_dir: folder of the model.
        settings: settings of the training.
        digests: SHA-256 digests of ``model.pt`` that are accepted; by default those of the existing file.
    """
    folder = Path(ckpt_dir)
    digests = _known_digests(folder) if digests is None else digests
    bookkeeping: dict[str, Any] = {"format": ModelRecord.FORMAT, "weights_sha256": list(dict.fromkeys(digests))}
    if settings.get("cohort_dir"):
        bookkeeping[FROM_HERE] = os.path.relpath(settings["cohort_dir"], ckpt_dir)
    write_json(folder / MODEL_RECORD, sealed({**settings, **bookkeeping}))


def save_model(ckpt_dir: str | os.PathLike, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Path:
    """Write ``model.pt``, and ``model.json`` with its digest.

    If the run is killed in between, ``model.json`` accepts the earlier as well as the new weights.

    Args:
        ckpt_dir: folder of the model.
        state: weights of the network.
        settings: settings of the training.

    Returns:
        The path of ``model.pt``.
    """
    model = Path(ckpt_dir) / "model.pt"
    with atomic_path(model) as path:
        digest = write_tensors(path, state)
        save_settings(ckpt_dir, settings, [*_known_digests(model.parent), digest])
    save_settings(ckpt_dir, settings, [digest])
    return model


def _known_digests(folder: Path) -> list[str]:
    model = folder / "model.pt"
    if not model.is_file():
        return []
    recorded = _recorded_digests(model) if (folder / MODEL_RECORD).is_file() else None
    return [file_digest(model)] if recorded is None else recorded


def _recorded_digests(model: Path) -> list[str] | None:
    """Return the digests that ``model.json`` accepts for the weights; None without a record, or for an earlier one."""
    path = model.with_name(MODEL_RECORD)
    record = _read_record(path) if model.name == "model.pt" and path.is_file() else {}
    return record["weights_sha256"] if "format" in record else None


def _read_record(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if isinstance(content, dict) and content and "format" not in content and "weights_sha256" not in content:
        # written by a version before format numbers
        return content
    parse_document(content, ModelRecord, str(path))
    check_unchanged(path)
    return content


class ModelRecord(Document):
    """Content of ``model.json``: digests of the weights and the cohort of the training, with all training settings."""

    model_config = ConfigDict(extra="allow")
    TITLE = "the record of a training"

    weights_sha256: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    cohort_dir: str | None = None
    cohort_from_here: str | None = None


def trained_cohort_dir(settings: Mapping[str, Any], preparation: Any, bundle_root: str | os.PathLike) -> str:
    """Return the folder of the cohort that a model was trained on, or of a default cohort if it no longer exists.

    The training table of this cohort determines which combinations are unseen.

    Args:
        settings: training settings from :func:`load_settings`.
        preparation: preparation of the default cohort; its data set is read only if the default is needed.
        bundle_root: folder of the bundle, as for :func:`medi_monai.cohort.default_cohort_dir`.
    """
    recorded = settings.get("cohort_dir")
    if recorded and holds_cohort(recorded):
        return str(recorded)
    default = default_cohort_dir(preparation, bundle_root)
    # without the cohort, plans are made from the combinations that model.json records
    if recorded and RECORD not in settings:
        print(
            f"warning: the cohort that the model was trained on is no longer in {recorded}; {default} is "
            "used instead. Give its folder with --cohort_dir",
            flush=True,
        )
    return default
