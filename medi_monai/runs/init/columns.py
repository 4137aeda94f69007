"""Recognize the columns of a table by their names and cells."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from medi_monai.schema import BUILT_IN, MISSING_WORDS
from medi_monai.utils.text import look_alikes, number_in

__all__ = ["Recognized", "recognize"]

#: words with which the names of columns of identifiers begin or end
NUMBER = "id|nos?|nr|num(?:mer|ber)?|key|code|name|uid|barcode|pseudonym|kennung|submitter_id"
BEFORE, ID = f"(?:(?:{NUMBER}|n)_)?", f"(?:_?(?:{NUMBER}))?"
#: patterns of column names (lower case, words joined by ``_``) by what the column means; the first that matches counts
NAMES = {
    "mpp": r"mpp|.*microns?_per_pixel.*|pixel_?(?:size|spacing).*|.*um_px.*",
    "split": r"split|fold|subset|partition|set",
    "patient": rf"{BEFORE}(?:tcga_)?(?:patients?|patient(?:en|in)|pat|pac?z?iente|subj(?:ect)?|case|fall|participant|"
    rf"proband(?:en)?|donor|person){ID}|pid|mrn|bcr_patient_barcode",
    "slide": rf"{BEFORE}(?:slide|wsi|block|scan|specimen|schnitt|praparat){ID}",
    "sex": r"sexe?|sexo|gender|geschlecht|(?:patient_?)?sex(?:_at_birth)?|m_f|f_m|w_m|m_w",
    "age": r"(?:patient_?)?age|age_.*|.*_age|(?:patienten)?alter(?:_.*)?|edad",
    "race": r"race|ethnicity|ancestry",
    "scanner": r"scanner.*|.*manufacturer.*|vendor|device|.*model_?name",
    "stain": r"stain(?:ing)?|farbung",
    "center": r".*(?:cent(?:er|re|ro|rum)|zentrum|hospital|hopital|krankenhaus|institut|clinic(?!al)|clinique|klinik|"
    r"einrichtung|standort|source_site).*|site(?:_(?:id|name|code))?|lab(?:or)?",
    "caption": r"caption|report|findings|impression|description",
    "label": r"diagnos(?:is|e)|label|class|target|tumou?r(?:_type)?|cancer(?:_type)?|project_id|sub_?type|histolog.*|"
    r"disease.*|entit(?:y|at)|categor(?:y|ie)|dx|pathology|grade|.*_diagnos(?:is|e)|diagnos(?:en|tic|tico|is_.*|e_.*)|"
    r"klasse|klassifikation|tumor(?:art|typ|entitat)|group|gruppe|condition",
}
ATTRIBUTES = ("center", "sex", "age", "race", "scanner", "stain")
#: maximum number of values of a class or an attribute
MAX_VALUES = 60
#: additional words for missing data that occur in tables of hospitals
MORE_WORDS = {"n/a", "n.a.", "?", "-", "missing", "null", "k.a.", "unbekannt", "not specified", "#n/a", "."}
#: names of built-in columns of a cohort
TAKEN = {*BUILT_IN, "caption"}


@dataclass
class Recognized:
    """What was recognized in the columns of a table.

    Args:
        roles: column for each of the roles ``patient``, ``slide``, ``mpp`` and ``caption`` that was recognized.
        label: name of the label in the cohort, or None.
        attributes: names of the attributes in the cohort.
        mapping: rules for columns of the cohort that are not copied unchanged.
        missing: words for missing data, if there are others besides the usual ones, else None.
        sexes: values in the column of the sex.
        mpp: largest number in the column of microns per pixel, or None.
        left_out: columns that are not used, each with the reason.
        checks: notes on what the user should check.
    """

    roles: dict[str, str] = field(default_factory=dict)
    label: str | None = None
    attributes: list[str] = field(default_factory=list)
    mapping: dict[str, dict] = field(default_factory=dict)
    missing: list[str] | None = None
    sexes: list[str] = field(default_factory=list)
    mpp: float | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)


def recognize(cells: pd.DataFrame, taken: Iterable[str] = ()) -> Recognized:
    """Recognize the roles, label and attributes among the columns of a table.

    Args:
        cells: the table, with cells as strings.
        taken: columns that are already used to name the images.
    """
    found = Recognized()
    words = {word for name in cells for word in cells[name].str.strip().str.lower().unique() if word in MORE_WORDS}
    missing = {*MISSING_WORDS, *words}
    if words:
        found.missing = [*MISSING_WORDS, *sorted(words)]
    kinds: dict[str, str] = {}
    rest: list[str] = []
    for name in map(str, cells.columns):
        kind = _kind(name)
        if kind is None or kind in kinds:
            rest.append(name)
        else:
            kinds[kind] = name
    values = {name: _values(cells[name], missing) for name in cells}
    for kind in ("patient", "slide", "mpp", "caption"):
        if kind in kinds:
            found.roles[kind] = kinds[kind]
    if "label" not in kinds and (guess := _guessed_label(rest, values, taken)):
        kinds["label"] = guess
        rest.remove(guess)
        found.checks.append(f"label: {guess!r} is a guess: no column has a name such as diagnosis or label")
    if "split" in kinds:
        found.left_out[kinds["split"]] = "a split of its own; cohorts are split by patient"
    for kind in ("label", *ATTRIBUTES):
        if kind in kinds:
            _take(found, kind, kinds[kind], values[kinds[kind]])
    if "label" in kinds and "center" in kinds and "source_site" in kinds["center"].lower():
        labels = cells.loc[values[kinds["center"]].index].groupby(kinds["center"])[kinds["label"]].nunique()
        if len(labels) and labels.max() == 1:
            found.checks.append(
                f"{kinds['center']}: each value occurs with one {kinds['label']} only, as site codes of TCGA do, of "
                "which a lookup makes hospitals"
            )
    if "mpp" in kinds:
        found.mpp = max((number for text in values[kinds["mpp"]] if (number := number_in(text))), default=None)
    found.sexes = sorted(set(values[kinds["sex"]])) if "sex" in kinds else []
    used = {*found.roles.values(), *taken, *(rule.get("column", name) for name, rule in found.mapping.items())}
    used |= {found.label or "", *found.attributes}
    for name in rest:
        if name not in used:
            found.left_out[name] = _why_not(name, values[name], len(cells))
    return found


def _kind(name: str) -> str | None:
    words = unicodedata.normalize("NFKD", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    words = "".join(sign for sign in words if not unicodedata.combining(sign))
    # try names such as "Sex (M/F)" and "Age [years]" with and without the part in brackets
    for text in (words, re.sub(r"[(\[].*?[)\]]", " ", words)):
        plain = re.sub(r"[\W_]+", "_", text.lower()).strip("_")
        if kind := next((kind for kind, pattern in NAMES.items() if re.fullmatch(pattern, plain)), None):
            return kind
    return None


def _values(cells: pd.Series, missing: set[str]) -> pd.Series:
    cells = cells.str.strip()
    return cells[(cells != "") & ~cells.str.lower().isin(missing)]


def _guessed_label(rest: list[str], values: dict[str, pd.Series], taken: Iterable[str]) -> str | None:
    for name in rest:
        count = values[name].nunique()
        if name not in set(taken) and 2 <= count <= 20 and len(values[name]) >= 2 * count:
            return name
    return None


def _take(found: Recognized, kind: str, column: str, values: pd.Series) -> None:
    numbers = values.map(number_in)
    share = float(numbers.notna().mean()) if len(values) else 0.0
    rule: dict = {}
    if kind == "age" and share > 0.8:
        if not numbers.dropna().between(0, 130, inclusive="left").all():
            found.left_out[column] = "ages beyond 130: days or months"
            return
        rule["bins"] = "decades"
    elif not 2 <= values.nunique() <= MAX_VALUES:
        count = values.nunique()
        found.left_out[column] = f"looks like the {kind}, but has {count} value{'s' if count != 1 else ''}"
        return
    name = kind if kind != "label" else re.sub(r"\W+", "_", column.lower()).strip("_")
    name = f"{name}_class" if name in TAKEN else name
    if name != column:
        rule["column"] = column
    counts = values.value_counts()
    ordered = sorted(counts.index, key=lambda value: (-counts[value], value))
    groups = [] if "bins" in rule else look_alikes(ordered)
    merged = {group[0]: group[1:] for group in groups if number_in(group[0]) is None}
    if merged:
        rule["merge"] = merged
        found.checks.append(f"{name}: spellings that look alike are merged: {merged}")
    for group in groups:
        if number_in(group[0]) is not None:
            merge = f"{{{group[0]}: {group[1:]}}}"
            found.checks.append(f"{name}: are {' and '.join(group)} the same? Then add merge: {merge}")
    if rule:
        found.mapping[name] = {key: rule[key] for key in ("column", "bins", "merge") if key in rule}
    if kind == "label":
        found.label = name
    else:
        found.attributes.append(name)


def _why_not(name: str, values: pd.Series, rows: int) -> str:
    count = values.nunique()
    if count < 2:
        return "empty" if count == 0 else "one value for all"
    if count > MAX_VALUES or count > 0.9 * rows:
        return "numbers" if values.map(number_in).notna().mean() > 0.8 else f"{count} different values"
    if name in TAKEN:
        return f"{count} values; to use it, name it anew with mapping: {{my_{name}: {{column: {name}}}}}"
    return f"not recognized; {count} values: to use it, add it to metadata_columns"
