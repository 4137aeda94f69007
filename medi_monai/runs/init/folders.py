"""Guess the pattern of image paths without a table, such as ``{diagnosis}/{center}/{patient}_*.png``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from medi_monai.runs.init.parts import (
    DISEASE,
    FEW,
    HOSPITAL,
    PATIENT,
    PATIENT_WORD,
    SESSION,
    SPLITS,
    common_depth,
    common_suffix,
    is_group,
    matches,
    nested,
    repeats,
    role_of,
    stem_of,
    tokens,
)

__all__ = ["COMMON", "guess_pattern", "guess_volume_pattern", "sequence_rank"]

#: matches numbers of patients, which are longer than those of classes, grades or magnifications
NUMBER = re.compile(r"0\d+|\d{4,}")
DIGITS = re.compile(r"\d")
NAMES = ("diagnosis", "center", "group", "subgroup")


def guess_pattern(images: Sequence[str]) -> str:
    """Guess a pattern with columns for the paths of images, such as ``{diagnosis}/{center}/{patient}_*.png``."""
    paths = common_depth(images)
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
    pattern = "/".join([*folders, _file_name(paths, set(names.values()))])
    # without any column, the last star, which matches the file name, becomes the column `slide`
    return pattern if "{" in pattern else pattern[::-1].replace("*", "}edils{", 1)[::-1]


def _level(paths: list[list[str]], level: int) -> str:
    values = {path[level] for path in paths}
    if len(values) == 1:
        # a folder that contains all images, or the only class, distinguishes nothing
        return "constant"
    if {value.lower() for value in values} <= SPLITS:
        return "*"
    above = ["/".join(path[:level]) for path in paths]
    many = len(values) > max(8, 2 * len(set(above)))
    hospitals = matches(HOSPITAL, list(values))
    if level > 0 and nested([path[level] for path in paths], above) and many and not hospitals:
        return "patient"
    numbers = all(map(NUMBER.fullmatch, values)) or (len(values) > FEW and matches(DIGITS, list(values)))
    if not hospitals and len(values) > 2 and (matches(PATIENT, list(values)) or numbers):
        return "patient"
    return "crossed"


def _class_and_center(paths: list[list[str]], crossed: list[int]) -> dict[int, str]:
    def score(level: int) -> tuple[float, float]:
        values = {path[level] for path in paths}
        disease = sum(bool(DISEASE.search(value)) for value in values) / len(values)
        return disease - sum(bool(HOSPITAL.search(value)) for value in values) / len(values), -level

    order = sorted(crossed, key=score, reverse=True)
    return dict(zip(order, [*NAMES, *(f"group{n}" for n in range(3, 30))]))


def _file_name(paths: list[list[str]], taken: set[str]) -> str:
    """Return the pattern of the names of patch files, with columns for those of their words that have a role."""
    suffix = common_suffix([path[-1] for path in paths])
    if "patient" in taken or len(paths) < 2:
        return f"*{suffix}"
    stems = [stem_of(path[-1]) for path in paths]
    sign, words = tokens(stems)
    if not sign:
        # if names have different numbers of words, consider only the first word
        sign = next((sign for sign in "_-" if all(sign in stem for stem in stems)), "")
        words = [[stem.split(sign)[0], ""] if sign else [] for stem in stems]
    columns = [list(values) for values in zip(*words)]
    roles = _roles(columns, ["/".join(path[:-1]) for path in paths], taken)
    if "patient" not in roles:
        return f"*{suffix}"
    last = max(index for index, role in enumerate(roles) if role is not None)
    shown = [
        f"{{{role}}}" if role else values[0] if len(set(values)) == 1 else "*" for role, values in zip(roles, columns)
    ][: last + 1]
    return sign.join([*shown, "*"] if len(roles) > last + 1 else shown) + suffix


def _roles(columns: list[list[str]], folders: list[str], taken: set[str]) -> list[str | None]:
    """Return the role of each word of the file names, or None; ``columns`` has the values of each word."""
    roles: list[str | None] = [None] * len(columns)
    for index, values in enumerate(columns):
        role = role_of(values)
        if role is not None and role not in taken and role not in roles:
            roles[index] = role
    named = [values for values, role in zip(columns, roles) if role]
    keys = ["/".join(words) for words in zip(folders, *named)]
    places = range(len(columns))
    patient = next((index for index in places if _is_patient(columns, index, roles, keys, folders)), None)
    if patient is not None:
        roles[patient] = "patient"
        group = next((i for i in range(patient) if roles[i] is None and is_group(columns[i])), None)
        if group is not None:
            name = next(name for name in NAMES if name not in {*taken, *roles})
            roles[group] = name
    return roles


def _is_patient(
    columns: list[list[str]], index: int, roles: list[str | None], keys: list[str], folders: list[str]
) -> bool:
    values = columns[index]
    if roles[index] is not None or len(set(values)) < 2:
        return False
    before = set(columns[index - 1]) if index else set()
    if matches(PATIENT, values) or (len(before) == 1 and PATIENT_WORD.match(next(iter(before)))):
        return True
    # a number that is different in all files counts the files, unless it is the first word; with as many values as
    # folders, the word repeats the name of the folder
    counts = index > 0 and not repeats(values)
    return len(set(values)) > max(2, len(set(folders))) and not counts and nested(values, keys)


#: a level of folders with digits in their names is that of patients if it has more than this many folders and, on
#: average, at most this many scans per folder
MIN_PATIENTS, MAX_SCANS = 4, 10
#: maximum number of kinds of volumes; and the minimum frequency of a kind that is chosen, relative to the most frequent
#: kind
MAX_KINDS, COMMON = 30, 0.8
MASK = re.compile(r"seg|mask|label|roi|gt", re.IGNORECASE)
#: MR sequences in order of preference
SEQUENCES = ("flair", "t1ce", "t1c", "t1w", "t1", "t2w", "t2", "")


def guess_volume_pattern(images: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Guess the pattern of one kind of volume per patient.

    Returns:
        The pattern, the paths of the volumes of this kind, and the names of the other kinds, which it does not match.
    """
    paths = common_depth(images)
    stems = [stem_of(path[-1]) for path in paths]
    sign, words = tokens(stems)
    even = bool(sign) or len(set(stems)) == 1
    if not even and (sign := next((sign for sign in "_-" if all(sign in stem for stem in stems)), "")):
        words = [[stem.split(sign)[0], stem.split(sign)[-1]] for stem in stems]
    depth = len(paths[0]) - 1
    columns = [list(values) for values in zip(*([*path[:-1], *name] for path, name in zip(paths, words)))]
    patient = _patient_column(columns, depth)
    kinds = _kinds(columns, patient, depth)
    counts = Counter(kinds)
    most = max([counts[kind] for kind in counts if not MASK.search(kind)], default=0)

    def rank(kind: str) -> tuple[bool, bool, int, int, str]:
        rare = counts[kind] < COMMON * most
        return bool(MASK.search(kind)), rare, sequence_rank(kind), -counts[kind], kind

    chosen = min(counts, key=rank)
    kept = [row for row, kind in enumerate(kinds) if kind == chosen]
    shown = _shown([[values[row] for row in kept] for values in columns], patient)
    folders, name = shown[:depth], sign.join(shown[depth:])
    if sign and not even:
        first, last = shown[depth:]
        name = f"{first}{sign}*{'' if last == '*' or '{' in last else last}"
    pattern = "/".join([*folders, name + common_suffix([paths[row][-1] for row in kept])])
    others = sorted(kind or "others" for kind in counts if kind != chosen)
    return pattern, ["/".join(paths[row]) for row in kept], others


