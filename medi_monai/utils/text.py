"""Handle text given by users: numbers in cells, look-alike spellings, and characters that a terminal cannot show."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = [
    "alike",
    "are_intervals",
    "escape_unprintable",
    "escaped",
    "in_order",
    "interval_start",
    "is_text",
    "listed",
    "look_alikes",
    "number_in",
    "plural",
    "tidy",
]

#: matches numbers more strictly than Python's ``float``, which also accepts ``1_0``, digits of other scripts and
#: ``infinity``
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

#: invisible characters of zero width: spaces, joiners, direction marks, the soft hyphen and the byte order mark
INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")

#: matches intervals of numbers, as bins are named: ``40-59``, ``40 to 59``, ``80+``, ``<40``
INTERVAL = re.compile(r"\s*(?P<sign>[<>≤≥]?)=?\s*(?P<low>\d+(?:\.\d+)?)\s*(?P<rest>\+|(?:-|–|to\b)\s*\d.*)?")
#: maximum number of values of a column that count as bins
MAX_BINS = 100

WHOLE = re.compile(r"0+(?=\d)")


def listed(names: Iterable[object], most: int = 8) -> str:
    """Join names with commas; if there are more than ``most``, list the first ones and say how many more there are."""
    given = [str(name) for name in names]
    more = f" and {len(given) - most:,} more" if len(given) > most else ""
    return ", ".join(given[:most]) + more


def in_order(values: Iterable[str]) -> list[str]:
    """Return the values sorted as text or, if they are intervals of numbers, by number.

    >>> in_order(["100+", "<40", "40-59", "60-99"])
    ['<40', '40-59', '60-99', '100+']
    """
    names = sorted(values)
    return sorted(names, key=interval_start) if are_intervals(names) else names


def are_intervals(values: Sequence[str]) -> bool:
    """Return whether values are bins of a number, such as ``40-59`` and ``80+``."""
    if not values or len(values) > MAX_BINS:
        return False
    matches = [INTERVAL.fullmatch(value) for value in values]
    return all(matches) and any(match["sign"] or match["rest"] for match in matches if match)


def interval_start(name: str) -> tuple[float, int]:
    """Return the sort key of an interval (see :func:`are_intervals`): its start; ``<40`` comes before ``40-59``."""
    match = INTERVAL.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not an interval of numbers")
    return float(match["low"]), {"<": -1, "≤": -1, ">": 1, "≥": 0, "": 0}[match["sign"]]


def number_in(text: str) -> float | None:
    """Return the finite number in a cell; None for anything else, such as ``1_0``, ``nan`` or ``0,5``.

    >>> number_in(" 0.25 "), number_in("1_0"), number_in("1e400")
    (0.25, None, None)
    """
    text = text.strip()
    number = float(text) if NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def tidy(text: str) -> str:
    """Return text in composed form (NFC), without invisible characters and surrounding whitespace."""
    return INVISIBLE.sub("", unicodedata.normalize("NFC", text)).strip()


def alike(text: str) -> str:
    """Return a key that is equal for spellings that look alike, ignoring Unicode form, case and extra spaces.

    >>> alike("Ko\\u0308ln ") == alike("KÖLN") and alike("St.  Mary") == alike("st. mary")
    True
    """
    return " ".join(tidy(unicodedata.normalize("NFC", tidy(text).casefold())).split())


def look_alikes(values: Iterable[str]) -> list[list[str]]:
    """Return groups of values that differ only in Unicode form, case, spaces, or leading zeros.

    Returns:
        Groups of two or more values in the order of ``values``, so the most frequent spelling is first if they are
        sorted by frequency.
    """
    groups: dict[str, dict[str, None]] = {}
    for value in values:
        key = alike(value)
        groups.setdefault(WHOLE.sub("", key) if key.isascii() and key.isdigit() else key, {})[value] = None
    return [list(group) for group in groups.values() if len(group) > 1]


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Format a count with its noun, in the plural unless the count is 1.

    Args:
        count: number of things.
        noun: noun in the singular.
        nouns: noun in the plural, if it is not the singular with an *s*.

    >>> plural(1, "image"), plural(1200, "image"), plural(2, "patch", "patches")
    ('1 image', '1,200 images', '2 patches')
    """
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def escaped(text: str) -> str:
    """Return text with invalid Unicode escaped, such as the Latin-1 file name ``M\\\\xfcller.png``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_text(name: str) -> bool:
    """Return whether the bytes of a name or path are valid UTF-8."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def escape_unprintable() -> None:
    """From now on, print characters that the terminal cannot show as escapes, so that no name stops a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
