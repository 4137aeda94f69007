"""TCGA barcodes, which encode the patient, the tissue source site, the sample and the slide in one name.

``TCGA-3B-A9HI-01Z-00-DX1`` is site ``3B``, participant ``A9HI``, sample type ``01``, vial ``Z``, portion ``00`` and
slide ``DX1``; GDC file names append ``.<UUID>.svs``. Source: GDC Encyclopedia, "TCGA Barcode".
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from medi_monai.utils.errors import InputError

__all__ = ["BARCODE_PARTS", "SECTIONS", "match_barcodes", "parse_barcodes"]

#: columns of a parsed barcode, as :func:`parse_barcodes` describes them
BARCODE_PARTS = ("patient", "site", "sample_type", "vial", "portion", "slide", "section")

#: tissue preservation by slide prefix: top, middle and bottom sections are frozen
SECTIONS = {"DX": "diagnostic", "TS": "frozen", "MS": "frozen", "BS": "frozen"}

PATIENT = r"(?P<patient>TCGA-(?P<site>[0-9A-Z]{2})-[0-9A-Z]{4})"
SAMPLE = r"-(?P<sample_type>[0-9]{2})(?P<vial>[A-Z]?)"
PORTION = r"-(?P<portion>[0-9]{2})"
SLIDE = r"-(?P<letters>DX|TS|MS|BS)[0-9A-Z]{1,3}"
FILE = r"(?:\.[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?(?:\.[A-Za-z][0-9A-Za-z]{1,7}){0,2}"
WHOLE = re.compile(f"(?P<slide>{PATIENT}{SAMPLE}{PORTION}{SLIDE}){FILE}")
PART = re.compile(f"{PATIENT}(?:{SAMPLE}(?:{PORTION})?)?{FILE}")


def match_barcodes(names: pd.Series, whole: bool = True) -> pd.DataFrame:
    """Parse barcodes like :func:`parse_barcodes`, but with empty parts for names that are not barcodes."""
    codes, values = pd.factorize(names)
    fields = np.array([_fields_of(value, whole) for value in values], dtype=object).reshape(-1, len(BARCODE_PARTS))
    columns = {
        name: pd.Series(fields[:, index][codes], index=names.index, dtype="str")
        for index, name in enumerate(BARCODE_PARTS)
    }
    return pd.DataFrame(columns, index=names.index)


def parse_barcodes(names: pd.Series, whole: bool = True) -> pd.DataFrame:
    """Parse TCGA barcodes.

    Args:
        names: barcodes, or GDC file names that begin with one.
        whole: whether names have to be slide barcodes; if not, patient, sample and portion barcodes are also accepted.

    Returns:
        Strings with the index of ``names``: ``patient`` (``TCGA-3B-A9HI``), ``site`` (``3B``; ``NA`` and ``01`` are
        codes like any other), ``sample_type`` (``01`` primary tumor, ``06`` metastasis, ``11`` normal tissue …),
        ``vial``, ``portion``, ``slide`` (the barcode without the rest of the file name) and ``section``
        (``diagnostic`` or ``frozen``). Parts that a barcode does not have are empty.

    Raises:
        InputError: if names are not barcodes; the message has the first one and their number.
    """
    barcodes = match_barcodes(names, whole)
    wrong = names[barcodes["patient"] == ""]
    if len(wrong):
        kind = "TCGA slide barcode, such as TCGA-3B-A9HI-01Z-00-DX1" if whole else "TCGA barcode, such as TCGA-3B-A9HI"
        others = f"; nor are {len(wrong) - 1:,} others of {len(names):,}" if len(wrong) > 1 else ""
        raise InputError(f"{wrong.iloc[0]!r} is not a {kind} (a UUID and a file suffix may follow){others}")
    return barcodes


def _fields_of(name: str, whole: bool) -> tuple[str, ...]:
    match = WHOLE.fullmatch(name) or (None if whole else PART.fullmatch(name))
    if match is None:
        return ("",) * len(BARCODE_PARTS)
    fields = {name: text or "" for name, text in match.groupdict().items()}
    fields["section"] = SECTIONS.get(fields.get("letters", ""), "")
    return tuple(fields.get(name, "") for name in BARCODE_PARTS)
