"""Microns per pixel: what the file says, what the table says, and what to do where they disagree."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["ON_CONFLICT", "resolution"]

ON_CONFLICT = ("error", "file", "given")
#: relative difference up to which two resolutions agree: a field of view may be 0.5 % off, no more
AGREEMENT = 0.005
#: pixels of a scanner are square within this; beyond, one of the two numbers is a mistake
MAX_ANISOTROPY = 0.1
#: coarser ones in a file are defaults of image editors, 72 to 600 dots per inch (353 to 42 microns per pixel)
MAX_IN_FILE = 40.0


def resolution(
    path: str | os.PathLike, stored: Sequence[str | None], declared: float | None, on_conflict: str = "error"
) -> tuple[float, float]:
    """(horizontal, vertical) microns per pixel at level 0.

    Args:
        path: the file, for messages.
        stored: what the file says, horizontally and vertically.
        declared: what the table or a setting says, or ``None``.
        on_conflict: where both say and differ by more than 0.5 %: ``error``, or whose word counts.

    Raises:
        InputError: where neither says, they disagree, or the number cannot be one.
    """
    if on_conflict not in ON_CONFLICT:
        raise unknown_value("choice of `mpp_conflict`", on_conflict, ON_CONFLICT)
    spacing = tuple(_number(value) for value in stored)
    if math.isnan(sum(spacing)) or max(spacing) > min(spacing) * (1 + MAX_ANISOTROPY):
        spacing = ()
    if declared is not None and not 0 < declared < 100:
        raise InputError(f"{declared} microns per pixel is not a valid resolution for {path}")
    if not spacing and declared is None:
        raise InputError(
            f"{path} does not contain its resolution (microns per pixel: {stored[0]} x {stored[1]}). Name the column "
            "of the table that contains it as `mpp` in `columns`, or set `source_mpp`."
        )
    if not spacing or declared is None:
        return spacing or (declared, declared)  # type: ignore[return-value]
    if abs(sum(spacing) / 2 / declared - 1) <= AGREEMENT or on_conflict == "file":
        return spacing  # type: ignore[return-value]
    if on_conflict == "given":
        return declared, declared
    raise InputError(
        f"{path} has {sum(spacing) / 2:g} microns per pixel, but the table has {declared:g}. Correct the wrong value, "
        "or set `mpp_conflict` to 'file' or 'given' to select one."
    )


def _number(text: str | None) -> float:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return math.nan
    return value if 0 < value < MAX_IN_FILE else math.nan
