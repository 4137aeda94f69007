"""Explain in one line that a run failed because the user replaced a component or an expression of the config."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medi_monai.utils.errors import InputError

__all__ = ["error_of_replaced", "replaced_values"]

#: maximum number of characters of a value, or of an error, to show
SHOWN = 120


def replaced_values(config: Mapping[str, Any], of_user: set[str], settings: set[str]) -> dict[str, Any]:
    """Return the values with which the user replaced components and expressions of the config, by id.

    Args:
        config: merged config.
        of_user: ids given by the user.
        settings: ids of declared settings, whose values have already been checked unless they are expressions.
    """
    return {
        name: value
        for name, value in config.items()
        if name in of_user and (name not in settings or (isinstance(value, str) and value.startswith("$")))
    }


def error_of_replaced(error: BaseException, replaced: Mapping[str, Any]) -> InputError | None:
    """Return an error for the user that names the cause, where in the code it was raised, and what was replaced.

    Args:
        error: error with which the run failed.
        replaced: result of :func:`replaced_values`.

    Returns:
        The error; None if nothing was replaced.
    """
    if not replaced:
        return None
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_file()]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    given = ", ".join(f"{name} = {_short(repr(value))}" for name, value in replaced.items())
    return InputError(
        f"the run fails with {type(error).__name__}: {_short(' '.join(str(error).split()))}{where}. "
        f"The config was changed by {_short(given, 4 * SHOWN)}: give what the bundle's own config has there, or its "
        "equivalent"
    )


def _short(text: str, length: int = SHOWN) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
