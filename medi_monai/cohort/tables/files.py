"""List the files of a data set once per folder, so that a million rows do not need a million look-ups.

Symbolic links are followed, because data sets are often linked into place, except links to a parent folder.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from medi_monai.cohort.demo import DEMO_NAMES
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import escaped, is_text
from medi_monai.utils.written import FILE_LIST

__all__ = [
    "A_FOLDER",
    "FOREIGN",
    "IMAGE_SUFFIXES",
    "Entry",
    "checked_folder",
    "scan_folder",
    "walk_files",
    "inside_paths",
    "local_paths",
    "absent_files",
    "why_absent",
]

#: suffixes of slides, plain images and volumes
IMAGE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm", ".czi", ".zvi"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".jp2", ".nii", ".nii.gz", ".mha", ".nrrd"),
)

#: maximum number of folders that one search opens
MAX_FOLDERS = 200_000

#: maximum depth of nested folders
MAX_DEPTH = 24

#: matches absolute paths of any system, and all paths with a backslash (Windows)
FOREIGN = re.compile(r"[A-Za-z]:[\\/]|[\\/]|[^/]*\\")
LOOP = "a loop of symbolic links"
A_FOLDER = "a folder, not a file"


class Entry(NamedTuple):
    """An entry of a folder.

    ``kind`` is ``file``, ``folder``, or ``other`` for an entry that cannot be used, with the ``problem``; ``linked`` is
    True for a symbolic link.
    """

    name: str
    path: str
    kind: str
    problem: str = ""
    linked: bool = False


def scan_folder(root: str | os.PathLike, folder: str) -> list[Entry]:
    """Return the entries of ``root/folder`` by name, with paths relative to ``root``; empty if it cannot be opened."""
    try:
        with os.scandir(os.path.join(root, folder)) as items:
            entries = [_entry(item, f"{folder}/{item.name}" if folder else item.name, root) for item in items]
    except OSError:
        return []
    return sorted(entries, key=lambda entry: entry.name)


def _entry(item: os.DirEntry, path: str, root: str | os.PathLike) -> Entry:
    if not is_text(item.name):
        return Entry(escaped(item.name), escaped(path), "other", "its name is not UTF-8: rename it")
    # for entries that are not links, the following tests need no system call
    linked = item.is_symlink()
    try:
        if item.is_file():
            return Entry(item.name, path, "file", linked=linked)
        if not item.is_dir():
            return Entry(item.name, path, "other", why_absent(os.path.join(root, path)), linked)
    except OSError:
        return Entry(item.name, path, "other", why_absent(os.path.join(root, path)), linked)
    if linked and _leads_up(item.path):
        return Entry(item.name, path, "other", LOOP, linked)
    return Entry(item.name, path, "folder", linked=linked)


def _leads_up(path: str) -> bool:
    target, here = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
    return os.path.commonpath([target, here]) == target


def why_absent(path: str | os.PathLike) -> str:
    """Return why there is no file at ``path``; the empty string if there is one."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        return "not a valid file name"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return LOOP
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "a broken symbolic link" if os.path.islink(path) else "file not found"
        return f"cannot be opened: {error.strerror}"
    if stat.S_ISREG(mode):
        return ""
    return A_FOLDER if stat.S_ISDIR(mode) else "not a regular file"


def checked_folder(folder: str | os.PathLike, demos: Sequence[str] = DEMO_NAMES) -> Path:
    """Return the folder of a data set as a path, after checking it.

    Args:
        folder: the folder.
        demos: names of demo cohorts that could be given in its place, for the error message.

    Raises:
        InputError: if it is not a folder, or its path is not UTF-8 and can therefore not be written to tables.
    """
    path = Path(folder)
    if not path.is_dir():
        demo = f", nor a demo cohort ({', '.join(demos)})" if str(folder).startswith("demo") else ""
        raise InputError(f"dataset_dir {escaped(str(folder))} is not a folder{demo}")
    if not is_text(str(path.resolve())):
        raise InputError(f"dataset_dir {escaped(str(path.resolve()))}: its path is not UTF-8; rename it")
    return path


