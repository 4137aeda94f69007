"""One line for a run that fails because the user replaced a component or an expression of the config."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medi_monai.utils.errors import InputError

__all__ = ["error_of_replaced", "replaced_values"]

#: characters of a value, or of an error, that are shown
SHOWN = 120


def replaced_values(config: Mapping[str, Any], of_user: set[str], settings: set[str]) -> dict[str, Any]:
    """Return what the user gave in place of components and expressions of the config.

    Args:
        config: merged config.
        of_user: ids given by the user.
        settings: ids that are declared; their values are checked, apart from expressions.
    """
    return {
        name: value
        for name, value in config.items()
        if name in of_user and (name not in settings or (isinstance(value, str) and value.startswith("$")))
    }


def error_of_replaced(error: BaseException, replaced: Mapping[str, Any]) -> InputError | None:
    """Return the error for the user, naming what was replaced, the cause, and where in the code it was raised.

    Args:
        error: error of the run.
        replaced: :func:`replaced_values`; None is returned if there are none.
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
