"""Sets of images to compare in evaluation and probing: the real cohort, and the sampled images of each arm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.cohort.plans import held_out_combinations
from medi_monai.cohort.table import require_columns
from medi_monai.results import Finding, typed
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json
from medi_monai.utils.records import check_unchanged, foreign_files, was_changed
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import listed, plural

__all__ = [
    "MANIFEST",
    "RESAMPLING",
    "SETTINGS_FILE",
    "TAR",
    "SampledImages",
    "check_arms",
    "known_rows",
    "read_arms",
    "settings_that_differ",
]

#: file with the settings of a sampling, next to its manifest
SETTINGS_FILE = "sampling.json"
#: columns of the manifest besides the identity of an image
MANIFEST = ("seed", "guidance_scale", "num_steps", "solver", "checkpoint")
#: column of the manifest with the tar file that contains the image
TAR = "tar"
#: id of the run that selects among sampled images
RESAMPLING = "resampling"

#: settings that necessarily differ between arms and are not compared
OWN = ("checkpoint", "schema")


@dataclass(frozen=True)
class SampledImages(Cohort):
    """Images of an arm, read from the manifest of a sampling run, or of a selection among its images."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the sampling run; empty if the folder does not contain them, as after a selection."""
        return {name: value for name, value in _content(self.root / SETTINGS_FILE).items() if name != RECORD}

    @cached_property
    def trained_on(self) -> TrainingRecord | None:
        """Record of what the model was trained on; None if the folder does not contain it."""
        path = self.root / SETTINGS_FILE
        record = _content(path).get(RECORD)
        return None if record is None else typed(TrainingRecord, record, f"{RECORD} in {path}")

    @cached_property
    def selection(self) -> dict[str, int] | None:
        """Number of selected images (``images``) and of candidates (``of``); None if there was no selection."""
        summary = _content(self.root / "summary.json")
        return (
            {key: int(summary["made"][key]) for key in ("images", "of")} if summary.get("run") == RESAMPLING else None
        )


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = read_json(path)
    check_unchanged(path)
    return content


def read_arms(
    arms: Mapping[str, str | os.PathLike], columns: Sequence[str], reserved: Sequence[str] = ()
) -> dict[str, SampledImages]:
    """Read the manifests of sampling runs as tables of images.

    Args:
        arms: for each arm, its name and the ``output_dir`` of its sampling run.
        columns: label and attributes that the manifests must have, with a value in every row.
        reserved: names that arms must not have.

    Raises:
        InputError: if there is no arm, or for a reserved name, what is not a folder, a folder without a manifest,
            images in tar files, an image that is missing or listed twice, a missing column, or an empty cell in one of
            ``columns``.
    """
    if not arms:
        raise InputError("there are no arms to compare: set --arms to a mapping of names to `sampling` folders")
    for name in arms:
        if name in reserved:
            raise InputError(
                f"an arm cannot be named {name!r}, because {', '.join(reserved)} are reserved names: rename it"
            )
    for name, folder in arms.items():
        if not isinstance(folder, (str, os.PathLike)):
            raise InputError(f"arms = {folder!r} for {name!r}: give one folder, the output folder of its sampling")
    return {name: _read_arm(name, Path(folder), columns) for name, folder in arms.items()}


def _read_arm(name: str, root: Path, columns: Sequence[str]) -> SampledImages:
    manifest = root / "manifest.csv"
    if not manifest.is_file():
        # a run such as `resampling` ended there without selecting any image
        hint = " (a run ended there without images: remove the arm)" if (root / "summary.json").is_file() else ""
        raise InputError(
            f"{root} contains no manifest.csv for the arm {name!r}{hint}: run `sampling` with that output "
            "folder first, or set the folders with --arms"
        )
    table = read_table(manifest)
    _name_changes(root, table["image"])
    require_columns(table, ["image", *columns], manifest)
    if TAR in table.columns:
        raise InputError(
            f"the images of the arm {name!r} in {root} are in tar files, which are not read here: repeat the "
            "sampling with --image_format png and the same output folder, which unpacks them"
        )
    _check_rows(table, manifest, columns)
    return SampledImages(table, root)


def _check_rows(table: pd.DataFrame, manifest: Path, columns: Sequence[str]) -> None:
    empty = [column for column in columns if missing_cells(table[column]).any()]
    if empty:
        raise InputError(f"{manifest} does not specify {empty[0]!r} in some rows: sample a plan that names it")
    lacking = [image for image in table["image"] if not (manifest.parent / image).is_file()]
    if lacking:
        raise InputError(f"{plural(len(lacking), 'image')} of {manifest} cannot be found, the first is {lacking[0]}")
    repeated = int(table["image"].duplicated().sum())
    if repeated:
        raise InputError(
            f"{plural(repeated, 'row repeats', 'rows repeat')} an image in {manifest}: list each image once"
        )


def _name_changes(root: Path, images: Sequence[str]) -> None:
    used = {root / image for image in images}
    changed = [path for path in foreign_files(root, "images") if path in used]
    if was_changed(root / "manifest.csv"):
        changed.insert(0, root / "manifest.csv")
    if changed:
        print(
            f"warning: {plural(len(changed), 'file')} in {root} changed after a run wrote them, and are used as they "
            f"are now: {listed(path.relative_to(root) for path in changed)}",
            flush=True,
        )


