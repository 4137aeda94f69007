"""Folders in place of a table: ``{diagnosis}/{center}/{patient}_*.png``.

Each column in braces is the part of a path that stands there, as short as what follows allows and without ``/``; ``*``
is anything but ``/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import pandas as pd

from medi_monai.cohort.tables.files import IMAGE_SUFFIXES, walk_files
from medi_monai.cohort.tables.patterns import FIELD, pattern_fields, static_folder
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import tidy

__all__ = ["is_pattern", "list_folders", "pattern_values"]

#: files that an error names as examples
EXAMPLES = 3


def is_pattern(path: str) -> bool:
    """Whether ``table`` is a pattern of folders and not the path of a table."""
    return "{" in path


def list_folders(root: str | os.PathLike, pattern: str) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The table that a pattern makes of the files below a folder.

    Args:
        root: the data set's folder.
        pattern: of paths relative to it; case does not count in what stands between the columns.

    Returns:
        A table of strings, ordered by image: ``image`` (path relative to ``root``) and the columns of the pattern, in
        Unicode's composed form. Beside it ``(path, reason)`` of images that do not fit and of broken links.

    Raises:
        InputError: for a pattern without columns or with one called ``image``, or one that no file fits.
    """
    fields = list(dict.fromkeys(pattern_fields(pattern)))
    if "image" in fields:
        raise InputError(f"table = {pattern!r}: the column `image` is the path itself; name the part otherwise")
    fits = re.compile(_regex(pattern), re.IGNORECASE)
    # also images with another suffix, which are listed as files that do not fit
    files, strays = walk_files(root, static_folder(pattern), IMAGE_SUFFIXES)
    matches = [(file, fits.fullmatch(file)) for file in files]
    rows = [(file, *(tidy(text) for text in match.groups())) for file, match in matches if match]
    if not rows:
        raise InputError(f"no image in {root} fits table = {pattern!r}; {_examples(files)}")
    others = [(file, f"does not fit {pattern}") for file, match in matches if not match]
    return pd.DataFrame(rows, columns=["image", *fields], dtype="str"), sorted([*strays, *others])


def pattern_values(pattern: str, files: Sequence[str], column: str) -> list[str]:
    """What a column of a pattern is in each of the paths that fit."""
    place = list(dict.fromkeys(pattern_fields(pattern))).index(column) + 1
    matches = (re.fullmatch(_regex(pattern), file, re.IGNORECASE) for file in files)
    return [tidy(match[place]) for match in matches if match]


def _regex(pattern: str) -> str:
    parts = []
    groups: dict[str, int] = {}
    for index, text in enumerate(FIELD.split(pattern)):
        if index % 2 == 0:
            parts.append(re.escape(text).replace(r"\*", "[^/]*"))
        elif text in groups:
            parts.append(rf"(?:\{groups[text]})")
        else:
            groups[text] = len(groups) + 1
            parts.append("([^/]+?)")
    return "".join(parts)


def _examples(files: list[str]) -> str:
    if not files:
        return "there is no image at all. Check dataset_dir"
    depths = sorted({len(PurePosixPath(file).parts) for file in files})
    shown = ", ".join(repr(file) for file in files[:EXAMPLES])
    return f"there are {len(files):,} images at depth {' and '.join(map(str, depths))}, such as {shown}"
