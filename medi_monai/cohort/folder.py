"""The folder of a prepared cohort: whether it holds one, and that one process at a time writes into it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from medi_monai.cohort.table import TABLE_FILES
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest, read_json, writable_dir, write_json, write_table
from medi_monai.utils.workers import LOCK_FILES, folder_lock

__all__ = ["REJECTED_FILE", "SETTINGS_FILE", "claimed_folder", "holds_cohort", "read_rejected", "write_rejected"]

SETTINGS_FILE = "preparation.json"
#: rows and files that gave nothing, and why
REJECTED_FILE = "rejected.csv"


def holds_cohort(folder: str | os.PathLike) -> bool:
    """Whether a cohort lies in ``folder``, made by ourselves or by others; its table is what is written last."""
    return any((Path(folder) / name).is_file() for name in TABLE_FILES)


@contextmanager
def claimed_folder(folder: str | os.PathLike, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the folder of a cohort once no other process prepares there: two would spoil each other's patches.

    Args:
        folder: made where it lacks.
        settings: of the preparation, as JSON; written before its first patch, so that no other one mixes its own in.

    Raises:
        InputError: for a folder with a cohort of other settings or with anything else, or one that cannot be written.
    """
    root = writable_dir(folder)
    with folder_lock(root):
        _claim(root, settings)
        yield root


def write_rejected(root: Path, rows: pd.DataFrame, problem: pd.Series, stray: Sequence[tuple[str, str]]) -> None:
    """List what is left out of a cohort.

    Args:
        root: the cohort's folder.
        rows: of the source, with ``image`` and ``slide``.
        problem: of each of ``rows``; empty where it is used.
        stray: files that no row names, each with the reason.
    """
    wrong = problem != ""
    rejected = rows.loc[wrong, ["image", "slide"]].assign(reason=problem[wrong])
    others = pd.DataFrame(stray, columns=["image", "reason"]).assign(slide="")
    write_table(root / REJECTED_FILE, pd.concat([rejected, others])[["image", "slide", "reason"]])


def read_rejected(folder: str | os.PathLike) -> pd.DataFrame:
    """What :func:`write_rejected` wrote: image, slide and reason, as strings."""
    return pd.read_csv(Path(folder) / REJECTED_FILE, dtype=str, keep_default_na=False)


def _claim(root: Path, settings: Mapping[str, Any]) -> None:
    path = root / SETTINGS_FILE
    if path.is_file() and json_digest(read_json(path)) != json_digest(settings):
        changed = _differences(read_json(path), settings)
        raise InputError(
            f"{root} contains a cohort prepared with different settings ({changed}); choose another --output_dir"
        )
    if not path.is_file():
        if {path.name for path in root.iterdir()} - set(LOCK_FILES):
            for name in LOCK_FILES:
                (root / name).unlink(missing_ok=True)
            raise InputError(f"{root} is not empty and does not contain a cohort; choose another --output_dir")
        write_json(path, settings)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    changes = []
    for key in new:
        if isinstance(new[key], dict) and isinstance(old.get(key), dict):
            changes.append(_differences(old[key], new[key], f"{prefix}{key}."))
        elif json_digest(old.get(key)) != json_digest(new[key]):
            changes.append(f"{prefix}{key}: was {old.get(key)}, is {new[key]} now")
    return "; ".join(filter(None, changes))
