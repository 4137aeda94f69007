"""Map tissue source site codes to centers, and unify the spellings of one center.

A TCGA site code occurs in only one project, so the code determines the cancer type; centers are shared by projects and
can be recombined with them. The user provides the table of codes; none is included.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from medi_monai.cohort.table import require_columns
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.tables import read_table

__all__ = ["CENTER_ALIASES", "read_code_table", "spellings"]

#: Institutions that the NCI's table of tissue source site codes (830 codes, 215 names) spells in more than one way.
#: Names of the same institution are merged if they differ in punctuation, abbreviation, a typing error, the place or
#: the department. Not merged are networks and their members (``BLN - …``, ``ABS - …``, ``Washington University -
#: NYU``), other campuses (``Mayo Clinic Arizona``), hospitals with separate names (``Harvard Beth Israel``), and pairs
#: that may be two institutions (``University of Kansas Medical Center``, ``Michigan University``, ``Baylor Network``).
CENTER_ALIASES: dict[str, tuple[str, ...]] = {
    "ABS - IUPUI": ("ABS IUPUI",),
    "BC Cancer Agency": ("British Columbia Cancer Agency",),
    "BLN - Baylor": ("BLN Baylor",),
    "BLN - UT Southwestern Medical Center at Dallas": ("BLN UT Southwestern Medical Center at Dallas",),
    "Brigham and Women's Hospital": ("Brigham and Women's Hospital Division of Thoracic Surgery",),
    "Christiana Healthcare": ("Christiana Care",),
    "Cleveland Clinic": ("Cleveland Clinic Foundation",),
    "Duke University": ("Duke",),
    "Emory University": ("Emory University - Winship Cancer Inst.",),
    "Fondazione-Besta": ("Milan - Italy, Fondazione IRCCS Instituto Neuroligico C. Besta",),
    "Fox Chase Cancer Center": ("Fox Chase",),
    "Greenville Health System": ("Greenville Health Systems",),
    "Gundersen Lutheran Health System": ("Gundersen Lutheran",),
    "Hartford Hospital": ("Hartford",),
    "ILSBio": ("ILSBIO", "ILSbio"),
    "International Genomics Consortium": ("International Genomics Conosrtium",),
    "MD Anderson Cancer Center": ("MD Anderson", "University of Texas MD Anderson Cancer Center"),
    "Mayo Clinic": ("Mayo",),
    "Mayo Clinic - Rochester": ("Mayo Clinic Rochester",),
    "Memorial Sloan Kettering Cancer Center": ("MSKCC", "Memorial Sloan Kettering"),
    "Ohio State University": ("The Ohio State University",),
    "Ontario Institute for Cancer Research (OICR)": ("Ontario Institute for Cancer Research",),
    "Proteogenex, Inc.": ("Proteogenex, Inc",),
    "Roswell Park": ("Roswell",),
    "St. Joseph's Hospital (AZ)": ("St. Joseph's Hospital AZ", "St. Joseph's Hospital Arizona"),
    "St. Joseph's Medical Center (MD)": ("St Joseph's Medical Center (MD)", "St. Joseph's Medical Center-(MD)"),
    "Thoraxklinik at University Hospital Heidelberg": ("Thoraxklinik",),
    "Translational Genomics Research Institute": ("TGen",),
    "University Health Network": ("University Health Network, Toronto",),
    "University of California San Francisco": ("UCSF",),
    "University of Colorado Denver": ("St. University of Colorado Denver",),
    "University of Hawaii": ("University of Hawaii - Normal Study",),
    "University of Michigan": ("University Of Michigan",),
    "University of North Carolina": ("UNC",),
    "Vanderbilt University": ("Vanderbilt",),
    "Washington University": ("Washington University - St. Louis", "Washington University St. Louis"),
    "Yale University": ("Yale",),
}

#: built-in sets of aliases, by the name used for them in a config
SHIPPED = {"tcga": CENTER_ALIASES}


def spellings(aliases: str | Mapping[str, Sequence[str]] | None) -> dict[str, str]:
    """Return a mapping from each alternative spelling to the preferred name.

    Args:
        aliases: preferred names and their other spellings, such as ``{"UNC": ["University of North Carolina"]}``;
            ``"tcga"`` selects :data:`CENTER_ALIASES`; ``None`` merges nothing.

    Raises:
        InputError: for an unknown set of aliases, or a spelling that stands for two names or is itself a preferred
            name.
    """
    if isinstance(aliases, str):
        if aliases not in SHIPPED:
            raise unknown_value("set of aliases", aliases, SHIPPED, "Or use names with lists of their spellings.")
        aliases = SHIPPED[aliases]
    if aliases is not None and not isinstance(aliases, Mapping):
        raise InputError(f"aliases = {aliases!r}: use names with lists of their spellings, or 'tcga'")
    name_of: dict[str, str] = {}
    for name, others in (aliases or {}).items():
        for other in (others,) if isinstance(others, str) else others:
            if name_of.setdefault(str(other), str(name)) != str(name):
                raise InputError(f"aliases: {other!r} is a spelling of {name_of[str(other)]!r} and of {name!r}")
    for name in set(name_of.values()) & set(name_of):
        raise InputError(f"aliases: {name!r} has spellings of its own, but is also a spelling of {name_of[name]!r}")
    return name_of


def read_code_table(
    path: str | os.PathLike, key: str, value: str, name_of: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Read the meaning of each code from a table; codes are strings, so ``NA`` and ``01`` are kept.

    Args:
        path: CSV, TSV, Excel or Parquet file.
        key: column of the codes.
        value: column of their meanings.
        name_of: preferred name of each alternative spelling, from :func:`spellings`.

    Raises:
        InputError: for a missing table or column, or a code with two meanings.
    """
    names = name_of or {}
    table = read_table(path)
    require_columns(table, (key, value), f"{path}, as set by `key` and `value`")
    codes, values = table[key].str.strip().tolist(), clean_cells(table[value], ()).tolist()
    meanings: dict[str, str] = {}
    for code, center in zip(codes, (names.get(center, center) for center in values)):
        if meanings.setdefault(code, center) != center:
            raise InputError(f"{path}: the {key} {code!r} stands for {meanings[code]!r} and for {center!r}")
    return meanings
