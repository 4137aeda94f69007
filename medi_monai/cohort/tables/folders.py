"""Make a table from the paths of image files, with a pattern such as ``{diagnosis}/{center}/{patient}_*.png``.

A column in braces matches the shortest possible part of the path without ``/``; ``*`` matches any characters except
``/``.
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

#: number of files that an error message lists as examples
EXAMPLES = 3


def is_pattern(path: str) -> bool:
    """Return whether the setting ``table`` is a pattern rather than the path of a table."""
    return "{" in path


def list_folders(root: str | os.PathLike, pattern: str) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Make a table of the images below a folder whose paths match a pattern.

    Args:
        root: folder of the data set.
        pattern: pattern of paths relative to ``root``; the text between columns is matched regardless of case.

    Returns:
        A table of strings, sorted by image: ``image`` (path relative to ``root``) and the columns of the pattern, in
        composed Unicode form (NFC); and ``(path, reason)`` of images that do not match and of broken links.

    Raises:
        InputError: for a pattern without columns, with a column named ``image``, or that no file matches.
    """
    fields = list(dict.fromkeys(pattern_fields(pattern)))
    if "image" in fields:
        raise InputError(f"table = {pattern!r}: the column `image` is the path itself; name the part otherwise")
    fits = re.compile(_regex(pattern), re.IGNORECASE)
    # search for all image suffixes, so that images with another suffix are reported as not matching
    files, strays = walk_files(root, static_folder(pattern), IMAGE_SUFFIXES)
    matches = [(file, fits.fullmatch(file)) for file in files]
    rows = [(file, *(tidy(text) for text in match.groups())) for file, match in matches if match]
    if not rows:
        raise InputError(f"no image in {root} fits table = {pattern!r}; {_examples(files)}")
    others = [(file, f"does not fit {pattern}") for file, match in matches if not match]
    return pd.DataFrame(rows, columns=["image", *fields], dtype="str"), sorted([*strays, *others])


def pattern_values(pattern: str, files: Sequence[str], column: str) -> list[str]:
    """Return the values of one column of a pattern in the paths that match it."""
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
