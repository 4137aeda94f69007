"""Find the pattern of image paths that a column of a table fills."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd

from medi_monai.cohort.tables.files import local_paths
from medi_monai.cohort.tables.patterns import fill_pattern, match_files
from medi_monai.utils.text import alike

__all__ = ["column_pattern"]

#: maximum number of cells of a column to search for in the paths, and of paths to search
CELLS, PATHS = 60, 20_000
#: minimum share of the rows for which a pattern finds a file
ENOUGH = 0.5


def column_pattern(cells: pd.DataFrame, images: Sequence[str], several: bool = False) -> tuple[str, float] | None:
    """Find the column of a table that names the images best, and the pattern of paths that it fills.

    Args:
        cells: the table, with cells as strings.
        images: paths of the images.
        several: whether a row may name several files, as in a table of patients.

    Returns:
        The pattern, and the share of rows for which it matches one file (or more, with ``several``); None if no column
        names the files of at least half of the rows.
    """
    best: tuple[float, int, str] | None = None
    paths_of: dict[str, list[str]] = defaultdict(list)
    for image in images[:PATHS]:
        for token in _tokens(image):
            paths_of[token].append(image)
    known = {alike(image) for image in images}
    cells = cells.apply(lambda values: values.replace(local_paths(values, images)))
    for column in cells.columns:
        pattern = _template_of_column(str(column), cells[column], known, paths_of)
        if pattern is None:
            continue
        share = _share(pattern, cells, images, several)
        # at equal shares, prefer the pattern with fewer stars
        key = (share, -pattern.count("*"), pattern)
        if share >= ENOUGH and (best is None or key[:2] > best[:2]):
            best = key
    return None if best is None else (best[2], best[0])


def _template_of_column(
    column: str, cells: pd.Series, known: set[str], paths_of: Mapping[str, list[str]]
) -> str | None:
    values = [value for value in cells.str.strip().unique() if len(value) > 1 or value.isdigit()]
    if not values or "{" in column or "}" in column:
        return None
    if sum(alike(value) in known for value in values[:CELLS]) > ENOUGH * len(values[:CELLS]):
        return f"{{{column}}}"
    filled = []
    for value in values[:: max(len(values) // CELLS, 1)][:CELLS]:
        paths = paths_of.get(alike(value), [])
        filled += [_template(path, value, column) for path in paths[:4]]
    return _merged([template for template in filled if template])


def _tokens(path: str) -> set[str]:
    tokens = set()
    for component in path.split("/"):
        component = alike(component)
        tokens.add(component)
        # the parts before and after each separator, such as the barcode in "TCGA-….<uuid>.svs"
        signs = [match.start() for match in re.finditer(r"[._\- ]", component)]
        tokens.update(component[:place] for place in signs)
        tokens.update(component[place + 1 :] for place in signs)
    return tokens - {""}


def _template(path: str, value: str, column: str) -> str | None:
    components = path.split("/")
    inside = re.compile(rf"(?<![^\W_]){re.escape(value)}(?![^\W_])", re.IGNORECASE)
    components = [inside.sub(lambda _: f"{{{column}}}", component, count=1) for component in components]
    template = "/".join(components)
    return template if "{" in template else None


def _merged(templates: list[str]) -> str | None:
    if not templates:
        return None
    depth = Counter(template.count("/") for template in templates).most_common(1)[0][0]
    split = [template.split("/") for template in templates if template.count("/") == depth]
    return "/".join(_merged_component([parts[level] for parts in split]) for level in range(depth + 1))


def _merged_component(names: list[str]) -> str:
    if len(set(names)) == 1:
        return names[0]
    fields = {match.group() for name in names for match in [re.search(r"\{[^{}]*\}", name)] if match}
    if len(fields) == 1 and all(next(iter(fields)) in name for name in names):
        field = fields.pop()
        before, after = zip(*(name.split(field, 1) for name in names))
        return _open(list(before)) + field + _open(list(after))
    return _open(names)


def _open(texts: list[str]) -> str:
    if len(set(texts)) == 1:
        return texts[0]
    start = os.path.commonprefix(texts)
    rest = [text[len(start) :] for text in texts]
    end = os.path.commonprefix([text[::-1] for text in rest])[::-1]
    # remove what texts share by chance, such as the first digits of numbers
    start = re.sub(r"[^\W_]+$", "", start)
    end = end[end.index(".") :] if "." in end else ""
    return f"{start}*{end}"


def _share(pattern: str, cells: pd.DataFrame, images: Sequence[str], several: bool) -> float:
    filled = fill_pattern(pattern, cells)
    problems = match_files(filled, list(images))[1]
    return float((problems.str.contains(" files match ") | (problems == "") if several else problems == "").mean())
