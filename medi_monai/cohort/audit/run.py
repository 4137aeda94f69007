"""Audit a cohort with one call that returns a dictionary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medi_monai.cohort.audit.compression import COMPRESSION, QUALITY, compression_section
from medi_monai.cohort.audit.copies import FileCopies
from medi_monai.cohort.audit.counts import (
    attribute_section,
    combination_section,
    missing_section,
    property_section,
    split_sizes,
)
from medi_monai.cohort.audit.findings import find
from medi_monai.cohort.audit.leakage import (
    checked_hashes,
    conflict_section,
    crossing,
    crossing_images,
    crossing_near_duplicates,
)
from medi_monai.cohort.audit.rows import MISSING, CodedRows, code_column, code_numbers, code_split
from medi_monai.cohort.audit.values import look_alike_section, not_numbers, patients_named_by
from medi_monai.cohort.duplicates import MAX_DISTANCE, mean_distance
from medi_monai.cohort.table import require_columns
from medi_monai.results import plain
from medi_monai.schema import check_names
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["PROPERTIES", "audit_cohort"]

#: columns that describe a file rather than a patient; audited if the table has them
PROPERTIES = (
    *("width", "height", "suffix", "file_type", "mpp", "source_mpp", "magnification"),
    *(COMPRESSION, QUALITY),
)

#: largest number of combinations of the values of two columns to cross-tabulate: 32 classes times a million values
MAX_CELLS = 2**25
#: near-duplicates cannot be identified if the hashes of different patients differ in fewer bits than this on average;
#: in all cohorts so far, they differ in 31.8 to 32.1 bits for tissue and in 23 to 25 for brain slices
LEAST_APART = 28.0
SUFFIX = r"\.([A-Za-z0-9]{1,5})$"


def audit_cohort(
    table: pd.DataFrame,
    label: str,
    attributes: Sequence[str],
    *,
    patient: str = "patient",
    slide: str = "slide",
    image: str = "image",
    split: str | None = "split",
    continuous: Sequence[str] = (),
    properties: Sequence[str] | None = None,
    combinations: Sequence[str] | None = None,
    hashes: np.ndarray | None = None,
    fingerprints: Sequence[str] | None = None,
    max_distance: int = MAX_DISTANCE,
    min_patients: int = 5,
    seed: int = 0,
) -> dict:
    """Audit a cohort: contents, leakage across its split, and metadata that predict the class.

    Association is measured on patients, each counted once per class and value, because patches of one patient are not
    independent. The result does not depend on the order of the rows. 1.6 million rows take seconds.

    Args:
        table: one row per patch or per slide; cells for which :func:`~medi_monai.schema.is_missing` is true count as
            empty.
        label: column of the class.
        attributes: metadata columns.
        patient: column of the patient.
        slide: column of the slide.
        image: column of the image; optional in a table of slides.
        split: column of the split, in which ``excluded`` marks rows that belong to no split; ``None`` audits a cohort
            that is not split yet.
        continuous: numeric columns among ``attributes``, audited in ten bins.
        properties: columns that describe files, such as size, type and resolution; by default those in
            :data:`PROPERTIES` that the table has, and the file suffix of the images unless the table has a file type.
        combinations: columns whose combinations are compared between training and the other splits; by default the
            label and all attributes.
        hashes: ``(N,)`` uint64 from :func:`~medi_monai.cohort.duplicates.hash_images`, one per row, used to find
            near-duplicate patches across the split.
        fingerprints: content fingerprint of each row's file, equal for byte-identical files and empty if unknown,
            used to find copies of a file under other names.
        max_distance: largest number of bits, of 64, in which the hashes of near-duplicates differ.
        min_patients: number of patients below which a combination of class and value is rare.
        seed: seed of the bootstrap intervals.

    Returns:
        JSON-compatible dictionary: ``label``, ``settings``, ``splits`` (sizes), ``attributes`` (for each: counts,
        ``cells`` by class, value and split as columns of a table, classes per value, ``association`` by split),
        ``combinations`` (unseen in training), ``missing``, ``properties``, ``compression`` (if the table has the
        columns of :func:`~medi_monai.cohort.audit.compression.compression_columns`), ``conflicts``, ``leakage`` and
        ``findings``.

    Raises:
        InputError: if a column is missing, has two roles, is declared continuous but is not an attribute, or has too
            many values to cross-tabulate; or if hashes or fingerprints have the wrong length.
    """
    attributes = list(attributes)
    roles = {"slide": slide, "patient": patient, **({} if split is None else {"split": split})}
    require_columns(table, [*roles.values(), label, *attributes], "the table of the cohort")
    _check_roles([*roles.values(), image, label, *attributes], label, attributes, continuous)
    crossed = [label, *attributes] if combinations is None else list(dict.fromkeys(combinations))
    for name in crossed:
        if name not in (label, *attributes):
            raise unknown_value("column of `combinations`", name, (label, *attributes))
    codes = _coded(table, roles, label, attributes, continuous, properties, image)
    splits = codes["split"][0]
    rows = CodedRows.of(codes)
    used = [name for name in codes if name not in ("patient", "slide", "split", label, *attributes)]
    _check_sizes(rows, label, attributes, used)
    audit: dict = {
        "label": label,
        "settings": {"min_patients": min_patients, "continuous": list(continuous), "seed": seed},
        "splits": split_sizes(rows, label),
        "attributes": {name: attribute_section(rows, label, name, min_patients, seed) for name in attributes},
        "combinations": None if split is None else combination_section(rows, crossed),
        "missing": missing_section(rows, label, ["patient", "slide", "split", label, *attributes]),
        "properties": property_section(rows, used, [label, *attributes], seed),
        "compression": compression_section(
            table, patient, [name for name in crossed if name != label and name not in continuous]
        ),
        "conflicts": conflict_section(rows, label, attributes),
        "patients_named_by": patients_named_by(table, patient, slide),
        "look_alikes": look_alike_section(table, [label, *attributes]),
        "not_numbers": {name: not_numbers(table[name]) for name in continuous},
        "leakage": None,
    }
    copies = None if fingerprints is None else FileCopies.among(fingerprints, codes, label, rows)
    audit["conflicts"]["identical_files"] = copies and copies.conflicts()
    if split is not None:
        near, bits_apart = None, None
        if hashes is not None:
            named = {"image": image, "slide": slide, "patient": patient}
            near, bits_apart = _near_duplicates(table, named, codes, rows, hashes, max_distance, seed)
        audit["leakage"] = {
            "patients": crossing(rows, "patient"),
            "slides": crossing(rows, "slide"),
            "images": crossing_images(table[image], splits, rows) if image in table.columns else None,
            "near_duplicates": near,
            "files": copies and copies.crossing(),
        }
        audit["bits_apart"] = bits_apart
    audit["findings"] = plain(find(audit))
    return audit


def _near_duplicates(
    table: pd.DataFrame,
    roles: Mapping[str, str],
    codes: Mapping[str, tuple[np.ndarray, list[str]]],
    rows: CodedRows,
    hashes: np.ndarray,
    max_distance: int,
    seed: int,
) -> tuple[dict | None, float | None]:
    """Find near-duplicates across the split; also return in how many bits hashes of different patients differ.

    Args:
        table: table of the cohort.
        roles: columns of image, slide and patient, which describe a pair; those that the table lacks are left out.
        codes: codes and names of the columns, from :func:`_coded`.
        rows: the same rows, coded and counted.
        hashes: ``(N,)`` hashes.
        max_distance: largest number of bits in which the hashes of near-duplicates differ.
        seed: seed of the pairs of patients that are compared.

    Returns:
        The near-duplicates, None if the hashes cannot tell patients apart; and the mean number of bits, None if there
        is a single patient.
    """
    hashes = checked_hashes(hashes, len(table))
    bits_apart = mean_distance(hashes, codes["patient"][0], seed)
    near = None
    # with a single patient, the mean distance is NaN and the comparison is false
    if not bits_apart < LEAST_APART:
        present = {name: column for name, column in roles.items() if column in table.columns}
        near = crossing_near_duplicates(table, present, codes["split"][0], hashes, rows, max_distance)
    return near, bits_apart if math.isfinite(bits_apart) else None


def _check_roles(columns: list[str], label: str, attributes: Sequence[str], continuous: Sequence[str]) -> None:
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"the column {column!r} has two roles in the audit; use each column once")
    check_names((label, *attributes))
    for column in continuous:
        if column not in attributes:
            raise InputError(f"{column!r} is declared continuous but is not among the attributes {list(attributes)}")


def _check_sizes(rows: CodedRows, label: str, attributes: Sequence[str], properties: Sequence[str]) -> None:
    pairs = [(label, name) for name in attributes]
    pairs += [(name, column) for column in properties for name in (label, *attributes)]
    for first, second in pairs:
        counts = len(rows.names[first]), len(rows.names[second])
        if counts[0] * counts[1] > MAX_CELLS:
            raise InputError(
                f"{first!r} has {counts[0]:,} values and {second!r} {counts[1]:,}, too many to "
                f"cross-tabulate. Is {label!r} the label ({len(rows.names[label]):,} classes)? A column with a "
                "different value in each row cannot be a label or attribute; list numeric columns in `continuous`"
            )


def _coded(
    table: pd.DataFrame,
    roles: dict[str, str],
    label: str,
    attributes: Sequence[str],
    continuous: Sequence[str],
    properties: Sequence[str] | None,
    image: str,
) -> dict[str, tuple[np.ndarray, list[str]]]:
    coded = {name: code_column(table[roles[name]]) for name in ("patient", "slide")}
    coded["split"] = (
        code_split(table[roles["split"]]) if "split" in roles else (np.zeros(len(table), np.int32), ["all"])
    )
    coded[label] = code_column(table[label])
    for name in attributes:
        coded[name] = code_numbers(table[name], strict=True) if name in continuous else code_column(table[name])
    meant = [name for name in PROPERTIES if name in table.columns] if properties is None else list(properties)
    require_columns(table, meant, "the table of the cohort")
    for name in meant:
        if name not in coded:
            coded[name] = code_numbers(table[name], strict=False)
    if properties is None and image in table.columns and not {"suffix", "file_type"} & set(coded):
        coded["suffix"] = _suffixes(table[image])
    return coded


def _suffixes(images: pd.Series) -> tuple[np.ndarray, list[str]]:
    endings = images.astype(str).str[-6:]
    codes, names = pd.factorize(endings)
    suffixes = pd.Series(names).str.extract(SUFFIX, expand=False).str.lower()
    value_codes, values = code_column(suffixes)
    return np.array([*value_codes, MISSING], np.int32)[codes], values
