"""What every run has in common: its start, its checks, and the summary it ends with."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from medi_monai import __version__
from medi_monai.cohort import Cohort, default_cohort_dir
from medi_monai.cohort.demo import demo_schema
from medi_monai.cohort.folder import holds_cohort
from medi_monai.engines.settings import is_command_line
from medi_monai.schema import CategoricalColumn, MetadataSchema
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import load_tensors, read_json, writable_dir, write_json
from medi_monai.utils.seeding import generator_from
from medi_monai.utils.workers import claim_folders, let_go

__all__ = [
    "MODEL_FILES",
    "begin_run",
    "build_schema",
    "finish_run",
    "load_network",
    "load_schema",
    "load_settings",
    "save_settings",
    "set_aside",
    "trained_cohort_dir",
    "training_cohort",
    "validation_cohort",
]

#: what a training leaves beside its checkpoints: averaged weights, how they were trained, and the vocabulary
MODEL_FILES = ("model.pt", "model.json", "schema.json")
#: in ``model.json``, the cohort as seen from the model
FROM_HERE = "cohort_from_here"
SUMMARY = "summary.json"
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "pandas", "openslide-python")


def begin_run(*folders: str | os.PathLike, seed: int = 0, run: str | None = None) -> None:
    """Make the folders of a run, show that they can be written, and seed the network's first weights.

    All else is seeded by name. A run of the command line keeps others out of its folders until :func:`finish_run` or
    the end of its process.

    Args:
        folders: of the run, that of its summary first.
        seed: of the weights.
        run: what its summary will be called.

    Raises:
        InputError: for a folder that cannot be written, that another run works in, or that holds the results of a run
            of another kind.
    """
    if run is not None:
        _check_kind(Path(folders[0]), run)
    made = [writable_dir(folder) for folder in folders]
    # of the processes that torchrun starts, the first one writes
    if is_command_line(sys.argv) and os.environ.get("RANK", "0") == "0":
        claim_folders(made)
    torch.manual_seed(seed)


def _check_kind(folder: Path, run: str) -> None:
    path = folder / SUMMARY
    found = read_json(path) if path.is_file() else {}
    other = found.get("run", run) if isinstance(found, dict) else "unknown"
    if other != run:
        raise InputError(f"{folder} holds the results of a run of another kind, {other!r}: choose another folder")


def build_schema(
    table: pd.DataFrame, label: str, attributes: Sequence[str], continuous: Sequence[str]
) -> MetadataSchema:
    """:meth:`MetadataSchema.from_table`, with a word on attributes that look like numbers and are taken for names."""
    schema = MetadataSchema.from_table(table, label, attributes, continuous)
    for column in schema.attributes:
        values = column.values if isinstance(column, CategoricalColumn) else ()
        if len(values) > 8 and pd.to_numeric(pd.Series(values), errors="coerce").notna().all():
            print(
                f"{column.name!r} has {len(values)} values, all of them numbers, and is taken for categories; if it is "
                "a quantity, name it in `continuous`",
                flush=True,
            )
    return schema


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
    write_json(Path(output_dir) / SUMMARY, content)
    let_go()
    print(f"{run}: done, the results are in {where}", flush=True)


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
            raise InputError(f"there is no {path} beside the weights; it says how they were trained")
        return dict(defaults)
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold the settings of a training")
    # a folder that was moved as a whole, model and cohort
    beside = Path(ckpt_dir) / content.get(FROM_HERE, ".")
    if not holds_cohort(content.get("cohort_dir") or "") and FROM_HERE in content and holds_cohort(beside):
        content["cohort_dir"] = str(beside.resolve())
    return {**defaults, **content}


def save_settings(ckpt_dir: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Write ``model.json``: how a model was trained, and where its cohort lies as seen from there."""
    place = {}
    if settings.get("cohort_dir"):
        place[FROM_HERE] = os.path.relpath(settings["cohort_dir"], ckpt_dir)
    write_json(Path(ckpt_dir) / "model.json", {**settings, **place})


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
            f"warning: the cohort that the model was trained on is not in {recorded} any more, and {default} takes its "
            "place; --cohort_dir says where it is",
            flush=True,
        )
    return default


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
