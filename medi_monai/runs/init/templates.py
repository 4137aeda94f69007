"""Patterns of paths, guessed: from a column of a table, or from the folders alone."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import pandas as pd

from medi_monai.cohort.tables.patterns import fill_pattern, match_files
from medi_monai.utils.text import alike

__all__ = ["column_pattern", "common_depth", "guess_pattern"]

#: cells of a column that are looked for among the paths, and paths that are looked at
CELLS, PATHS = 60, 20_000
#: share of the rows that a pattern has to find
ENOUGH = 0.5


def common_depth(images: Sequence[str]) -> list[str]:
    """The images at the most frequent depth."""
    depth = Counter(image.count("/") for image in images).most_common(1)[0][0]
    return [image for image in images if image.count("/") == depth]


def column_pattern(cells: pd.DataFrame, images: Sequence[str]) -> tuple[str, float] | None:
    """The pattern of image paths that one column of a table fills best.

    Args:
        cells: the table.
        images: paths.

    Returns:
        The pattern and the share of rows for which it names one file; None where no column names files.
    """
    best: tuple[float, int, str] | None = None
    for column in cells.columns:
        pattern = _of_column(str(column), cells[column], images)
        if pattern is None:
            continue
        share = _share(pattern, cells, images)
        # of two that find as much, the one with less left open
        key = (share, -pattern.count("*"), pattern)
        if share >= ENOUGH and (best is None or key[:2] > best[:2]):
            best = key
    return None if best is None else (best[2], best[0])


def _of_column(column: str, cells: pd.Series, images: Sequence[str]) -> str | None:
    values = [value for value in cells.str.strip().unique() if len(value) > 1 or value.isdigit()]
    if not values or "{" in column or "}" in column:
        return None
    known = {alike(image) for image in images}
    if sum(alike(value) in known for value in values[:CELLS]) > ENOUGH * len(values[:CELLS]):
        return f"{{{column}}}"
    parts: dict[str, list[str]] = defaultdict(list)
    for image in images[:PATHS]:
        for token in _tokens(image):
            parts[token].append(image)
    filled = []
    for value in values[:: max(len(values) // CELLS, 1)][:CELLS]:
        paths = parts.get(alike(value), [])
        filled += [_template(path, value, column) for path in paths[:4]]
    return _merged([template for template in filled if template])


def _tokens(path: str) -> set[str]:
    tokens = set()
    for component in path.split("/"):
        component = alike(component)
        tokens.add(component)
        # what ends before a sign, as the barcode in "TCGA-….<uuid>.svs", and what begins after one
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
    # what texts share by chance, as the first digits of numbers, is left open
    start = re.sub(r"[^\W_]+$", "", start)
    end = end[end.index(".") :] if "." in end else ""
    return f"{start}*{end}"


def _share(pattern: str, cells: pd.DataFrame, images: Sequence[str]) -> float:
    filled = fill_pattern(pattern, cells)
    return float((match_files(filled, list(images))[1] == "").mean())


#: names of folders that are parts of a split, and those that say nothing
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "holdout", "dev"}
HOSPITAL = re.compile(r"hospital|clinic|klinik|cent(?:er|re)|university|institut|site|spital|h\d+\b|c\d+\b|lab", re.I)
DISEASE = re.compile(
    r"tumou?r|normal|benign|malign|cancer|carcinoma|adeno|squam|lymph|stroma|melan|glio|necro|healthy|disease|grade|"
    r"^(?:tcga-)?(?:luad|lusc|brca|kirc|kirp|kich|coad|read|stad|blca|prad|ucec|ucs|thca|hnsc|lihc|skcm|gbm|lgg|ov)$",
    re.I,
)
NAMES = ("diagnosis", "center", "group", "subgroup")


def guess_pattern(images: Sequence[str]) -> str:
    """A pattern of columns for images in folders: ``{diagnosis}/{center}/{patient}_*.png``."""
    paths = [image.split("/") for image in common_depth(images)]
    levels = len(paths[0]) - 1
    columns = [_level(paths, level) for level in range(levels)]
    crossed = [level for level in range(levels) if columns[level] == "crossed"]
    names: dict[int, str] = {level: name for level, name in enumerate(columns) if name not in ("crossed", "constant")}
    names |= _class_and_center(paths, crossed)
    folders = []
    for level in range(levels):
        if columns[level] == "constant":
            folders.append(paths[0][level])
        else:
            folders.append(f"{{{names[level]}}}" if names[level] != "*" else "*")
    pattern = "/".join([*folders, _file_part(paths, "patient" in names.values())])
    # without a column at all, the file is the slide
    return pattern if "{" in pattern else pattern[::-1].replace("*", "}edils{", 1)[::-1]


def _level(paths: list[list[str]], level: int) -> str:
    values = {path[level] for path in paths}
    if len(values) == 1:
        # one folder around all, or a class alone: a constant names nothing
        return "constant"
    if {value.lower() for value in values} <= SPLITS:
        return "*"
    parents = defaultdict(set)
    for path in paths:
        parents[path[level]].add("/".join(path[:level]))
    nested = sum(len(above) == 1 for above in parents.values()) / len(parents)
    many = len(values) > max(8, 2 * len({"/".join(path[:level]) for path in paths}))
    hospitals = sum(bool(HOSPITAL.search(value)) for value in values) > len(values) / 2
    if level > 0 and nested > 0.9 and many and not hospitals:
        return "patient"
    return "crossed"


def _class_and_center(paths: list[list[str]], crossed: list[int]) -> dict[int, str]:
    def score(level: int) -> tuple[float, float]:
        values = {path[level] for path in paths}
        disease = sum(bool(DISEASE.search(value)) for value in values) / len(values)
        return disease - sum(bool(HOSPITAL.search(value)) for value in values) / len(values), -level

    order = sorted(crossed, key=score, reverse=True)
    return dict(zip(order, [*NAMES, *(f"group{n}" for n in range(3, 30))]))


def _file_part(paths: list[list[str]], has_patient: bool) -> str:
    suffix = Counter(_suffix(path[-1]) for path in paths).most_common(1)[0][0]
    stems = [path[-1][: len(path[-1]) - len(_suffix(path[-1]))] for path in paths]
    if not has_patient:
        for sign in "_-":
            firsts = [stem.split(sign)[0] for stem in stems if sign in stem]
            places = defaultdict(set)
            for path, stem in zip(paths, stems):
                places[stem.split(sign)[0]].add("/".join(path[:-1]))
            alone = sum(len(folders) == 1 for folders in places.values()) / len(places)
            if len(firsts) == len(stems) and len(places) > 2 and alone > 0.9 and len(stems) > 1:
                return f"{{patient}}{sign}*{suffix}"
    return f"*{suffix}"


def _suffix(name: str) -> str:
    return ".nii.gz" if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1]


MASK = re.compile(r"seg|mask|label|roi|gt", re.IGNORECASE)
#: sequences in the order in which one is chosen
SEQUENCES = ("flair", "t1ce", "t1c", "t1w", "t1", "t2w", "t2", "")


def guess_volume_pattern(images: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """The pattern of one kind of volume per patient, its volumes, and the other kinds, which it leaves out."""
    paths = [image.split("/") for image in common_depth(images)]
    counts = [len({path[level] for path in paths}) for level in range(len(paths[0]) - 1)]
    folder = counts.index(max(counts)) if counts and max(counts) > 1 else None
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in paths:
        stem = path[-1][: len(path[-1]) - len(_suffix(path[-1]))]
        patient = path[folder] if folder is not None else stem.split("_")[0]
        template = _template("/".join(path), patient, "patient")
        if template:
            kinds[re.sub(r"^.*[_-]", "", stem.replace(patient, "")).lower()].append(("/".join(path), template))
    if not kinds:
        return "{patient}" + _suffix(paths[0][-1]), list(images), []
    chosen = min(kinds, key=lambda kind: (bool(MASK.search(kind)), _place(kind), -len(kinds[kind]), kind))
    files, templates = zip(*kinds[chosen])
    pattern = _merged(list(templates)) or f"{{patient}}{_suffix(paths[0][-1])}"
    return pattern, list(files), sorted(kind or "others" for kind in kinds if kind != chosen)


def _place(kind: str) -> int:
    return next(index for index, name in enumerate(SEQUENCES) if name in kind)
