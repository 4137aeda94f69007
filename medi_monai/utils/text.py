"""Text as people have it: numbers in cells, spellings that look alike, and characters that a terminal cannot show."""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterable

__all__ = ["alike", "escape_unprintable", "escaped", "is_text", "look_alikes", "number_in", "tidy"]

#: Python's ``float`` also takes ``1_0``, digits of other scripts and ``infinity``
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

#: characters without width, which no reader sees: spaces, joiners and marks of direction, the soft hyphen, the BOM
INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")

WHOLE = re.compile(r"0+(?=\d)")


def number_in(text: str) -> float | None:
    """The finite number that a cell holds, as people write it; None for anything else, as ``1_0``, ``nan`` or ``0,5``.

    >>> number_in(" 0.25 "), number_in("1_0"), number_in("1e400")
    (0.25, None, None)
    """
    text = text.strip()
    number = float(text) if NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def tidy(text: str) -> str:
    """Text in composed form (NFC) without invisible characters, and without blanks around it."""
    return INVISIBLE.sub("", unicodedata.normalize("NFC", text)).strip()


def alike(text: str) -> str:
    """What spellings have in common that look the same or nearly so: Unicode form, case and blanks do not count.

    >>> alike("Ko\\u0308ln ") == alike("KÖLN") and alike("St.  Mary") == alike("st. mary")
    True
    """
    return " ".join(tidy(unicodedata.normalize("NFC", tidy(text).casefold())).split())


def look_alikes(values: Iterable[str]) -> list[list[str]]:
    """Groups of two or more values that differ in nothing but Unicode form, case, blanks, or zeros before a number.

    Returns:
        Each group in the order of ``values``, the most frequent spelling first if they come so.
    """
    groups: dict[str, dict[str, None]] = {}
    for value in values:
        key = alike(value)
        groups.setdefault(WHOLE.sub("", key) if key.isascii() and key.isdigit() else key, {})[value] = None
    return [list(group) for group in groups.values() if len(group) > 1]


def escaped(text: str) -> str:
    """Text with what is no Unicode written out, as a file name in Latin-1: ``M\\\\xfcller.png``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_text(name: str) -> bool:
    """Whether the bytes of a name or path are UTF-8."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def escape_unprintable() -> None:
    """Print what a terminal cannot show as an escape from now on: no run ends because of a hospital's name."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
