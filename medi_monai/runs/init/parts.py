"""Split paths into folders and the words of file names, and recognize what they stand for."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

__all__ = [
    "DISEASE",
    "FEW",
    "HOSPITAL",
    "PATIENT",
    "PATIENT_WORD",
    "SESSION",
    "SPLITS",
    "common_depth",
    "common_suffix",
    "is_group",
    "matches",
    "nested",
    "repeats",
    "role_of",
    "stem_of",
    "suffix_of",
    "tokens",
]

#: separators of the words of a file name, in the order in which they are tried
SIGNS = "_- ."
#: share of the values that has to be exceeded by those that match a pattern
MOST = 0.5
#: maximum number of values of a class or a group
FEW = 20

#: names of folders that are parts of a split
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "holdout", "dev"}
HOSPITAL = re.compile(
    r"hospital|clini[cq]|klinik|cent(?:er|re|rum)|zentrum|universi|institut|\bsite|spital|krankenhaus|h[oô]pital|^[hc]\d+$"
    r"|\blab\b",
    re.I,
)
SCANNER = re.compile(
    r"^(?:ge|siemens|philips|toshiba|canon|hitachi|aperio|hamamatsu|leica|3dhistech|ventana|roche)\b", re.I
)
DISEASE = re.compile(
    r"tumou?r|normal|benign|malign|cancer|carcinom|karzinom|adeno|squam|lymph|strom|melan|glio|necro|nekro|healthy|gesund"
    r"|disease|grade|control|^(?:hc|ad|mci|cn|ms|pd|asd|patients?)$|"
    r"^(?:tcga-)?(?:luad|lusc|brca|kirc|kirp|kich|coad|read|stad|blca|prad|ucec|ucs|thca|hnsc|lihc|skcm|gbm|lgg|ov)$",
    re.I,
)
SEX = {"f", "m", "w", "female", "male", "woman", "man", "weiblich", "männlich"}
#: words that precede the number of a patient
ID = r"pat(?:ient(?:in)?)?|subj?(?:ect)?|case|fall|participant|proband|donor|pid|mrn"
PATIENT = re.compile(rf"^(?:{ID}|p|pt|id)[ _.-]*\d+\w*$|^(?:{ID})-\w+$", re.I)
PATIENT_WORD = re.compile(rf"^(?:{ID}|id)$", re.I)
#: matches a visit, an examination or a repetition, of which a patient has several
SESSION = re.compile(
    r"^(?:ses(?:sion)?|visit|timepoint|tp)[ _.-]\w+$|"
    r"^(?:ses|visit|scan|time|tp|run|acq|exam|study|series|mr|ct)[ _.-]?\d+$|^\d{8}$|^\d{4}-\d\d-\d\d",
    re.I,
)
#: matches a coordinate of a tile in a slide
COORDINATE = re.compile(r"^[xyrc]?\d+(?:px)?$", re.I)


def suffix_of(name: str) -> str:
    """Return the suffix of a file name; ``.nii.gz`` counts as one suffix."""
    return name[-7:] if name.lower().endswith(".nii.gz") else os.path.splitext(name)[1]


def stem_of(name: str) -> str:
    """Return a file name without its suffix."""
    return name[: len(name) - len(suffix_of(name))]


def common_depth(images: Sequence[str]) -> list[list[str]]:
    """Return the images at the most frequent folder depth, each as a list of its folders and its name."""
    depth = Counter(image.count("/") for image in images).most_common(1)[0][0]
    return [image.split("/") for image in images if image.count("/") == depth]


def common_suffix(names: Sequence[str]) -> str:
    """Return the suffix that all names share, regardless of case; ``.*`` if there are several."""
    suffixes = Counter(map(suffix_of, names))
    return suffixes.most_common(1)[0][0] if len({suffix.lower() for suffix in suffixes}) == 1 else ".*"


def tokens(stems: Sequence[str]) -> tuple[str, list[list[str]]]:
    """Split file names into words, with the first separator that gives all of them the same number of words.

    Args:
        stems: names without suffixes.

    Returns:
        The separator, and the words of each name; an empty separator and whole names if no separator works.
    """
    for sign in SIGNS:
        words = [stem.split(sign) for stem in stems]
        if len({len(name) for name in words}) == 1 and len(words[0]) > 1:
            return sign, words
    return "", [[stem] for stem in stems]


def role_of(values: Sequence[str]) -> str | None:
    """Return what most values at one position of the paths name: sex, scanner, center or diagnosis; None if unclear."""
    known = {value.lower() for value in values}
    if len(known) < 2:
        return None
    if known <= SEX:
        return "sex"
    for name, pattern in (("scanner", SCANNER), ("center", HOSPITAL), ("diagnosis", DISEASE)):
        if sum(bool(pattern.search(value)) for value in known) > MOST * len(known):
            return name
    return None


def matches(pattern: re.Pattern, values: Sequence[str]) -> bool:
    """Return whether a pattern is found in most of the distinct values."""
    known = {value.strip() for value in values}
    return sum(bool(pattern.search(value)) for value in known) > MOST * len(known)


def is_group(values: Sequence[str]) -> bool:
    """Return whether values may name groups: few words, each of which occurs several times, and no coordinates."""
    counts = Counter(values)
    return 2 <= len(counts) <= FEW and min(counts.values()) > 1 and not any(map(COORDINATE.match, counts))


def repeats(values: Sequence[str]) -> bool:
    """Return whether any value occurs more than once."""
    return len(set(values)) < len(values)


def nested(values: Sequence[str], folders: Sequence[str]) -> bool:
    """Return whether nearly every value occurs in only one folder."""
    above = defaultdict(set)
    for value, folder in zip(values, folders):
        above[value].add(folder)
    return sum(len(parents) == 1 for parents in above.values()) > 0.9 * len(above)