def check_arms(arms: Mapping[str, SampledImages], cohort: Cohort, columns: Sequence[str]) -> list[Finding]:
    """Check whether arms can be compared fairly on a cohort that holds out combinations, and return findings.

    Args:
        arms: from :func:`read_arms`.
        cohort: the cohort with its split.
        columns: label and attributes that make a combination.

    Returns:
        Warnings for arms whose model was trained on a different cohort, and for arms without images of some
        combinations that the cohort holds out; notes for arms without a record of their training.

    Raises:
        InputError: if a combination that the cohort holds out was in the training data of an arm.
    """
    held_out = held_out_combinations(cohort.table, columns)
    digest = cohort.digest if any(images.trained_on for images in arms.values()) else ""
    findings = [
        finding
        for name, images in arms.items()
        for finding in _findings_of_training(name, images.trained_on, cohort, held_out, columns, digest)
    ]
    by_absent: dict[tuple, list[str]] = {}
    for name, images in arms.items():
        sampled = set(images.table[list(columns)].astype(str).itertuples(index=False, name=None))
        by_absent.setdefault(tuple(key for key in held_out if key not in sampled), []).append(name)
    for absent, names in by_absent.items():
        if absent:
            text = (
                f"{len(absent):,} of {plural(len(held_out), 'combination')} that the cohort holds out have no image in "
                f"{' and '.join(map(repr, names))}: {listed(' · '.join(key) for key in absent)}. Generated images say "
                "nothing about these."
            )
            figures = {"arms": names, "absent": len(absent), "of": len(held_out)}
            findings.append(Finding("warning", text, figures, "held_out_not_sampled"))
    return findings


def _findings_of_training(
    arm: str,
    record: TrainingRecord | None,
    cohort: Cohort,
    held_out: Sequence[tuple[str, ...]],
    columns: Sequence[str],
    digest: str,
) -> Iterator[Finding]:
    trained = record.of_columns(columns) if record else None
    if record is None or trained is None:
        text = (
            f"What the model of the arm {arm!r} was trained on is not recorded, so it is not known whether it was "
            "trained on combinations or patients that this cohort holds out."
        )
        yield Finding("note", text, {"arm": arm}, "training_not_recorded")
        return
    seen = [key for key in held_out if key in trained]
    if seen:
        raise InputError(
            f"the model of the arm {arm!r} was trained on {len(seen):,} of {plural(len(held_out), 'combination')} of "
            f"{', '.join(columns)} that the cohort in {cohort.root} holds out, for example {' · '.join(seen[0])}: give "
            "--cohort_dir of the cohort that it was trained on, or train a model on this cohort"
        )
    if record.cohort != digest:
        text = (
            f"The model of the arm {arm!r} was trained on a different cohort than {cohort.root}. It was trained on "
            "none of the combinations that this cohort holds out, but may have been trained on its patients: results "
            "may measure memorization."
        )
        yield Finding("warning", text, {"arm": arm}, "other_cohort")


def known_rows(cohort: Cohort, columns: Sequence[str]) -> Cohort:
    """Select the real images that are in a split and have a known label, attributes and patient; print how many do not.

    Raises:
        InputError: if a column is missing or listed twice, no image is left, or a patient is in several splits.
    """
    repeated = [column for index, column in enumerate(columns) if column in columns[:index]]
    if repeated:
        raise InputError(f"{repeated[0]!r} is named twice: label and attributes must be different columns")
    table = cohort.table
    require_columns(table, [*columns, "patient", "split", "image"], cohort.root)
    kept = (table["split"] != "excluded").to_numpy(dtype=bool)
    known = kept & ~np.any([missing_cells(table[column]) for column in [*columns, "patient"]], axis=0)
    if not known.any():
        raise InputError(f"no image of the cohort in {cohort.root} has a value in all of {list(columns)} and a patient")
    _check_patients(table[known])
    left_out = int((kept & ~known).sum())
    if left_out:
        print(
            f"{plural(left_out, 'image is', 'images are')} excluded: no patient, or no value of {list(columns)}",
            flush=True,
        )
    return Cohort(table[known].reset_index(drop=True), cohort.root)


def _check_patients(table: pd.DataFrame) -> None:
    # a generative model may memorize its training patients, so they must not be among the images it is compared with
    splits_of = table[["patient", "split"]].drop_duplicates().groupby("patient")["split"].agg(["size", "first", "last"])
    shared = splits_of[splits_of["size"] > 1]
    if len(shared):
        first = shared.iloc[0]
        raise InputError(
            f"{plural(len(shared), 'patient is', 'patients are')} in several splits, the first, {shared.index[0]}, "
            f"in {first['first']!r} and {first['last']!r}: results would measure memorization. Split the cohort by "
            "patient."
        )


def settings_that_differ(arms: Mapping[str, SampledImages]) -> dict[str, dict[str, Any]]:
    """Return the sampling settings, and the number of images, that differ between arms: name, then value by arm."""
    recipes = {}
    for name, arm in arms.items():
        recipes[name] = {key: value for key, value in arm.settings.items() if key not in OWN}
        recipes[name]["images"] = len(arm)
    keys = sorted({key for recipe in recipes.values() for key in recipe})
    values = {key: {name: recipe.get(key) for name, recipe in recipes.items()} for key in keys}
    return {key: by_arm for key, by_arm in values.items() if len({repr(value) for value in by_arm.values()}) > 1}
