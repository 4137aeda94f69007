"""What every run has in common: its start, its checks, and the summary it ends with."""

from __future__ import annotations

import ast
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.bundle import ConfigParser
from torch import nn

from medi_monai import __version__
from medi_monai.cohort import Cohort, Preparation, prepare
from medi_monai.cohort.demo import demo_schema
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest, load_tensors, read_json, writable_dir, write_json
from medi_monai.utils.seeding import generator_from

__all__ = [
    "MODEL_FILES",
    "begin_run",
    "finish_run",
    "flags",
    "load_network",
    "load_schema",
    "load_settings",
    "prepare_run",
    "set_aside",
    "trained_cohort_dir",
    "training_cohort",
    "validation_cohort",
]

#: what a training leaves beside its checkpoints: averaged weights, how they were trained, and the vocabulary
MODEL_FILES = ("model.pt", "model.json", "schema.json")
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "pandas", "openslide-python")


def begin_run(
    *folders: str | os.PathLike,
    seed: int = 0,
    device: str | torch.device = "cpu",
    numbers: Mapping[str, Any] | None = None,
    **counts: Any,
) -> None:
    """Find the mistakes that can be found before any work.

    Args:
        folders: to be written into; made and tried here.
        seed: of the network's first weights; all else is seeded by name.
        device: has to be there.
        numbers: settings that have to be finite numbers above 0.
        counts: settings that have to be whole numbers of 1 or more.

    Raises:
        InputError: for a bad setting, a folder that cannot be written, a device that is not there, or an override
            that no config knows.
    """
    _check_overrides(sys.argv)
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} = {value!r}: it has to be a whole number of 1 or more")
    if counts.get("decay_steps", counts.get("max_steps", 1)) < counts.get("max_steps", 1):
        raise InputError(f"decay_steps = {counts['decay_steps']} is less than max_steps = {counts['max_steps']}")
    if not isinstance(seed, int):
        raise InputError(f"seed = {seed!r}: it has to be a whole number")
    for name, value in (numbers or {}).items():
        if isinstance(value, (bool, str)) or not 0 < value < math.inf:
            raise InputError(f"{name} = {value!r}: it has to be a number above 0")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = "cuda (or cuda:0, …) and cpu" if torch.cuda.is_available() else "cpu; PyTorch finds no GPU"
        raise InputError(f"device {str(device)!r} is not here: {known}") from error
    for folder in folders:
        writable_dir(folder)
    torch.manual_seed(seed)


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


def finish_run(
    run: str,
    output_dir: str | os.PathLike,
    made: Mapping[str, Any],
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    digests: Mapping[str, str],
    where: str | os.PathLike,
) -> None:
    """Write ``summary.json`` and print the one line that says where the results are.

    Args:
        run: the run id.
        output_dir: the run's folder.
        made: files and counts.
        figures: what was measured; undefined is ``None``.
        settings: as resolved.
        digests: SHA-256 of models, schemas and tables.
        where: the path to print.
    """
    content = {
        "run": run,
        "made": dict(made),
        "figures": dict(figures),
        "settings": dict(settings),
        "digests": dict(digests),
        "versions": {"medi_monai": __version__, "python": platform.python_version(), **_versions()},
    }
    write_json(Path(output_dir) / "summary.json", content)
    print(f"{run}: done, the results are in {where}", flush=True)


def prepare_run(
    preparation: Preparation, output_dir: str | os.PathLike, on_error: str = "stop", num_workers: int | None = None
) -> Cohort:
    """:func:`medi_monai.cohort.prepare` with a summary; arguments as there."""
    cohort = prepare(preparation, output_dir, on_error, num_workers)
    table = cohort.table
    finish_run(
        "preparing",
        output_dir,
        made={
            "patches": len(table),
            "slides": int(table["slide"].nunique()),
            "patients": int(table["patient"].nunique()),
            "rejected": len(pd.read_csv(cohort.root / "rejected.csv")),
        },
        figures={f"patches_{name}": int(count) for name, count in table["split"].value_counts().items()},
        settings=preparation.settings(),
        digests={"cohort.csv": file_digest(cohort.root / "cohort.csv")},
        where=cohort.root / "cohort.csv",
    )
    return cohort


def set_aside(folder: str | os.PathLike, paths: Iterable[Path]) -> None:
    """Move what an earlier run left into ``earlier-<n>`` beside it, so that nothing existing is lost."""
    existing = [path for path in paths if path.exists()]
    if not existing:
        return
    number = 1
    while (target := Path(folder) / f"earlier-{number}").exists():
        number += 1
    target.mkdir()
    for path in existing:
        path.rename(target / path.name)
    print(f"results of an earlier run were moved to {target}", flush=True)


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
    except RuntimeError as error:
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
    """How the model in ``ckpt_dir`` was trained (``model.json``), over defaults for what it does not say."""
    path = Path(ckpt_dir) / "model.json"
    return {**defaults, **(read_json(path) if path.is_file() else {})}


def trained_cohort_dir(settings: Mapping[str, Any], default: str | os.PathLike) -> str:
    """The cohort that a model was trained on, where it still is: its training table says what was unseen."""
    recorded = settings.get("cohort_dir")
    there = recorded and any((Path(recorded) / name).is_file() for name in ("cohort.csv", "cohort.parquet"))
    return str(recorded if there else default)


def training_cohort(cohort: Cohort, label: str, min_patches_per_label: int = 2) -> Cohort:
    """The patches in training, after a look at whether every label has enough of them.

    Raises:
        InputError: if a label has fewer than ``min_patches_per_label`` patches.
    """
    rows = cohort.split("train")
    if label not in rows.table.columns:
        raise unknown_value("label", label, rows.table.columns, "It is a column of the cohort table.")
    counts = rows.table[label].value_counts()
    rare = counts[counts < min_patches_per_label]
    if len(rare):
        named = ", ".join(f"{name!r} ({count})" for name, count in rare.items())
        raise InputError(
            f"labels with fewer than {min_patches_per_label} patches in training: {named}. Class-balanced sampling "
            "would repeat them without end: remove or merge them, or allow it with --min_patches_per_label 1"
        )
    return rows


def validation_cohort(cohort: Cohort, training: Cohort, num_patches: int, seed: int) -> Cohort:
    """A fixed choice of validation patches: of other patients where the split has them, else of those in training."""
    rows = cohort.split("val")
    if len(rows) == 0:
        print("the split has no validation patients: the validation loss is taken on training patches", flush=True)
        rows = training
    chosen = torch.randperm(len(rows), generator=generator_from("validation", seed))[:num_patches].sort().values
    return Cohort(rows.table.iloc[chosen.tolist()].reset_index(drop=True), rows.root)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _check_overrides(arguments: Sequence[str]) -> None:
    # MONAI takes a misspelled --max_step for a new entry of the config, and trains with the default
    if Path(arguments[0]).parts[-2:] != ("bundle", "__main__.py") or "--config_file" not in arguments:
        return
    value = arguments[list(arguments).index("--config_file") + 1]
    files = ast.literal_eval(value) if value.startswith("[") else [value]
    known = set(ConfigParser.load_config_files(list(files))) | {"config_file", "bundle_root", "args_file", "meta_file"}
    known |= {"logging_file", "tracking", "init_id", "final_id", "workflow_type", "run_id"}
    for argument in arguments[1:]:
        name = argument[2:].split("=")[0]
        if argument.startswith("--") and name.replace("::", "#").split("#")[0].lstrip("+") not in known:
            raise unknown_value("option --", name, sorted(known), "Options are the ids of the config files.")
