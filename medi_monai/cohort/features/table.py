"""Features of a cohort that were computed elsewhere, joined to a table of slides, patients or patches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort.features.columns import read_feature_columns
from medi_monai.cohort.features.files import FEATURE_SUFFIXES, SlideFeatures, list_feature_files, read_feature_file
from medi_monai.cohort.features.matching import match_names
from medi_monai.cohort.features.rows import Level, RowKeys, metadata_rows, sole_rows
from medi_monai.utils.errors import InputError
from medi_monai.utils.progress import progress
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import listed, number_in, plural

__all__ = ["POOLINGS", "FeatureCohort", "FeatureSource", "read_feature_cohort"]

#: what the features of patches are averaged over
POOLINGS = ("none", "slides", "patients")


@dataclass(frozen=True)
class FeatureSource:
    """Where features are, and what is taken of them.

    Args:
        path: folder with a file for each slide, or a Parquet table.
        columns: columns of the table that hold the features; see
            :func:`~medi_monai.cohort.features.columns.read_feature_columns`.
        pooling: one of :data:`POOLINGS`: whether each slide or patient is represented by the mean of its patches.
        max_patches: maximum number of patches per slide, drawn at random; None for all. Means are of all patches.
        seed: seed of the draw.
        on_error: ``stop`` raises an error for the first row or file that cannot be used; ``skip`` leaves it out.
    """

    path: Path
    columns: str | None = None
    pooling: str = "none"
    max_patches: int | None = None
    seed: int = 0
    on_error: str = "stop"


@dataclass(frozen=True)
class FeatureCohort:
    """Features with the metadata of their patches, slides or patients.

    Args:
        features: ``(N, D)`` float32, sorted by ``image``.
        table: N rows with ``image`` (a unique name), ``slide``, ``patient``, label and attributes as strings, and
            ``split`` if the table of metadata has a split.
        unit: what a row is: ``patch``, ``slide`` or ``patient``.
        notes: what was left out or matched by a similar name, one sentence each.
    """

    features: np.ndarray
    table: pd.DataFrame
    unit: str
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all features and cells."""
        cells = pd.util.hash_pandas_object(self.table, index=False).to_numpy()
        return hashlib.sha256(self.features.tobytes() + cells.tobytes()).hexdigest()


@dataclass(frozen=True)
class _Part:
    """A file, or what a Parquet table has of a slide or patient: its name, rows of metadata, and features."""

    name: str
    rows: pd.DataFrame
    features: SlideFeatures


def read_feature_cohort(source: FeatureSource, metadata: Mapping[str, Any]) -> FeatureCohort:
    """Read features and their metadata.

    Files are matched to rows by the name of the slide, or of the patient for a table of patients (``slide: null`` in
    ``columns``); see :func:`~medi_monai.cohort.features.matching.match_names`. A table of patches (``x`` and ``y`` in
    ``columns``) is matched by coordinates as well. A Parquet table of features has the same columns as the table of
    metadata; if it is that table, features and metadata are in the same rows.

    Args:
        source: features.
        metadata: ``dataset_dir``, ``table``, ``columns``, ``mapping``, ``missing``, ``label`` and ``attributes``, as
            for :class:`~medi_monai.cohort.ImageTable`.

    Raises:
        InputError: for features or a table that cannot be read, rows without features (unless they are skipped),
            features of different encoders, or patches of a slide that differ in their metadata if they are averaged.
    """
    in_table = source.path.is_file()
    keys = RowKeys.of(metadata, source.path)
    rows, notes = metadata_rows(metadata, keys, source.on_error)
    parts = _of_table(source, keys, rows, notes) if in_table else _of_folder(source, keys, rows, notes)
    features: list[np.ndarray] = []
    tables: list[pd.DataFrame] = []
    encoders: dict[str, str] = {}
    for part in parts:
        taken, about = _taken(part, source)
        if part.features.encoder is not None:
            encoders.setdefault(part.features.encoder, part.name)
        if len(encoders) > 1:
            (one, first), (other, second) = encoders.items()
            raise InputError(
                f"features of {first!r} are from the encoder {one!r} and those of {second!r} from {other!r}: use one "
                "encoder for all"
            )
        if features and taken.shape[1] != features[0].shape[1]:
            raise InputError(
                f"features of {tables[0]['image'].iloc[0]!r} have {features[0].shape[1]:,} dimensions and those of "
                f"{part.name!r} {taken.shape[1]:,}: use one encoder for all"
            )
        features.append(taken)
        tables.append(about)
    if not features:
        raise InputError(f"no row of the table has features in {source.path}")
    values, table = np.concatenate(features), pd.concat(tables, ignore_index=True)
    if source.pooling == "patients":
        values, table = _patient_means(values, table)
    order = np.argsort(table["image"].to_numpy(dtype=str), kind="stable")
    table = table.iloc[order].drop(columns=["row", "x", "y", "weight"], errors="ignore").reset_index(drop=True)
    table = table[["image", *table.columns.drop("image")]]
    return FeatureCohort(values[order], table, _unit(source.pooling, table), tuple(notes))


