"""Handle names and values that look the same but differ for a computer.

macOS writes ``ö`` as two characters (NFD), most tables as one (NFC); names copied from an e-mail may end in a space or
contain zero-width characters. Files are found despite such differences; values that differ only in this way are
reported.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from medi_monai.cohort.tables.files import scan_folder
from medi_monai.utils.text import alike, look_alikes, plural

__all__ = ["look_alike_note", "look_alike_notes", "spelled_on_disk"]

#: matches the end that a whole number gets in a column of floats
FLOAT = re.compile(r"(?<=\d)\.0(?!\d)")

#: columns that contain sentences, which are not compared because many are nearly the same
SENTENCES = ("caption",)

#: maximum number of groups of values that a note lists
MAX_GROUPS = 6


class _Folders:
    """File and folder names below a root, grouped by appearance; each folder is listed once."""

    def __init__(self, root: str | os.PathLike) -> None:
        self._root = root
        self._names: dict[str, dict[str, list[str]]] = {}

    def _inside(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            for entry in scan_folder(self._root, folder):
                if entry.kind != "other":
                    names.setdefault(alike(entry.name), []).append(entry.path)
            self._names[folder] = names
        return self._names[folder]

    def matches(self, path: str) -> list[str]:
        """Return the paths that look like ``path``; at each level, an exact match excludes all others."""
        folders = [""]
        for part in path.split("/"):
            paths = []
            for folder in folders:
                candidates = self._inside(folder).get(alike(part), [])
                exact = [name for name in candidates if os.path.basename(name) == part]
                paths += exact or candidates
            folders = paths
        return folders


def spelled_on_disk(paths: pd.Series, root: str | os.PathLike) -> tuple[pd.Series, pd.Series]:
    """Find the files that are meant by paths which do not exist as they are spelled.

    Args:
        paths: paths relative to ``root``, none of which exists.
        root: folder of the data set.

    Returns:
        The path as spelled on disk if exactly one file looks like it, else the path itself; and the reason why no file
        was found, empty if one was.
    """
    folders = _Folders(root)
    spelled, reasons = {}, {}
    for path in paths.unique():
        matches = [match for match in folders.matches(path) if os.path.isfile(os.path.join(root, match))]
        spelled[path] = matches[0] if len(matches) == 1 else path
        reasons[path] = "" if len(matches) == 1 else _why(path, matches, folders)
    return paths.map(spelled).astype("str"), paths.map(reasons).astype("str")


def _why(path: str, matches: list[str], folders: _Folders) -> str:
    if matches:
        shown = ", ".join(map(ascii, matches[:3]))
        return f"file not found; {len(matches)} files have names that look like it: {shown}"
    whole = FLOAT.sub("", path)
    if whole != path and folders.matches(whole):
        return f"file not found, but there is {whole}: an identifier of the table has become a number with .0"
    return "file not found"


def look_alike_notes(values: Mapping[str, pd.Series], rules: Mapping[str, Any] | None) -> list[str]:
    """Return a note for each column with values that differ only in Unicode form, case, spaces or leading zeros.

    Args:
        values: clean columns by name.
        rules: setting ``mapping``; if a column already has a rule, the note proposes an addition to it.
    """
    notes = []
    for name, column in values.items():
        if name in SENTENCES:
            continue
        counts = column[column != ""].value_counts()
        groups = look_alikes(counts.index)
        if groups:
            notes.append(look_alike_note(name, groups, _shown, rules))
    return notes


def look_alike_note(
    name: str, groups: list[list[str]], show: Callable[[str], str] = repr, rules: Mapping[str, Any] | None = None
) -> str:
    """Return a note that a column has values that look alike, with the line of an overlay that merges them.

    Args:
        name: column of the cohort.
        groups: groups of values that look alike.
        show: function that writes a value.
        rules: setting ``mapping``; None if unknown.
    """
    shown = "; ".join(" and ".join(map(show, group)) for group in groups[:MAX_GROUPS])
    more = f"; and {plural(len(groups) - MAX_GROUPS, 'further group')}" if len(groups) > MAX_GROUPS else ""
    return f"{name} has values that look alike: {shown}{more}. {_merge_line(name, groups, rules)}"


def _merge_line(name: str, groups: list[list[str]], rules: Mapping[str, Any] | None = None) -> str:
    """Return a sentence with the line of an overlay that merges each group of values under its first one.

    Args:
        name: column of the cohort.
        groups: groups of values that look alike.
        rules: setting ``mapping``; None if unknown.
    """
    merge = ", ".join(f"{_shown(group[0])}: [{', '.join(map(_shown, group[1:]))}]" for group in groups)
    if rules and name in rules:
        return f"If they are the same, add to the rule of {name!r} in `mapping`: merge: {{{merge}}}"
    return f"If they are the same, merge them in the overlay: mapping: {{{json.dumps(name)}: {{merge: {{{merge}}}}}}}"


def _shown(value: str) -> str:
    # values that can be distinguished only by their code points are written as JSON escapes, which YAML understands
    plain = value.isprintable() and unicodedata.normalize("NFC", value) == value
    return json.dumps(value, ensure_ascii=not plain)
