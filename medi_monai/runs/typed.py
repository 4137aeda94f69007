"""Options of the command line as they were typed, before Fire reads ``run #2`` as ``run`` and ``a,b`` as a tuple."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Typed", "as_fire_reads", "check_typed", "read_typed"]


class Typed(str):
    """Text of the command line that nothing has read yet."""


def as_fire_reads(value: Any) -> Any:
    """What Fire hands over for a text of the command line; anything else as it is."""
    if not isinstance(value, Typed):
        return value
    from fire.parser import DefaultParseValue

    return DefaultParseValue(str(value))


def read_typed(value: Any) -> Any:
    """A number, a list, a mapping, true, false or None of the command line; text is what was typed.

    Quotes around a whole text keep it from being read as something else, as ``"'2024'"``.
    """
    read = as_fire_reads(value)
    if isinstance(value, Typed) and isinstance(read, str) and value[:1] + value[-1:] not in ("''", '""'):
        return str(value)
    return read


def check_typed(value: Any, check: Callable[[Any], Any]) -> Any:
    """A value by its check, which decides whether ``2024`` or ``a,b`` of the command line is text.

    Args:
        value: as it was given.
        check: raises a ``ValueError`` for what cannot be.

    Raises:
        ValueError: of the check, for the value as it was read.
    """
    read = read_typed(value)
    try:
        return check(read)
    except ValueError:
        # without a value an option reads as True, which is not the text "True"
        if not isinstance(value, Typed) or isinstance(read, (str, bool)) or read is None:
            raise
        try:
            return check(str(value))
        except ValueError:
            pass
        raise