def _unit(pooling: str, table: pd.DataFrame) -> str:
    if pooling == "patients":
        return "patient"
    return "slide" if pooling == "slides" or not table["slide"].duplicated().any() else "patch"


def _of_folder(source: FeatureSource, keys: RowKeys, rows: pd.DataFrame, notes: list[str]) -> Iterator[_Part]:
    if not source.path.is_dir():
        raise InputError(
            f"feature_source = {str(source.path)!r}: there is no such folder of {', '.join(FEATURE_SUFFIXES)} files, "
            "or Parquet table"
        )
    files = list_feature_files(source.path)
    matches = _matched(list(files), keys, rows, source, notes)
    problems: list[str] = []
    found = [(name, file) for name, of_name in matches.items() for file in of_name]
    by_name = dict(list(rows.groupby(keys.column, sort=False)))
    for name, file in progress(found, len(found), "reading features", "file"):
        try:
            content = read_feature_file(files[file])
            yield from _placed(_Part(file, by_name[name], content), keys, source, notes)
        except InputError as error:
            if source.on_error == "stop":
                raise InputError(f"{error}. To leave such files out: --on_error skip") from None
            problems.append(str(error))
    if problems:
        _note(notes, f"{plural(len(problems), 'file was', 'files were')} left out: {listed(problems, 3)}.")


def _of_table(source: FeatureSource, keys: RowKeys, rows: pd.DataFrame, notes: list[str]) -> Iterator[_Part]:
    values = read_feature_columns(source.path, source.columns)
    if keys.level == Level.ROWS:
        for name, of_slide in rows.groupby(keys.column, sort=True):
            content = SlideFeatures.checked(values[of_slide["row"]], None, f"{source.path}, {name!r}")
            yield _Part(str(name), of_slide, content)
        return
    cells = read_table(source.path, columns=keys.key_columns)
    spellings = cells[keys.key_columns[0]].str.strip()
    matches = _matched(sorted(set(spellings) - {""}), keys, rows, source, notes)
    numbers = {str(spelled): np.asarray(index) for spelled, index in cells.groupby(spellings).groups.items()}
    by_name = dict(list(rows.groupby(keys.column, sort=False)))
    for name, spelled in [(name, spelled) for name, found in matches.items() for spelled in found]:
        at = numbers[spelled]
        coords = _coords(cells.iloc[at], keys.key_columns[1:], source.path) if keys.level == Level.PATCHES else None
        content = SlideFeatures.checked(values[at], coords, f"{source.path}, {spelled!r}")
        yield from _placed(_Part(spelled, by_name[name], content), keys, source, notes)


def _coords(cells: pd.DataFrame, columns: Sequence[str], path: Path) -> np.ndarray:
    numbers = [[number_in(cell) for cell in cells[column]] for column in columns]
    if any(number is None for column in numbers for number in column):
        raise InputError(f"{path}: {' and '.join(map(repr, columns))} should be numbers, the coordinates of patches")
    return np.array(numbers, float).T