def walk_files(
    root: str | os.PathLike, top: str = "", suffixes: Sequence[str] = IMAGE_SUFFIXES, depth: int | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """List the files below ``root/top`` with one of the ``suffixes`` (upper or lower case).

    Hidden files and folders, and folders that contain outputs of runs, are skipped.

    Args:
        root: folder that paths are relative to.
        top: folder to start in, relative to ``root``.
        suffixes: file suffixes in lower case; an empty suffix matches all files.
        depth: number of folder levels to search below ``top``; 0 lists only the files in ``top``; None for no limit.

    Returns:
        Sorted paths relative to ``root``; and ``(path, reason)`` for entries that cannot be used, such as broken links
        and loops of links, and for folders that were not searched because there are too many.
    """
    walk = _Walk(os.fspath(root), tuple(suffixes), depth)
    walk.run(top)
    return sorted(walk.files), sorted(walk.problems)


class _Walk:
    """State of a search: folders still to open, with the identities of their parents, and the files found so far."""

    def __init__(self, root: str, suffixes: tuple[str, ...], depth: int | None) -> None:
        self.root, self.suffixes, self.depth = root, suffixes, depth
        self.files: list[str] = []
        self.problems: list[tuple[str, str]] = []
        self.waiting: list[tuple[str, tuple]] = []
        self.linked: set[tuple[int, int]] = set()

    def run(self, top: str) -> None:
        self.waiting, opened = [(top, ())], 0
        while self.waiting:
            folder, above = self.waiting.pop()
            opened += 1
            if opened > MAX_FOLDERS or len(above) > MAX_DEPTH:
                limit = f"more than {MAX_FOLDERS:,} folders" if opened > MAX_FOLDERS else f"below {MAX_DEPTH} others"
                self.problems.append((folder, f"not searched: {limit}"))
                self.waiting = [] if opened > MAX_FOLDERS else self.waiting
                continue
            inside = (*above, _identity(os.path.join(self.root, folder)))
            entries = scan_folder(self.root, folder)
            if above and any(entry.name == FILE_LIST for entry in entries):
                continue
            for entry in entries:
                if not entry.name.startswith("."):
                    self._take(entry, inside)

    def _take(self, entry: Entry, inside: tuple) -> None:
        if entry.kind == "file":
            if entry.name.lower().endswith(self.suffixes):
                self.files.append(entry.path)
        elif entry.kind == "other":
            self.problems.append((entry.path, entry.problem))
        elif self.depth is not None and len(inside) > self.depth:
            return
        elif not entry.linked:
            self.waiting.append((entry.path, inside))
        else:
            target = _identity(os.path.join(self.root, entry.path))
            if target in inside:
                self.problems.append((entry.path, LOOP))
            elif target not in self.linked:
                # folders that link to each other have infinitely many paths: visit each folder only once through a link
                self.linked.add(target)
                self.waiting.append((entry.path, inside))


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino


def inside_paths(paths: pd.Series, root: str | os.PathLike) -> tuple[pd.Series, pd.Series]:
    """Return the paths in their shortest form relative to ``root``, and which of them are outside of it.

    ``./a.png``, ``b//../a.png`` and the absolute path of ``a.png`` become ``a.png``, so that each file has only one
    name. Paths outside of the root are returned unchanged. Links are not resolved.
    """
    odd = paths.str.contains(r"(?:^|/)\.{0,2}(?:/|$)", regex=True)
    roots = dict.fromkeys((os.path.abspath(root), os.path.realpath(root)))
    short = pd.Series(
        [_inside(path, list(roots)) for path in paths[odd].tolist()], index=paths.index[odd], dtype=object
    )
    leaves = odd.copy()
    leaves[odd] = short.isna()
    shortened = paths.copy()
    shortened[odd & ~leaves] = short.dropna().astype("str")
    return shortened, leaves


def _inside(path: str, roots: list[str]) -> str | None:
    path = posixpath.normpath(path)
    for root in roots:
        if path.startswith(root.rstrip("/") + "/"):
            path = path.removeprefix(root.rstrip("/") + "/")
    return None if path.startswith(("/", "../")) or path in ("..", ".") else path


def local_paths(paths: pd.Series, files: Collection[str]) -> dict[str, str]:
    """Find files by paths of another computer, such as ``D:\\Study\\1.svs`` or ``/mnt/nas/scans/1.svs``.

    Args:
        paths: image paths; paths that exist, and relative paths without ``\\``, are skipped.
        files: paths of the files here, relative to the folder of the data set.

    Returns:
        For each path with a match, the file whose relative path equals the longest end of the path.
    """
    known = set(files)
    local = {}
    for path in paths.unique():
        if not FOREIGN.match(path) or path in known or os.path.exists(path):
            continue
        parts = re.split(r"[\\/]+", path)
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        if (end := next((end for end in ends if end in known), None)) is not None:
            local[path] = end
    return local


def absent_files(paths: pd.Series, root: str | os.PathLike) -> pd.Series:
    """Return why there is no file at ``root/path``, empty if there is one; each folder is listed only once."""
    reasons = pd.Series("", index=paths.index, dtype="str")
    folders = paths.str.replace(r"/?[^/]*$", "", regex=True).unique()
    present = {entry.path for folder in folders for entry in scan_folder(root, folder) if entry.kind == "file"}
    # a Python set tests a million paths in a third of a second; pandas' isin takes ten times as long
    absent = pd.Series([path not in present for path in paths.tolist()], index=paths.index, dtype=bool)
    why = {path: why_absent(os.path.join(root, path)) for path in paths[absent].unique()}
    return reasons.mask(absent, paths[absent].map(why).reindex(paths.index)).astype("str") if why else reasons
