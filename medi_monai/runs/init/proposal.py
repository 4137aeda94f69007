"""Propose the overlay for what was found in a folder."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medi_monai.cohort.tables.folders import pattern_values
from medi_monai.cohort.tables.patterns import pattern_fields
from medi_monai.runs.init.columns import Recognized, recognize
from medi_monai.runs.init.folders import COMMON, guess_pattern, guess_volume_pattern, sequence_rank
from medi_monai.runs.init.survey import FoundTable, Survey
from medi_monai.runs.init.templates import column_pattern
from medi_monai.utils.text import alike, plural

__all__ = ["Proposal", "propose"]

PATHOLOGY, BRAIN = "pathology_medi_diffusion", "brain_mri_fair_text_diffusion"
#: microns per pixel if they are unknown: those of a common scan; the overlay calls this a guess
GUESSED_MPP = 0.5
#: sides of patches to choose from, in pixels
SIDES = (128, 64, 32, 16)
#: share of the images that has to be exceeded by those whose patients a table lists
MOST_PATIENTS = 0.5
#: roles of columns of a table of patches, besides the path of the image
ROLES_OF_PATCHES = ("slide", "patient", "mpp")
#: values of sex if no table lists them: those of DICOM
SEXES = ["F", "M"]
WOMEN, MEN = {"f", "female", "w", "woman", "weiblich", "2"}, {"m", "male", "man", "männlich", "1"}


@dataclass
class Proposal:
    """A proposed overlay, with notes for the user.

    Args:
        bundle: name of the bundle's folder.
        settings: settings of the overlay, in order.
        comments: comments on settings in the overlay, by setting.
        recognized: notes on what was recognized.
        left_out: notes on what is not used, and why.
        checks: notes on what the user should check.
    """

    bundle: str
    settings: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    recognized: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def propose(found: Survey) -> Proposal:
    """Propose an overlay for what was found in a folder."""
    radiology = found.kind in ("volumes", "dicom") or found.gray
    proposal = Proposal(BRAIN if radiology else PATHOLOGY, {"dataset_dir": str(found.root)})
    proposal.recognized.append(f"{len(found.images):,} {_words(found.kind)} in {found.root}")
    proposal.left_out += [
        f"{plural(count, 'file')} of another kind ({_words(kind)})" for kind, count in found.others.items()
    ]
    proposal.checks += found.notes
    table, pattern, columns = _table(found, proposal)
    if found.gray:
        proposal.checks.append("the pictures are gray: taken as slices of radiology, for the text-to-image bundle")
    if proposal.bundle == BRAIN:
        _radiology(found, proposal, table, pattern, columns)
    else:
        _patches(found, proposal, table, pattern, columns)
    proposal.left_out += [f"column {name!r}: {reason}" for name, reason in columns.left_out.items()]
    proposal.checks += columns.checks
    return proposal


def _words(kind: str) -> str:
    return {"volumes": "volumes", "dicom": "DICOM files"}.get(kind, kind)


def _table(found: Survey, proposal: Proposal) -> tuple[FoundTable | None, str, Recognized]:
    """Return the table whose rows name images, the pattern of their paths, and the columns of the table.

    Without such a table, the first is None, and the columns are those of a table of patients, if there is one.
    """
    images = found.images
    if found.kind == "volumes":
        guess, images, others = guess_volume_pattern(images)
        left = f"volumes of another kind: {', '.join(others)}; to take one of them, change the name in the pattern"
        proposal.left_out += [left] if others else []
    matches = [(match, table) for table in found.tables if (match := column_pattern(table.cells, images))]
    if matches and found.kind != "dicom":
        (pattern, share), table = max(matches, key=lambda item: (item[0][1], len(item[1].cells)))
        proposal.recognized.append(f"table {table.path}: {share:.0%} of its rows name a file as {pattern}")
        proposal.left_out += [f"table {other.path}" for _, other in matches if other is not table]
        return table, pattern, recognize(table.cells, pattern_fields(pattern))
    guess = "" if found.kind == "dicom" else guess if found.kind == "volumes" else guess_pattern(images)
    patients = _table_of_patients(found, images, guess)
    for other in found.tables:
        if patients is None or other is not patients.table:
            proposal.left_out.append(f"table {other.path}: its rows name no file of {found.root}")
    if patients is None:
        return None, guess, Recognized()
    proposal.recognized.append(
        f"table {patients.table.path}: {patients.share:.0%} of the images are of patients that {patients.key!r} lists"
    )
    settings = {"path": patients.pattern or ".", "clinical": patients.table.path, "key": patients.key}
    more = {} if isinstance(patients.table.setting, str) else patients.table.setting
    settings |= {name: value for name, value in more.items() if name != "path"}
    proposal.settings["table"] = {"layout": "dicom" if found.kind == "dicom" else "folders", **settings}
    columns = recognize(patients.table.cells, [patients.key])
    columns.roles = {}
    return None, patients.pattern, columns


@dataclass(frozen=True)
class _PatientTable:
    """A table of patients: its column of patients, the pattern of image paths, and the share of images it describes."""

    table: FoundTable
    key: str
    pattern: str
    share: float


def _table_of_patients(found: Survey, images: list[str], guess: str) -> _PatientTable | None:
    """Return the table that lists the patients of most images; None if no table does for more than half of them."""
    # at equal shares, the first option counts: the guessed pattern, which matches a single kind of volume
    options = [(table, str(column), guess) for table in found.tables for column in table.cells]
    for table in found.tables:
        named = column_pattern(table.cells, images, several=True)
        if named is not None and len(set(pattern_fields(named[0]))) == 1:
            column = pattern_fields(named[0])[0]
            options.append((table, column, named[0].replace(f"{{{column}}}", "{patient}")))
    best: _PatientTable | None = None
    patients_of = {"": found.series["patient"].tolist()} if found.kind == "dicom" else {}
    for table, key, pattern in options:
        if pattern not in patients_of:
            patients_of[pattern] = pattern_values(pattern, images, "patient") if "{patient}" in pattern else []
        patients = patients_of[pattern]
        known = {alike(cell) for cell in table.cells[key]} - {""}
        share = sum(alike(name) in known for name in patients) / max(len(images), len(patients))
        if share > (best.share if best else MOST_PATIENTS) and len({*map(alike, patients)} & known) > 1:
            best = _PatientTable(table, key, pattern, share)
    return best


def _patches(found: Survey, proposal: Proposal, table: FoundTable | None, pattern: str, columns: Recognized) -> None:
    settings, comments = proposal.settings, proposal.comments
    if table is None:
        _columns_of_paths(proposal, pattern, columns)
    else:
        settings["table"] = table.setting
        settings["columns"] = {"image": pattern, **{role: columns.roles.get(role) for role in ROLES_OF_PATCHES}}
    if settings.get("columns", {"patient": ""}).get("patient", "") is None:
        comments["columns"] = "patient: null: nothing names patients, so that each image counts as its own"
        proposal.checks.append(_unknown_patients(table, columns, pattern))
    settings["unit"] = found.kind
    comments["unit"] = {
        "slides": "each row is a slide to be cut into patches",
        "tiles": "each row is an image to be cut into patches",
        "patches": "used as they are, not cut",
    }[found.kind]
    if columns.mapping:
        settings["mapping"] = columns.mapping
    if columns.missing:
        settings["missing"] = columns.missing
        comments["missing"] = "words that mean missing data"
    _labels(proposal, columns)
    _resolution(found, proposal, columns)


def _columns_of_paths(proposal: Proposal, pattern: str, columns: Recognized) -> None:
    """Propose a table of the paths alone, whose columns are the fields of the pattern.

    Args:
        proposal: proposal to add to.
        pattern: pattern of the paths.
        columns: columns of a table of patients, if there is one; those of the paths are added.
    """
    settings = proposal.settings
    fields = [name for name in dict.fromkeys(pattern_fields(pattern)) if name != "slide"]
    classes = [name for name in fields if name != "patient"]
    settings.setdefault("table", pattern)
    proposal.comments["table"] = _about_paths(settings)
    of_patient = columns.label
    columns.label = "diagnosis" if "diagnosis" in classes else of_patient or next(iter(classes), None)
    if of_patient not in (None, columns.label):
        columns.attributes.append(of_patient)
    _add_parts(columns, fields)
    if "patient" not in fields:
        settings["columns"] = {"patient": None}
    proposal.recognized.append(f"folders as {pattern}")
    if columns.attributes:
        proposal.checks.append(f"which part of the path is what is a guess: {pattern}; rename the columns in braces")


def _unknown_patients(table: FoundTable | None, columns: Recognized, pattern: str) -> str:
    start = "patients are unknown: images of one patient may be in training and in the holdout. "
    if table is None:
        example = pattern.rpartition("/")[0]
        return start + f'If names of files begin with them: table: "{example + "/" if example else ""}{{patient}}_*.*"'
    unused = [name for name in columns.left_out if 2 < table.cells[name].nunique() < len(table.cells)]
    named = f", such as {unused[0]!r}" if unused else ""
    return start + f"If a column names them{named}, write it in place of null in `columns`"


def _about_paths(settings: dict[str, Any]) -> str:
    if isinstance(settings["table"], dict):
        return "rows are images; clinical has rows of patients, whose names in `key` are {patient} in the paths"
    return "no table: the columns are parts of the paths; * matches the rest"


def _add_parts(columns: Recognized, fields: list[str]) -> None:
    """Add parts of paths as attributes; they take precedence over columns of a table of patients."""
    parts = [name for name in fields if name not in ("patient", "slide", columns.label)]
    for name in [*parts, *([columns.label] if columns.label in fields else [])]:
        columns.mapping.pop(name, None)
    columns.attributes = list(dict.fromkeys([*parts, *columns.attributes]))


def _labels(proposal: Proposal, columns: Recognized) -> None:
    settings = proposal.settings
    label = columns.label or "diagnosis"
    if columns.label is None:
        proposal.checks.append("nothing tells classes apart: put the name of its column in place of `diagnosis`")
    main = "center" if "center" in columns.attributes else next(iter(columns.attributes), None)
    settings["label"] = label
    settings["attributes"] = [main] if main else []
    settings["subpopulation_columns"] = [label, *([main] if main else [])]
    settings["metadata_columns"] = columns.attributes
    proposal.comments["label"] = "the class"
    proposal.comments["attributes"] = "what the model is conditioned on besides the class"
    others = [name for name in columns.attributes if name != main]
    kept = f"; kept for the audit: {', '.join(others)}" if others else ""
    proposal.recognized.append(f"class {label}; the model is conditioned on it and {main or 'no attribute'}{kept}")


def _resolution(found: Survey, proposal: Proposal, columns: Recognized) -> None:
    settings, comments = proposal.settings, proposal.comments
    mpp = found.mpp or columns.mpp or GUESSED_MPP
    if found.mpp is None and "mpp" not in columns.roles:
        settings["source_mpp"] = GUESSED_MPP
        comments["source_mpp"] = "EDIT: microns per pixel of the files, which do not say; 0.5 is a guess"
        proposal.checks.append("microns per pixel: neither files nor table say; source_mpp: 0.5 is a guess")
    side = next((side for side in SIDES if found.side is None or side <= found.side), SIDES[-1])
    settings["image_size"] = side
    if found.kind == "patches" and found.side:
        # use the whole patch, reduced to the size that is proposed
        settings["mpp"] = round(mpp * found.side / side, 6)
        reduced = f", reduced to {side}" if side != found.side else ""
        comments["mpp"] = f"microns per pixel of the patches: all of their {found.side} pixels{reduced}"
    else:
        settings["mpp"] = max(0.5, round(mpp, 4))
        comments["mpp"] = "microns per pixel of the patches"
    comments["image_size"] = "pixels"
    if found.kind == "slides":
        settings["max_patches_per_slide"] = 128


def _radiology(found: Survey, proposal: Proposal, table: FoundTable | None, pattern: str, columns: Recognized) -> None:
    settings, comments = proposal.settings, proposal.comments
    if found.kind == "dicom":
        settings.setdefault("table", {"layout": "dicom", "path": "."})
        comments["table"] = 'one row per series; choose some by series: "*FLAIR*"'
        columns = _tags(_chosen_series(found.series, proposal), proposal, columns)
        settings["mapping"] = columns.mapping
    elif table is None:
        settings.setdefault("table", pattern)
        comments["table"] = _about_paths(settings)
        proposal.recognized.append(f"{found.kind} as {pattern}")
        _add_parts(columns, list(dict.fromkeys(pattern_fields(pattern))))
        _take_columns(settings, columns)
        if "patient" not in pattern_fields(pattern):
            settings["columns"] = {"patient": None}
            proposal.checks.append("patients are unknown: images of one patient may be on both sides of the split")
    else:
        settings["table"] = table.setting
        patient = columns.roles.get("patient") or (pattern_fields(pattern)[0] if found.kind == "volumes" else None)
        settings["columns"] = {"image": pattern, "patient": patient}
        if "caption" in columns.roles:
            settings["columns"]["caption"] = columns.roles["caption"]
        _take_columns(settings, columns)
    settings["attributes"] = columns.attributes
    attribute = "sex" if "sex" in columns.attributes else next(iter(columns.attributes), None)
    settings["attribute"] = attribute
    comments["attribute"] = "the sensitive attribute"
    settings["templates"] = _captions(columns)
    comments["templates"] = "captions are made of columns: EDIT the words"
    if "caption" in columns.roles:
        # captions are read: only the words of the templates are kept, which recognize values in captions
        words = settings["templates"].get("words")
        settings["templates"] = {"words": words} if words else None
        comments["templates"] = "words that name values in the captions: EDIT them"
    if found.kind != "patches" and found.kind != "tiles":
        settings["plane"], settings["slices"] = "axial", 3
        comments["slices"] = (
            "of each volume, from the middle of what is brighter than its background: the head, with its skull"
        )
    settings["image_size"] = 64
    proposal.recognized.append(f"attributes {', '.join(columns.attributes) or 'none'}")


#: matches descriptions of series that only serve to plan others
LOCALIZER = re.compile(r"locali[sz]er|scout|survey|3-?plane|^loc\b", re.I)
#: names in the cohort for DICOM tags
TAG_NAMES = {"PatientSex": "sex", "PatientAge": "age", "InstitutionName": "center", "ManufacturerModelName": "scanner"}
TAG_NAMES |= {"Manufacturer": "manufacturer", "MagneticFieldStrength": "field_strength"}


def _tags(series: pd.DataFrame, proposal: Proposal, columns: Recognized) -> Recognized:
    """Add the DICOM tags that have several values to the attributes."""
    for tag, name in TAG_NAMES.items():
        values = sorted(set(series[tag]) - {""})
        if name in columns.attributes:
            proposal.left_out.append(f"tag {tag}: the table says the {name}")
        elif len(values) > 1:
            columns.attributes.append(name)
            columns.mapping[name] = {"column": tag}
        else:
            proposal.left_out.append(f"tag {tag}: " + (f"{values[0]!r} in all series" if values else "empty"))
    patients = series["patient"].nunique()
    proposal.recognized.append(f"{len(series):,} series of {plural(patients, 'patient')}")
    return columns


def _chosen_series(series: pd.DataFrame, proposal: Proposal) -> pd.DataFrame:
    """Select the series with one description: that of the preferred sequence among those that most patients have."""
    patients = series.groupby("SeriesDescription")["patient"].nunique()
    if len(patients) < 2:
        return series
    chosen = min(patients.index, key=lambda text: (LOCALIZER.search(text) is not None, *_rank(text, patients)))
    if not chosen:
        return series
    proposal.settings["table"]["series"] = glob.escape(chosen)
    others = ", ".join(
        f"{text or 'without a description'} ({count})" for text, count in patients.items() if text != chosen
    )
    proposal.left_out.append(f"series of other kinds, with their patients: {others}; to take one, change `series`")
    return series[series["SeriesDescription"] == chosen]


def _take_columns(settings: dict[str, Any], columns: Recognized) -> None:
    # without bins, because the words of the captions define other ranges
    rules = {name: _without_bins(rule) for name, rule in columns.mapping.items()}
    settings |= {"mapping": {name: rule for name, rule in rules.items() if rule}} if any(rules.values()) else {}
    if columns.missing:
        settings["missing"] = columns.missing
    if columns.label and columns.label not in columns.attributes:
        columns.attributes.append(columns.label)


def _without_bins(rule: dict) -> dict:
    return {key: value for key, value in rule.items() if key != "bins"}


def _rank(description: str, patients: pd.Series) -> tuple[bool, int, int, str]:
    """Return the sort key of a description: those of few patients last, then by sequence and frequency."""
    count = int(patients[description])
    return count < COMMON * patients.max(), sequence_rank(description.lower()), -count, description


def _captions(columns: Recognized) -> dict[str, Any]:
    plain = {"text": "Axial MR slice of a brain", "weight": 0.5}
    words: dict[str, Any] = {}
    if "sex" in columns.attributes:
        values = columns.sexes or SEXES
        words["sex"] = {
            **{value: "woman" for value in values if value.lower() in WOMEN and not value.isdigit()},
            **{value: "man" for value in values if value.lower() in MEN and not value.isdigit()},
        }
    if "age" in columns.attributes:
        words["age"] = {"bins": [40, 60], "words": ["young", "middle-aged", "old"]}
    if not words.get("sex"):
        words.pop("sex", None)
        named = "a {age} patient" if "age" in words else None
    else:
        named = "a {age} {sex}" if "age" in words else "a {sex}"
    templates = [plain, *([{"text": f"Axial MR slice of the brain of {named}", "weight": 0.5}] if named else [])]
    return {"templates": templates, **({"words": words} if words else {})}
