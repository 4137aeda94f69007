"""Determine the resolution of slides in microns per pixel, from the file and the table, and resolve conflicts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["ON_CONFLICT", "is_resolution", "resolution"]

ON_CONFLICT = ("error", "file", "given")
#: relative difference up to which two resolutions agree: the field of view may be off by at most 0.5%
AGREEMENT = 0.005
#: maximum relative deviation from square pixels in scanners; beyond it, a number is wrong or the image was resized
MAX_ANISOTROPY = 0.1
#: coarser values in a file are ignored: they are defaults of image editors, 72 to 600 dots per inch (353 to 42 microns
#: per pixel)
MAX_IN_FILE = 40.0


def resolution(
    path: str | os.PathLike,
    stored: Sequence[str | float | None],
    declared: float | None,
    on_conflict: str = "error",
) -> tuple[float, float]:
    """Return the (horizontal, vertical) microns per pixel at level 0.

    Args:
        path: path of the file, for messages.
        stored: horizontal and vertical microns per pixel stored in the file; None if missing.
        declared: microns per pixel from the table or a setting, or ``None``.
        on_conflict: what to do if the two differ by more than 0.5%, or pixels are not square according to the file:
            raise an ``error``, or use the resolution of the ``file`` or the one that is ``given``.

    Raises:
        InputError: if both are missing, ``declared`` is invalid, or there is a conflict that ``on_conflict`` does not
            resolve.
    """
    if on_conflict not in ON_CONFLICT:
        raise unknown_value("choice of `mpp_conflict`", on_conflict, ON_CONFLICT)
    if declared is not None and not 0 < declared < 100:
        raise InputError(f"{declared} microns per pixel is not a valid resolution for {path}")
    if not is_resolution(stored):
        if declared is not None:
            return declared, declared
        raise InputError(
            f"{path} does not contain its resolution (microns per pixel: {stored[0]} x {stored[1]}). Name the column "
            "of the table that contains it as `mpp` in `columns`, or set `source_mpp`."
        )
    across, down = _number(stored[0]), _number(stored[1])
    square = max(across, down) <= min(across, down) * (1 + MAX_ANISOTROPY)
    if square and (declared is None or abs((across + down) / 2 / declared - 1) <= AGREEMENT):
        return across, down
    if on_conflict == "file":
        return across, down
    if on_conflict == "given" and declared is not None:
        return declared, declared
    if square:
        raise InputError(
            f"{path} has {(across + down) / 2:g} microns per pixel, but the table has {declared:g}. Correct the wrong "
            "value, or set `mpp_conflict` to 'file' or 'given' to select one."
        )
    raise InputError(
        f"the pixels of {path} are not square: {across:g} x {down:g} microns. If that is correct, set "
        "`mpp_conflict` to 'file' to resample patches to square pixels; if not, set it to 'given' and give the "
        "resolution as a column `mpp` of the table or as `source_mpp`."
    )


def is_resolution(stored: Sequence[str | float | None]) -> bool:
    """Return whether a file has valid microns per pixel in both directions that are no defaults of image editors."""
    return not any(math.isnan(_number(value)) for value in stored)


def _number(text: str | float | None) -> float:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return math.nan
    return value if 0 < value < MAX_IN_FILE else math.nan
