"""Keep options of the command line as typed, as Fire would parse ``run #2`` as ``run`` and ``a,b`` as a tuple."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Typed", "as_fire_reads", "check_typed", "read_typed"]


class Typed(str):
    """Text of the command line that has not been parsed yet."""


def as_fire_reads(value: Any) -> Any:
    """Parse text of the command line as Fire would; anything else is returned unchanged."""
    if not isinstance(value, Typed):
        return value
    from fire.parser import DefaultParseValue

    return DefaultParseValue(str(value))


def read_typed(value: Any) -> Any:
    """Parse a number, list, mapping, true, false or None of the command line; text is returned as typed.

    Text in quotes, such as ``"'2024'"``, is not parsed as anything else.
    """
    read = as_fire_reads(value)
    if isinstance(value, Typed) and isinstance(read, str) and value[:1] + value[-1:] not in ("''", '""'):
        return str(value)
    return read


def check_typed(value: Any, check: Callable[[Any], Any]) -> Any:
    """Check a value, first parsed and then, if that is invalid, as text such as ``2024`` or ``a,b``; return the result.

    Args:
        value: value as given.
        check: function that returns the checked value and raises a ``ValueError`` for invalid ones.

    Raises:
        ValueError: if both are invalid; the error is that of the parsed value.
    """
    read = read_typed(value)
    try:
        return check(read)
    except ValueError:
        # an option without a value is parsed as True, which is not the text "True"
        if not isinstance(value, Typed) or isinstance(read, (str, bool)) or read is None:
            raise
        try:
            return check(str(value))
        except ValueError:
            pass
        raise
