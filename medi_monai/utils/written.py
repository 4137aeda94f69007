"""The files that runs wrote into a folder: a list that each file is entered in before it gets its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["FILE_LIST", "NOT_LISTED", "differs_from_list", "enter_written", "read_written", "start_list"]

#: in each folder of a run: a line for each file that runs wrote there, its path and its fingerprint, as JSON
FILE_LIST = ".medi_files.jsonl"
#: folders of a cohort whose files have records of their own
NOT_LISTED = ("patches", "features")


def start_list(folder: str | os.PathLike) -> None:
    """From now on, enter the files that are written into a folder, in this and in other processes."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / FILE_LIST, "ab"):
        pass


def enter_written(target: Path, fingerprint: Callable[[], str]) -> None:
    """Enter a file that is about to get its name in the list of the nearest folder that has one, if any.

    Entered before, a run that is killed leaves no file that is not listed. An entry without its file is no error.

    Args:
        target: path that the file will have.
        fingerprint: returns :func:`~medi_monai.utils.files.file_fingerprint` of its content; called if there is a list.
    """
    # the working directory has no parents as long as the path is relative
    target = Path(os.path.abspath(target))
    folder = _listing(target)
    if folder is None or target.relative_to(folder).parts[0] in NOT_LISTED:
        return
    line = json.dumps([target.relative_to(folder).as_posix(), fingerprint()]).encode() + b"\n"
    with open(folder / FILE_LIST, "r+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            # a line that was cut off, as by a full disk, must not spoil this one
            line = line if file.read(1) == b"\n" else b"\n" + line
    with open(folder / FILE_LIST, "ab", buffering=0) as file:
        file.write(line)


def differs_from_list(path: str | os.PathLike, fingerprint: Callable[[], str]) -> bool:
    """Whether the list of the nearest folder that has one names a file, and its content is none that a run wrote."""
    path = Path(os.path.abspath(path))
    folder = _listing(path)
    known = (read_written(folder) or {}).get(path.relative_to(folder).as_posix()) if folder else None
    return known is not None and fingerprint() not in known


def _listing(path: Path) -> Path | None:
    return next((outer for outer in path.parents if (outer / FILE_LIST).is_file()), None)


def read_written(folder: str | os.PathLike) -> dict[str, set[str]] | None:
    """Fingerprints that each file in the list of a folder has had; None for a folder without a list.

    Lines that are cut off or damaged count as missing.
    """
    path = Path(folder) / FILE_LIST
    if not path.is_file():
        return None
    written: dict[str, set[str]] = {}
    for line in path.read_bytes().splitlines():
        try:
            name, fingerprint = json.loads(line)
            written.setdefault(str(name), set()).add(str(fingerprint))
        except (ValueError, TypeError):
            continue
    return written