def _patient_column(columns: list[list[str]], depth: int) -> int:
    most = max(len(set(values)) for values in columns)

    def is_folder_of_patient(values: list[str]) -> bool:
        count = len(set(values))
        other = matches(SESSION, values) or matches(HOSPITAL, values)
        return matches(DIGITS, values) and not other and count > MIN_PATIENTS and count * MAX_SCANS >= most

    def score(index: int) -> tuple[bool, bool, int, int]:
        values = columns[index]
        several = len(set(values)) > 1
        session = matches(SESSION, values) and not matches(PATIENT, values)
        return several and matches(PATIENT, values), not session, len(set(values)), -index

    # prefer folders of patients: the names of scans below them are often more distinct
    folder = next((index for index in range(depth) if is_folder_of_patient(columns[index])), None)
    return folder if folder is not None else max(range(len(columns)), key=score)


def _kinds(columns: list[list[str]], patient: int, depth: int) -> list[str]:
    """Return the kind of each volume, or empty text.

    The kind is the last word of its name, if it names a sequence or mask, or distinguishes the volumes of a patient.
    """
    last = columns[-1]
    known = all(any(name in word.lower() for name in SEQUENCES[:-1]) or MASK.search(word) for word in last)
    # a kind, unlike the number of a scan, occurs in many patients
    shared = 2 * len(last) >= len(set(last)) * len(set(columns[patient]))
    several = repeats(columns[patient]) and len(set(last)) <= MAX_KINDS and shared
    if len(columns) - 1 in (patient, depth - 1) or not (known or several):
        return [""] * len(last)
    return [word.lower() for word in last]


def _shown(columns: list[list[str]], patient: int) -> list[str]:
    shown: list[str] = []
    for index, values in enumerate(columns):
        role = role_of(values)
        if index == patient or values == columns[patient]:
            shown.append("{patient}")
        elif len(set(values)) == 1:
            shown.append(values[0])
        elif role is not None and f"{{{role}}}" not in shown:
            shown.append(f"{{{role}}}")
        elif is_group(values) and "{group}" not in shown and not matches(SESSION, values):
            shown.append("{group}")
        else:
            shown.append("*")
    return shown


def sequence_rank(kind: str) -> int:
    """Return the position of a kind of volume in the order of preference, :data:`SEQUENCES`."""
    return next(index for index, name in enumerate(SEQUENCES) if name in kind)
