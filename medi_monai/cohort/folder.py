"""The folder of a prepared cohort: detect it, lock it, check its settings, and list rejected rows and files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.table import TABLE_FILES, Cohort, find_table
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import (
    check_regular,
    is_temporary,
    json_digest,
    read_json,
    writable_dir,
    write_json,
    write_table,
)
from medi_monai.utils.records import check_results, claim_results
from medi_monai.utils.tables import for_spreadsheet, from_spreadsheet
from medi_monai.utils.workers import LOCK_FILES, folder_lock, remove_temporaries
from medi_monai.utils.written import FILE_LIST, start_list

__all__ = [
    "REJECTED_FILE",
    "SETTINGS_FILE",
    "check_given",
    "claimed_folder",
    "holds_cohort",
    "read_rejected",
    "write_rejected",
]

SETTINGS_FILE = "preparation.json"
#: list of rows and files that were not used, with reasons
REJECTED_FILE = "rejected.csv"

#: name of the run's setting for each setting of a preparation that has a different name there
SETTING_OF = {
    "splits.columns": "split_columns",
    "splits.name": "split_scheme",
    "splits.fraction": "holdout_fraction",
    "splits.values": "holdout_values",
    "splits.seed": "split_seed",
    "pixels.percentiles": "intensity_percentiles",
    "pixels.background": "pad",
}


def holds_cohort(folder: str | os.PathLike) -> bool:
    """Return whether ``folder`` contains a cohort table of any origin; ``preparing`` writes its table last."""
    return find_table(folder) is not None


@contextmanager
def claimed_folder(folder: str | os.PathLike, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Lock the folder of a cohort, remove temporary files of a killed run, and yield the folder.

    Waits while another process is preparing in this folder.

    Args:
        folder: folder of the cohort; created if it does not exist.
        settings: settings of the preparation, JSON-compatible; written before the first patch, so that different
            preparations cannot be mixed in one folder.

    Raises:
        InputError: if the folder has a cohort with different settings or other content, or cannot be written.
    """
    root = writable_dir(folder)
    with folder_lock(root) as locked:
        if locked:
            remove_temporaries(root)
            remove_temporaries(root / "patches", depth=1)
        _claim(root, settings)
        yield root


def check_given(cohort: Cohort, rules: Mapping[str, Any], given: Collection[str]) -> None:
    """Check that the settings given by the user agree with those with which an existing cohort was prepared.

    Args:
        cohort: an existing cohort; if it was made elsewhere, only its resolution is known and compared.
        rules: settings of the preparation without those of its source, which may have been moved since.
        given: names of the settings that the user set explicitly.

    Raises:
        InputError: if one of them differs, as it would have no effect.
    """
    path = cohort.root / SETTINGS_FILE
    before = read_json(path) if path.is_file() else _with_mpp(rules, cohort.mpp)
    for key, old, new in _changes(before, rules):
        name = SETTING_OF.get(key, key.rpartition(".")[2])
        if name in given:
            raise InputError(
                f"{name} = {new}: the cohort in {cohort.root} was prepared with {old}. Leave {name} out, or prepare "
                "another cohort with it"
            )


def _with_mpp(rules: Mapping[str, Any], mpp: float | None) -> Mapping[str, Any]:
    cutting = rules.get("cutting")
    if mpp is None or cutting is None:
        return rules
    return {**rules, "cutting": {**cutting, "grid": {**cutting["grid"], "mpp": mpp}}}


def check_new(folder: str | os.PathLike) -> None:
    """Check that a cohort can be prepared in a folder, before any image or table is read; write nothing.

    Raises:
        InputError: if ``folder`` is not a folder, has content but no cohort, or has results that a run must not
            replace.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is not a folder: choose another one for the cohort")
    for name in TABLE_FILES:
        check_regular(root / name)
    if root.is_dir() and not (root / SETTINGS_FILE).is_file():
        names = {path.name for path in root.iterdir() if not is_temporary(path.name)}
        if names - {*LOCK_FILES, FILE_LIST}:
            raise InputError(f"{root} is not empty and does not contain a cohort; choose another --output_dir")
    check_results(root, "preparing")


def write_rejected(root: Path, rows: pd.DataFrame, problem: pd.Series, stray: Sequence[tuple[str, str]]) -> None:
    """Write the list of rows and files that are excluded from a cohort.

    Args:
        root: folder of the cohort.
        rows: rows of the source, with ``image`` and ``slide``.
        problem: for each of ``rows``, the reason why it is excluded; empty if it is used.
        stray: files that no row refers to, each with the reason.
    """
    wrong = problem != ""
    rejected = rows.loc[wrong, ["image", "slide"]].assign(reason=problem[wrong])
    others = pd.DataFrame(stray, columns=["image", "reason"]).assign(slide="")
    write_table(root / REJECTED_FILE, for_spreadsheet(pd.concat([rejected, others])[["image", "slide", "reason"]]))


def read_rejected(folder: str | os.PathLike) -> pd.DataFrame:
    """Read the list written by :func:`write_rejected`: columns image, slide and reason, as strings."""
    return from_spreadsheet(pd.read_csv(Path(folder) / REJECTED_FILE, dtype=str, keep_default_na=False))


def _claim(root: Path, settings: Mapping[str, Any]) -> None:
    path = root / SETTINGS_FILE
    if path.is_file() and json_digest(read_json(path)) != json_digest(settings):
        changed = "; ".join(f"{key}: was {old}, now {new}" for key, old, new in _changes(read_json(path), settings))
        raise InputError(
            f"{root} contains a cohort prepared with different settings ({changed}); choose another --output_dir"
        )
    if not path.is_file():
        try:
            check_new(root)
        except InputError:
            for name in LOCK_FILES:
                (root / name).unlink(missing_ok=True)
            raise
        start_list(root)
        write_json(path, settings)
    claim_results(root, "preparing")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in new:
        if isinstance(new[key], dict) and isinstance(old.get(key), dict):
            yield from _changes(old[key], new[key], f"{prefix}{key}.")
        elif json_digest(old.get(key)) != json_digest(new[key]):
            yield f"{prefix}{key}", old.get(key), new[key]
