"""Map the columns of a table to a clean label and attributes.

A rule names, for one column of the cohort, the source column in the table and the steps applied to its values, in this
order: ``barcode`` extracts a part of a TCGA barcode, ``lookup`` replaces a code by its value in a table, ``aliases``
unifies spellings, ``bins`` replaces a number by its interval (a value outside of all intervals becomes empty, with a
note), and ``rename`` and ``merge`` give values new names. After that, words for missing data become empty, except words
that a rule names: with ``rename: {none: no tumor}``, ``none`` is a value.

.. code-block:: yaml

    mapping:
      race: {column: race, merge: {other: [american indian or alaska native]}, rename: {white: White}}
      age: {column: age_at_index, bins: decades}        # or edges: [0, 40, 60, 80]
      site: {column: slide_submitter_id, barcode: site}
      center: {column: tissue_source_site, lookup: sites.csv, key: tissue_source_site, value: center, aliases: tcga}
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort.tables.barcodes import BARCODE_PARTS, match_barcodes
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.cohort.tables.centers import read_code_table, spellings
from medi_monai.schema import MISSING_WORDS, missing_cells
from medi_monai.utils.errors import InputError, nearest, unknown_value
from medi_monai.utils.text import plural

__all__ = ["Bins", "ColumnRule", "Lookup", "Mapped", "parse_mapping"]

KEYS = ("column", "barcode", "lookup", "key", "value", "aliases", "unlisted", "bins", "rename", "merge")
LOOKUP_KEYS = ("key", "value", "unlisted")
UNLISTED = ("error", "missing", "keep")

#: largest age for bins of decades: larger values are not in years, such as the GDC's ``age_at_diagnosis`` (days)
MAX_AGE = 130
#: maximum number of notes per rule that are printed
MAX_NOTES = 8


@dataclass(frozen=True)
class Lookup:
    """Table of codes, such as tissue source sites and their centers.

    Args:
        table: path of a CSV, TSV, Excel or Parquet file, relative to the data set's folder.
        key: column of the codes.
        value: column of their meanings.
        unlisted: what to do with codes that are not in the table: raise an ``error``, treat them as ``missing``, or
            ``keep`` the code itself.
    """

    table: str
    key: str
    value: str
    unlisted: str = "error"

    def __post_init__(self) -> None:
        if self.unlisted not in UNLISTED:
            raise unknown_value("choice of `unlisted`", self.unlisted, UNLISTED)


@dataclass(frozen=True)
class Bins:
    """Half-open intervals ``[low, high)`` of a number, named after the whole numbers in them, such as ``60-69``.

    Args:
        edges: increasing edges, at least two; if they are not all whole numbers, bins are named after their edges, such
            as ``0.5-1.5``.
        open_end: whether the last edge starts an open-ended bin, such as ``80+``.
    """

    edges: tuple[float, ...]
    open_end: bool = True

    def __post_init__(self) -> None:
        numbers = all(isinstance(edge, (int, float)) and math.isfinite(edge) for edge in self.edges)
        if len(self.edges) < 2 or not numbers:
            raise InputError(f"bins = {list(self.edges)}: use two or more edges, such as [0, 40, 60, 80], or 'decades'")
        for low, high in pairwise(self.edges):
            if not low < high:
                raise InputError(f"bins = {list(self.edges)}: edges must increase, but {high:g} follows {low:g}")

    @classmethod
    def decades(cls) -> Bins:
        """Return bins of ages in years: ``0-9``, ``10-19`` … ``120-129``."""
        return cls(tuple(range(0, MAX_AGE + 1, 10)), open_end=False)

    def name_of(self, number: float) -> str | None:
        """Return the name of the bin that contains a number, or ``None`` if no bin does."""
        for low, high in pairwise(self.edges):
            if low <= number < high:
                whole = all(float(edge).is_integer() for edge in self.edges)
                return f"{low:.0f}-{high - 1:.0f}" if whole and high - low > 1 else self._edges(low, high, whole)
        return f"{self.edges[-1]:g}+" if self.open_end and number >= self.edges[-1] else None

    @staticmethod
    def _edges(low: float, high: float, whole: bool) -> str:
        return f"{low:g}" if whole else f"{low:g}-{high:g}"


@dataclass(frozen=True)
class Mapped:
    """A mapped column.

    Args:
        values: the new column; empty for missing data and invalid values.
        problems: for each row, why its value is invalid; empty for valid rows.
        notes: notes for the user about values outside of all bins and parts of the rule that had no effect.
    """

    values: pd.Series
    problems: pd.Series
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ColumnRule:
    """Rule that derives one column of the cohort.

    Args:
        name: column of the cohort.
        column: source column of the table.
        barcode: part of a TCGA barcode to extract, one of :data:`medi_monai.cohort.tables.BARCODE_PARTS`.
        lookup: table of codes.
        aliases: preferred name of each alternative spelling, from :func:`medi_monai.cohort.tables.spellings`.
        bins: intervals for a numeric column.
        names: new names of values; an empty name makes a value missing.
    """

    name: str
    column: str
    barcode: str | None = None
    lookup: Lookup | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    bins: Bins | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def apply(
        self, table: pd.DataFrame, folder: str | os.PathLike = ".", missing: Sequence[str] | None = None
    ) -> Mapped:
        """Apply the rule to a table.

        Args:
            table: table with the column :attr:`column`.
            folder: folder that the path of a table of codes is relative to.
            missing: words for missing data, by default :data:`medi_monai.schema.MISSING_WORDS`.

        Raises:
            InputError: for codes that are not in the table of codes (unless ``unlisted`` allows them), or if no value
                is in a bin.
        """
        words = MISSING_WORDS if missing is None else missing
        codes, values = pd.factorize(table[self.column].astype("str"), use_na_sentinel=False)
        old = clean_cells(pd.Series(values, dtype="str"), ())
        absent = missing_cells(old, words)
        new, wrong = old.copy(), pd.Series("", index=old.index, dtype="str")
        if self.barcode:
            new = match_barcodes(old, whole=self.barcode in ("slide", "section"))[self.barcode]
            wrong = wrong.mask((new == "") & ~absent, "is not a TCGA barcode with this part")
        if self.lookup:
            new = self._looked_up(new, self.lookup, Path(folder), words)
        new = _renamed(new, self.aliases)
        notes: list[str] = []
        if self.bins:
            new, outside = self._binned(new, self.bins, words)
            counts = np.bincount(codes, minlength=len(old))
            notes += [
                f"{self.name}: {self.column} {value!r} ({plural(int(count), 'row')}) {reason}, and is left empty"
                for value, count, reason in zip(old, counts, outside)
                if reason
            ]
        notes += self._unused(set(new))
        new = clean_cells(_renamed(new, self.names), words)
        wrong = wrong.mask(wrong != "", f"{self.column} " + old.map(repr) + " " + wrong)
        values, problems = (column.take(codes).set_axis(table.index).rename(self.name) for column in (new, wrong))
        return Mapped(values, problems, tuple(_shortened(notes)))

    def _looked_up(self, codes: pd.Series, lookup: Lookup, folder: Path, words: Sequence[str]) -> pd.Series:
        known = read_code_table(folder / lookup.table, lookup.key, lookup.value, self.aliases)
        unlisted = sorted(set(codes[~missing_cells(codes, words)]) - set(known))
        if unlisted and lookup.unlisted == "error":
            shown = ", ".join(map(repr, unlisted[:12])) + (", …" if len(unlisted) > 12 else "")
            raise InputError(
                f"mapping of {self.name!r}: {folder / lookup.table} lacks {len(unlisted)} values of {self.column!r}: "
                f"{shown}. Add them to the table, or set unlisted: missing"
            )
        kept = unlisted if lookup.unlisted == "keep" else ()
        return codes.map({**known, **{code: code for code in kept}}).fillna("")

    def _binned(self, cells: pd.Series, bins: Bins, words: Sequence[str]) -> tuple[pd.Series, pd.Series]:
        numbers = pd.to_numeric(cells, errors="coerce").replace([math.inf, -math.inf], math.nan)
        # a word for missing data counts as a value if the rule renames it
        absent = missing_cells(cells, words)
        named = absent & cells.isin(list(self.names))
        present = ~absent
        names = numbers.map(bins.name_of).fillna("").astype("str").mask(named, cells)
        wrong = pd.Series("", index=cells.index, dtype="str")
        wrong = wrong.mask(present & numbers.isna(), "is not a number, so it cannot be binned")
        upper = "" if bins.open_end else f" to {bins.edges[-1]:g}"
        wrong = wrong.mask(present & numbers.notna() & (names == ""), f"lies outside the bins {bins.edges[0]:g}{upper}")
        if present.any() and (wrong[present] != "").all():
            first = cells[present].iloc[0]
            raise InputError(
                f"mapping of {self.name!r}: no value of {self.column!r} fits into the bins; the first one, {first!r}, "
                f"{wrong[present].iloc[0]}"
            )
        return names, wrong

    def _unused(self, values: set[str]) -> tuple[str, ...]:
        unused = [value for value in self.names if value not in values]
        if not unused:
            return ()
        close = nearest(unused[0], sorted(values - {""}), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return (
            f"mapping of {self.name!r}: {self.column!r} has no value {', '.join(map(repr, unused))}{hint}, "
            "named in `rename` or `merge`",
        )


def _shortened(notes: list[str]) -> list[str]:
    # in a column of free text, nearly every row may have a different invalid value
    further = len(notes) - MAX_NOTES
    return notes if further <= 0 else [*notes[:MAX_NOTES], f"and {plural(further, 'further note')} of this kind"]


def parse_mapping(mapping: Mapping[str, Any] | None) -> dict[str, ColumnRule]:
    """Parse and check the mapping of a config, before any table is read.

    Args:
        mapping: ``{name: {column: …, …}}``, as in the docstring of this module; in the short form ``{sex: gender}``,
            the string is the source column.

    Raises:
        InputError: for unknown keys or choices, bins that do not increase, a value with two new names, or a key that is
            given without the keys it needs.
    """
    if mapping is not None and not isinstance(mapping, Mapping):
        raise InputError(f"mapping = {mapping!r}: it must be a mapping of rules, such as {{sex: {{column: gender}}}}")
    rules = {}
    for name, content in (mapping or {}).items():
        try:
            rules[str(name)] = _rule(str(name), {"column": content} if isinstance(content, str) else content)
        except InputError as error:
            raise InputError(f"mapping of {name!r}: {error}") from None
    return rules


def _rule(name: str, content: Any) -> ColumnRule:
    if not isinstance(content, Mapping):
        raise InputError(
            f"{content!r} is not a rule; write {{column: gender}}, optionally with the keys {', '.join(KEYS)}"
        )
    for key in content:
        if key not in KEYS:
            raise unknown_value("key", key, KEYS)
    barcode, bins = content.get("barcode"), content.get("bins")
    if barcode is not None and barcode not in BARCODE_PARTS:
        raise unknown_value("part of a barcode", barcode, BARCODE_PARTS)
    if isinstance(bins, str) and bins != "decades":
        raise unknown_value("word for `bins`", bins, ("decades",), "Or use edges, such as [0, 40, 60, 80].")
    if bins is not None and not isinstance(bins, (str, list, tuple)):
        raise InputError(f"bins = {bins!r}: use edges, such as [0, 40, 60, 80], or 'decades'")
    edges = None if bins is None else Bins.decades() if isinstance(bins, str) else Bins(tuple(bins))
    column, aliases = str(content.get("column", name)), spellings(content.get("aliases"))
    return ColumnRule(name, column, barcode, _lookup(content), aliases, edges, _names(content))


def _lookup(content: Mapping[str, Any]) -> Lookup | None:
    settings = {key: content[key] for key in LOOKUP_KEYS if key in content}
    if "lookup" not in content:
        if settings:
            raise InputError(f"`{next(iter(settings))}` belongs to a `lookup`, the table of codes, which is not given")
        return None
    for key in ("key", "value"):
        if key not in content:
            raise InputError(f"`lookup` needs `{key}`: the column of {'codes' if key == 'key' else 'their meaning'}")
    return Lookup(str(content["lookup"]), **settings)


def _names(content: Mapping[str, Any]) -> dict[str, str]:
    pairs = [(old, new) for old, new in _table(content, "rename").items()]
    for new, olds in _table(content, "merge").items():
        if isinstance(olds, str) or not isinstance(olds, Sequence):
            raise InputError(f"merge: {{{new!r}: {olds!r}}} must be a list of values")
        pairs += [(old, new) for old in olds]
    names: dict[str, str] = {}
    for old, new in ((_text(old), _text(new)) for old, new in pairs):
        if names.setdefault(old, new) != new:
            raise InputError(f"{old!r} is mapped to both {names[old]!r} and {new!r}")
    return names


def _table(content: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
    table = content.get(key) or {}
    if not isinstance(table, Mapping):
        example = "{old: new}" if key == "rename" else "{new: [old, other]}"
        raise InputError(f"{key} = {table!r}: it must be a mapping, such as {example}")
    return table


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        raise InputError(f"{value!r} is not a string: YAML converts yes, no, on, off and null; put it in quotes")
    return str(value)


def _renamed(values: pd.Series, names: Mapping[str, str]) -> pd.Series:
    return values.map(lambda value: names.get(value, value)).astype("str")
