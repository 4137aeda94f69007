"""List of the files that runs wrote to a folder; each file is entered before it gets its final name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["FILE_LIST", "NOT_LISTED", "differs_from_list", "enter_written", "read_written", "start_list"]

#: name of the list in the folder of a run; each line has the path of a file and its fingerprint, as JSON
FILE_LIST = ".medi_files.jsonl"
#: folders of a cohort whose files have other records
NOT_LISTED = ("patches", "features")


def start_list(folder: str | os.PathLike) -> None:
    """Start the list of a folder: from now on, this and other processes enter the files that they write to it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / FILE_LIST, "ab"):
        pass


def enter_written(target: Path, fingerprint: Callable[[], str]) -> None:
    """Enter a file that is about to get its final name in the list of the nearest parent folder that has one, if any.

    Files are entered in advance, so that a run that is killed leaves no file that is not listed; an entry may therefore
    lack its file.

    Args:
        target: final path of the file.
        fingerprint: function that returns the :func:`~medi_monai.utils.files.file_fingerprint` of the content; called
            only if there is a list.
    """
    # make the path absolute, because a relative one does not have all of its parents
    target = Path(os.path.abspath(target))
    folder = _listing(target)
    if folder is None or target.relative_to(folder).parts[0] in NOT_LISTED:
        return
    line = json.dumps([target.relative_to(folder).as_posix(), fingerprint()]).encode() + b"\n"
    with open(folder / FILE_LIST, "r+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            # begin a new line if the last one was cut off, for example by a full disk
            line = line if file.read(1) == b"\n" else b"\n" + line
    with open(folder / FILE_LIST, "ab", buffering=0) as file:
        file.write(line)


def differs_from_list(path: str | os.PathLike, fingerprint: Callable[[], str]) -> bool:
    """Return whether a file is in the list of the nearest parent folder that has one, but with other content."""
    path = Path(os.path.abspath(path))
    folder = _listing(path)
    known = (read_written(folder) or {}).get(path.relative_to(folder).as_posix()) if folder else None
    return known is not None and fingerprint() not in known


def _listing(path: Path) -> Path | None:
    return next((outer for outer in path.parents if (outer / FILE_LIST).is_file()), None)


def read_written(folder: str | os.PathLike) -> dict[str, set[str]] | None:
    """Return all fingerprints that each file in the list of a folder has had; None for a folder without a list.

    Lines that are cut off or damaged are skipped.
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