def _matched(
    files: Sequence[str], keys: RowKeys, rows: pd.DataFrame, source: FeatureSource, notes: list[str]
) -> dict[str, list[str]]:
    patients = keys.level == Level.PATIENTS
    kind = "patient" if patients else "slide"
    matches = match_names(files, rows[keys.column].unique().tolist(), several=patients)
    if matches.absent:
        text = matches.about_absent(kind, source.path)
        if source.on_error == "stop" or len(matches.absent) == len(matches.files_of):
            skip = "" if len(matches.absent) == len(matches.files_of) else " To leave them out: --on_error skip"
            raise InputError(f"{text}.{skip}")
        _note(notes, f"{text}; they are left out.")
    if matches.strays:
        _note(
            notes,
            f"{plural(len(matches.strays), 'file of features belongs', 'files of features belong')} to no {kind} of "
            f"the table and {'is' if len(matches.strays) == 1 else 'are'} not used: "
            f"{listed(map(repr, matches.strays), 3)}.",
        )
    if matches.inexact:
        file, name = next(iter(matches.inexact.items()))
        counted = plural(len(matches.inexact), "file is matched", "files are matched")
        _note(notes, f"{counted} by the beginning of the name, for example {file!r} to {name!r}.")
    return matches.files_of


def _note(notes: list[str], text: str) -> None:
    notes.append(text)
    print(f"note: {text}", flush=True)


def _placed(part: _Part, keys: RowKeys, source: FeatureSource, notes: list[str]) -> Iterator[_Part]:
    # one row of metadata for each row of features
    rows, content = part.rows, part.features
    if keys.level != Level.PATCHES:
        repeated = rows.iloc[np.zeros(len(content.features), int)]
        # for a table of patients, a file is a slide
        slide = {"slide": part.name} if keys.level == Level.PATIENTS else {}
        yield replace(part, rows=repeated.assign(**slide))
        return
    if content.coords is None:
        raise InputError(f"{part.name!r} has no coords, which a table of patches needs: leave x and y out of `columns`")
    places = {place: number for number, place in enumerate(map(tuple, content.coords.astype(float).tolist()))}
    if len(places) < len(content.coords):
        raise InputError(f"{part.name!r} has several patches with the same coords")
    at = np.array([places.get(place, -1) for place in zip(rows["x"], rows["y"])])
    lost = rows[at < 0]
    if len(lost):
        first = lost.iloc[0]
        text = (
            f"{len(lost):,} of {plural(len(rows), 'patch', 'patches')} of {part.name!r} in the table have no features "
            f"at their coordinates, the first at x {first['x']:g}, y {first['y']:g}"
        )
        if source.on_error == "stop" or len(lost) == len(rows):
            raise InputError(f"{text}: both need level 0 pixels of the upper left corner")
        _note(notes, f"{text}; they are left out.")
    at, rows = at[at >= 0], rows[at >= 0]
    yield replace(part, rows=rows, features=replace(content, features=content.features[at], coords=content.coords[at]))


def _taken(part: _Part, source: FeatureSource) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the features of a part, averaged or at most ``max_patches`` of them, and their metadata."""
    values, rows = part.features.features, part.rows
    if source.pooling != "none":
        about = sole_rows(rows, part.name, "slide").assign(image=part.name, weight=len(values))
        return values.mean(0, dtype=np.float64, keepdims=True).astype(np.float32), about
    chosen = np.arange(len(values))
    if source.max_patches is not None and len(chosen) > source.max_patches:
        rng = np.random.default_rng(seed_from("patches of a slide", source.seed, part.name))
        chosen = np.sort(rng.choice(chosen, source.max_patches, replace=False))
    names = [part.name] if len(values) == 1 else [f"{part.name}#{number}" for number in chosen]
    return values[chosen], rows.iloc[chosen].assign(image=names, weight=1)


def _patient_means(values: np.ndarray, table: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    # means of all patches of a patient, from the means of slides
    means, tables = [], []
    for patient, of_patient in table.groupby("patient", sort=True):
        weights = of_patient["weight"].to_numpy(float)
        means.append(np.average(values[of_patient.index], axis=0, weights=weights))
        about = sole_rows(of_patient, str(patient), "patient")
        tables.append(about.assign(image=patient, slide=patient, weight=1))
    return np.array(means, np.float32), pd.concat(tables, ignore_index=True)


def features_path(path: str | os.PathLike | None) -> Path:
    """Return the path of features as given with ``--feature_source``.

    Raises:
        InputError: if there is none.
    """
    if path is None:
        raise InputError("no features are given: set --feature_source to their folder (.h5, .npz) or Parquet table")
    return Path(path)
