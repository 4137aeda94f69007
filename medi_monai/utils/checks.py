"""What a setting may be: tests of values, and the words for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KINDS"]


def _is_whole(value: Any, low: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def _is_number(value: Any, low: float = 0.0, high: float = math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high and value < math.inf


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


#: what a setting has to be: a test, and the words for it
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "count": (_is_whole, "a whole number of 1 or more"),
    "optional count": (lambda value: value is None or _is_whole(value), "a whole number of 1 or more, or null"),
    "seed": (lambda value: _is_whole(value, 0), "a whole number from 0 to 2**63 - 1"),
    "rate": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "weight": (_is_number, "a number of 0 or more"),
    "optional fraction": (lambda value: value is None or _is_number(value, 0, 1), "a number from 0 to 1, or null"),
    "optional rate": (lambda value: value is None or (_is_number(value) and value > 0), "a number above 0, or null"),
    "fraction": (lambda value: _is_number(value, 0, 1), "a number from 0 to 1"),
    "names": (_are_names, "a list of column names, such as \"['center', 'sex']\""),
    "values": (_are_names, "a list of values, such as \"['Aspen', 'Birch']\"; in YAML, quote numbers and `no`"),
    "counts": (
        lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(_is_whole, value)),
        'a list of whole numbers, such as "[32, 64]"',
    ),
    "rates": (
        lambda value: _are_numbers(value) and all(number > 0 for number in value),
        'a list of numbers above 0, such as "[0.1, 1, 10]"',
    ),
    "fractions": (
        lambda value: _are_numbers(value) and all(number <= 1 for number in value),
        'a list of numbers from 0 to 1, such as "[0, 0.5, 1]"',
    ),
    "optional strings": (
        lambda value: value is None or _are_names(value),
        "a list of strings, or null; in YAML, quote numbers and `no`",
    ),
    "mapping": (lambda value: isinstance(value, dict), "a mapping"),
    "optional mapping": (lambda value: value is None or isinstance(value, dict), "a mapping, or null"),
    "table": (lambda value: isinstance(value, (str, Path, dict)), "a path or a name, or a mapping"),
    "path": (lambda value: isinstance(value, (str, Path)), "a path; write ./ before a name that consists of digits"),
    "shares": (lambda value: isinstance(value, (str, dict)), "'uniform', 'table' or a mapping of values to shares"),
    "optional shares": (
        lambda value: value is None or isinstance(value, (str, dict)),
        "'uniform', 'table' or a mapping of values to shares, or null",
    ),
    "optional path": (lambda value: value is None or isinstance(value, (str, Path)), "a path, or null"),
    "word": (lambda value: isinstance(value, str), "a word"),
    "optional word": (lambda value: value is None or isinstance(value, str), "a string, or null"),
    "prompts": (
        lambda value: isinstance(value, (str, Path, list, tuple)),
        "'neutral', 'named', a file with one prompt per line, or a list of prompts",
    ),
    "source": (
        lambda value: not isinstance(value, (int, float)),
        "a path or a name; write ./ before a path that consists of digits",
    ),
    "switches": (
        lambda value: isinstance(value, (list, tuple)) and all(isinstance(one, bool) for one in value),
        'a list of True and False, one per level, such as "[False, True, True]"',
    ),
}
