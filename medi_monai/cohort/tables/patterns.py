"""Image paths given as a pattern of columns: ``slides/*/{slide_submitter_id}.*.svs``.

``{column}`` is replaced by the row's cell. ``*`` matches any characters except ``/``; it is used for parts of a path
that are not in the table, such as the folders and UUIDs of a GDC download.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

import pandas as pd

from medi_monai.utils.errors import InputError
from medi_monai.utils.text import alike

__all__ = ["pattern_fields", "static_folder", "fill_pattern", "match_files"]

#: a column in braces; names may contain dots, as in GDC tables
FIELD = re.compile(r"\{([^{}]*)\}")

#: placeholder for a star in a cell, which is matched literally
LITERAL_STAR = "\ue02a"


def pattern_fields(pattern: str) -> list[str]:
    """Return the columns of a pattern in the order in which they occur.

    Raises:
        InputError: if there are none, or for an unmatched brace.
    """
    fields = FIELD.findall(pattern)
    if not fields or set(FIELD.sub("", pattern)) & set("{}"):
        raise InputError(
            f"the pattern of `image` is {pattern!r}; write columns in braces, such as 'slides/{{name}}.svs'"
        )
    return fields


def static_folder(pattern: str) -> str:
    """Return the fixed leading folder of a pattern, which contains all its paths; empty for the root."""
    return re.split(r"[{*]", pattern)[0].rpartition("/")[0]


def fill_pattern(pattern: str, table: pd.DataFrame) -> pd.Series:
    """Fill the pattern with the cells of each row; stars in cells are marked as literal."""
    filled = pd.Series("", index=table.index, dtype="str")
    for position, text in enumerate(FIELD.split(pattern)):
        cells = table[text].str.replace("*", LITERAL_STAR, regex=False) if position % 2 and "*" in pattern else None
        filled = filled + (cells if cells is not None else table[text] if position % 2 else text)
    return filled


def match_files(patterns: pd.Series, files: Sequence[str]) -> tuple[pd.Series, pd.Series]:
    """Find the one file that matches each filled pattern, or one that differs only in Unicode form, case or spaces.

    Args:
        patterns: filled patterns, from :func:`fill_pattern`.
        files: paths to choose from.

    Returns:
        The matching paths, or the pattern itself if no file or several files match; and the problem of these rows,
        empty for the others.
    """
    matches_of: dict[str, list[str]] = {}
    wanted = patterns.unique().tolist()
    for depth in {pattern.count("/") for pattern in wanted}:
        group = [pattern for pattern in wanted if pattern.count("/") == depth]
        deep = [file for file in files if file.count("/") == depth]
        matches_of.update(_matches(group, deep))
        lost = [pattern for pattern in group if not matches_of[pattern]]
        matches_of.update(_alike_matches(lost, deep) if lost else {})
    problems = {pattern: _problem(pattern, matches) for pattern, matches in matches_of.items()}
    paths = {pattern: matches[0] if len(matches) == 1 else _spelled(pattern) for pattern, matches in matches_of.items()}
    return patterns.map(paths).astype("str"), patterns.map(problems).astype("str")


def _matches(patterns: list[str], files: list[str]) -> dict[str, list[str]]:
    pattern_components = [pattern.split("/") for pattern in patterns]
    file_components = [file.split("/") for file in files]
    choices = [(depth, backwards) for depth in range(len(pattern_components[0])) for backwards in (False, True)]
    # sort files by the folder level, and by its beginning or end, that distinguishes most patterns; then only few files
    # have to be compared with each pattern
    depth, backwards = max(choices, key=lambda item: len(set(_ends(pattern_components, *item))))
    names = [components[depth][::-1] if backwards else components[depth] for components in file_components]
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[number] for number in order]
    matches = {}
    for pattern, end in zip(patterns, _ends(pattern_components, depth, backwards)):
        first, last = bisect.bisect_left(names, end), bisect.bisect_left(names, end + "\U0010ffff")
        fits = re.compile(re.escape(pattern).replace(r"\*", "[^/]*").replace(LITERAL_STAR, r"\*")).fullmatch
        matches[pattern] = sorted(file for file in (files[number] for number in order[first:last]) if fits(file))
    return matches


def _alike_matches(patterns: list[str], files: list[str]) -> dict[str, list[str]]:
    looks: dict[str, list[str]] = {}
    for file in files:
        looks.setdefault(_look(file), []).append(file)
    matches = _matches(list(dict.fromkeys(map(_look, patterns))), list(looks))
    return {pattern: sorted(file for look in matches[_look(pattern)] for file in looks[look]) for pattern in patterns}


def _look(path: str) -> str:
    return "/".join(map(alike, path.split("/")))


def _ends(paths: list[list[str]], depth: int, backwards: bool) -> list[str]:
    texts = [components[depth] for components in paths]
    ends = [text.rpartition("*")[2][::-1] if backwards else text.partition("*")[0] for text in texts]
    return [end.replace(LITERAL_STAR, "*") for end in ends]


def _problem(pattern: str, matches: list[str]) -> str:
    if not matches:
        return f"no file matches {_spelled(pattern)}"
    return "" if len(matches) == 1 else f"{len(matches)} files match {_spelled(pattern)}: {matches[0]}, {matches[1]} …"


def _spelled(pattern: str) -> str:
    return pattern.replace(LITERAL_STAR, "*")
