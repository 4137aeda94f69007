"""The overlay that suits what a folder holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medi_monai.cohort.tables.patterns import pattern_fields
from medi_monai.runs.init.columns import Recognized, recognize
from medi_monai.runs.init.folders import guess_pattern, guess_volume_pattern, one_session
from medi_monai.runs.init.survey import FoundTable, Survey
from medi_monai.runs.init.templates import column_pattern
from medi_monai.utils.text import plural

__all__ = ["Proposal", "propose"]

PATHOLOGY, BRAIN = "pathology_medi_diffusion", "brain_mri_fair_text_diffusion"
#: microns per pixel where nothing says: a usual scan, called a guess in the overlay
GUESSED_MPP = 0.5
#: sides of patches that are proposed, in pixels
SIDES = (128, 64, 32, 16)
#: values of sex where no table lists them: DICOM's, and names of folders and files
SEXES = ["F", "M"]
WOMEN, MEN = {"f", "female", "w", "woman", "weiblich", "2"}, {"m", "male", "man", "männlich", "1"}


@dataclass
class Proposal:
    """An overlay.

    Args:
        bundle: name of its folder.
        settings: of the overlay, in its order.
        comments: by setting, what its line says.
        recognized: lines for the user: what was taken.
        left_out: what was not, and why.
        checks: what to look at.
    """

    bundle: str
    settings: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    recognized: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def propose(found: Survey) -> Proposal:
    """The overlay for a folder."""
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
    """The table whose rows name most of the images, its pattern and columns; or the pattern of folders."""
    images = found.images
    if found.kind == "volumes":
        guess, images, others = guess_volume_pattern(images)
        left = f"volumes of another kind: {', '.join(others)}; to take one of them, change the name in the pattern"
        proposal.left_out += [left] if others else []
    matches = [(match, table) for table in found.tables if (match := column_pattern(table.cells, images))]
    visit = one_session(images) if found.kind == "volumes" else images
    if not matches and len(visit) < len(images):
        # a row of participants names one volume: that of one visit
        matches = [(match, table) for table in found.tables if (match := column_pattern(table.cells, visit))]
        if matches:
            proposal.left_out.append(f"{plural(len(images) - len(visit), 'volume')} of other visits")
    if matches and found.kind != "dicom":
        (pattern, share), table = max(matches, key=lambda item: (item[0][1], len(item[1].cells)))
        proposal.recognized.append(f"table {table.path}: {share:.0%} of its rows name a file as {pattern}")
        proposal.left_out += [f"table {other.path}" for _, other in matches if other is not table]
        return table, pattern, recognize(table.cells, pattern_fields(pattern))
    for table in found.tables:
        proposal.left_out.append(f"table {table.path}: its rows name no file of {found.root}")
    if found.kind == "dicom":
        return None, "", Recognized()
    pattern = guess if found.kind == "volumes" else guess_pattern(images)
    return None, pattern, Recognized()


def _patches(found: Survey, proposal: Proposal, table: FoundTable | None, pattern: str, columns: Recognized) -> None:
    settings, comments = proposal.settings, proposal.comments
    if table is None:
        fields = [name for name in dict.fromkeys(pattern_fields(pattern)) if name != "slide"]
        classes = [name for name in fields if name != "patient"]
        settings["table"] = pattern
        comments["table"] = "no table: the columns are parts of the paths; * matches the rest"
        columns.label = "diagnosis" if "diagnosis" in classes else next(iter(classes), None)
        columns.attributes = [name for name in fields if name not in ("patient", columns.label)]
        if "patient" not in fields:
            settings["columns"] = {"patient": None}
        proposal.recognized.append(f"folders as {pattern}")
        if columns.attributes:
            proposal.checks.append(
                f"which part of the path is what is a guess: {pattern}; rename the columns in braces"
            )
    else:
        settings["table"] = table.setting
        roles = columns.roles
        settings["columns"] = {
            "image": pattern,
            "slide": roles.get("slide"),
            "patient": roles.get("patient"),
            "mpp": roles.get("mpp"),
        }
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


def _unknown_patients(table: FoundTable | None, columns: Recognized, pattern: str) -> str:
    start = "patients are unknown: images of one patient may be in training and in the holdout. "
    if table is None:
        example = pattern.rpartition("/")[0]
        return start + f'If names of files begin with them: table: "{example + "/" if example else ""}{{patient}}_*.*"'
    unused = [name for name in columns.left_out if 2 < table.cells[name].nunique() < len(table.cells)]
    named = f", such as {unused[0]!r}" if unused else ""
    return start + f"If a column names them{named}, write it in place of null in `columns`"


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
    mpp = found.mpp or GUESSED_MPP
    if found.mpp is None and "mpp" not in columns.roles:
        settings["source_mpp"] = GUESSED_MPP
        comments["source_mpp"] = "EDIT: microns per pixel of the files, which do not say; 0.5 is a guess"
        proposal.checks.append("microns per pixel: neither files nor table say; source_mpp: 0.5 is a guess")
    side = next((side for side in SIDES if found.side is None or side <= found.side), SIDES[-1])
    settings["image_size"] = side
    if found.kind == "patches" and found.side:
        # the whole patch, reduced to the size of the network
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
        settings["table"] = {"layout": "dicom", "path": "."}
        comments["table"] = 'one row per series; choose some by series: "*FLAIR*"'
        columns = _tags(found.series, proposal, columns)
        settings["mapping"] = columns.mapping
    elif table is None:
        settings["table"] = pattern
        comments["table"] = "no table: the columns are parts of the paths; * matches the rest"
        proposal.recognized.append(f"{found.kind} as {pattern}")
        columns.attributes = [
            name for name in dict.fromkeys(pattern_fields(pattern)) if name not in ("patient", "slide")
        ]
        if "patient" not in pattern_fields(pattern):
            settings["columns"] = {"patient": None}
            proposal.checks.append("patients are unknown: images of one patient may be on both sides of the split")
    else:
        settings["table"] = table.setting
        patient = columns.roles.get("patient") or (pattern_fields(pattern)[0] if found.kind == "volumes" else None)
        settings["columns"] = {"image": pattern, "patient": patient}
        if "caption" in columns.roles:
            settings["columns"]["caption"] = columns.roles["caption"]
        if columns.mapping:
            # words of the captions have ranges of their own
            rules = {name: _without_bins(rule) for name, rule in columns.mapping.items()}
            settings |= {"mapping": {name: rule for name, rule in rules.items() if rule}} if any(rules.values()) else {}
        if columns.missing:
            settings["missing"] = columns.missing
        if columns.label:
            columns.attributes.append(columns.label)
    settings["attributes"] = columns.attributes
    attribute = "sex" if "sex" in columns.attributes else next(iter(columns.attributes), None)
    settings["attribute"] = attribute
    comments["attribute"] = "the sensitive attribute"
    settings["templates"] = _captions(columns, table, settings)
    comments["templates"] = "captions are made of columns: EDIT the words"
    if "caption" in columns.roles:
        # captions are read: of the templates, the words are left, which name values in them
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


#: names of the cohort for tags of DICOM
TAG_NAMES = {"PatientSex": "sex", "PatientAge": "age", "InstitutionName": "center", "ManufacturerModelName": "scanner"}
TAG_NAMES |= {"Manufacturer": "manufacturer", "MagneticFieldStrength": "field_strength"}


def _tags(series: pd.DataFrame, proposal: Proposal, columns: Recognized) -> Recognized:
    """The tags of DICOM that tell patients or scanners apart."""
    for tag, name in TAG_NAMES.items():
        values = sorted(set(series[tag]) - {""})
        if len(values) > 1:
            columns.attributes.append(name)
            columns.mapping[name] = {"column": tag}
        else:
            proposal.left_out.append(f"tag {tag}: " + (f"{values[0]!r} in all series" if values else "empty"))
    descriptions = series["SeriesDescription"].value_counts()
    patients = series["patient"].nunique()
    proposal.recognized.append(f"{len(series):,} series of {plural(patients, 'patient')}")
    if len(descriptions) > 1:
        named = ", ".join(f"{text or 'no description'} ({count})" for text, count in descriptions.items())
        proposal.checks.append(f"several kinds of series are taken: {named}. To choose, add series to `table`")
    return columns


def _without_bins(rule: dict) -> dict:
    return {key: value for key, value in rule.items() if key != "bins"}


def _captions(columns: Recognized, table: FoundTable | None, settings: dict[str, Any]) -> dict[str, Any]:
    plain = {"text": "Axial MR slice of a brain", "weight": 0.5}
    words: dict[str, Any] = {}
    if "sex" in columns.attributes:
        source = settings.get("mapping", {}).get("sex", {}).get("column", "sex")
        values = SEXES if table is None else sorted(set(table.cells[source].str.strip()) - {""})
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
