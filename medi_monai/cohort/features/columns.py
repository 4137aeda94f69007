"""Read features from the columns of a Parquet table: one column of lists, or numbered columns."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.utils.errors import InputError, one_line, unknown_value
from medi_monai.utils.tables import read_parquet
from medi_monai.utils.text import listed

__all__ = ["feature_columns_of", "read_feature_columns"]

NUMBERED = re.compile(r"(.*?)(\d+)")


def read_feature_columns(path: str | os.PathLike, columns: str | None = None) -> np.ndarray:
    """Read the features of a Parquet table.

    Args:
        path: Parquet file.
        columns: name of the column of lists, or the beginning of the names of the numbered columns, such as
            ``feature_`` of ``feature_0``, ``feature_1``, …; None if the table has only one of these.

    Returns:
        ``(N, D)`` features; NaN for a missing value.

    Raises:
        InputError: for a file that is no Parquet table, unknown or ambiguous columns, or lists of unequal length.
    """
    names = feature_columns_of(path, columns)
    frame = read_parquet(path, columns=names)
    if len(names) > 1:
        return frame.to_numpy(np.float32, na_value=np.nan)
    (name,) = names
    if not _is_list(frame[name].dropna().head(1)):
        return frame.to_numpy(np.float32, na_value=np.nan)
    lengths = frame[name].map(len, na_action="ignore")
    wrong = np.flatnonzero((lengths != lengths.mode().iloc[0]).to_numpy())
    if len(wrong):
        found = "no list" if pd.isna(lengths.iloc[wrong[0]]) else f"{lengths.iloc[wrong[0]]:,.0f} features"
        raise InputError(
            f"{path}: {name!r} has {found} in row {wrong[0]}, and {lengths.mode().iloc[0]:,.0f} in others; use one "
            "encoder for all rows"
        )
    return np.stack(frame[name].to_list()).astype(np.float32)


def _is_list(cells: pd.Series) -> bool:
    return bool(len(cells)) and isinstance(cells.iloc[0], (list, np.ndarray))


def feature_columns_of(path: str | os.PathLike, columns: str | None = None) -> list[str]:
    """Return the names of the columns that hold the features, in the order of their numbers.

    Args:
        path: Parquet file.
        columns: as for :func:`read_feature_columns`.

    Raises:
        InputError: as for :func:`read_feature_columns`.
    """
    lists, numbered = _candidates(Path(path))
    if columns is not None:
        if columns in lists:
            return [columns]
        if columns in numbered:
            return numbered[columns]
        raise unknown_value("feature_columns", columns, [*lists, *numbered], f"They are expected in {path}.")
    # a single numbered column is rather a grade, such as gleason1
    groups = {start: names for start, names in numbered.items() if len(names) > 1}
    found = [*([name] for name in lists), *groups.values()]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{path} has no column of lists of floats and no numbered columns of floats (feature_0, feature_1, …): "
            "name the features with --feature_columns"
        )
    raise InputError(
        f"{path} has several groups of columns that may be features ({listed(map(repr, [*lists, *groups]), 5)}): "
        "choose one with --feature_columns"
    )


def _candidates(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    # columns of lists of floats, and columns of floats by what is before their number
    import pyarrow
    import pyarrow.parquet
    from pyarrow import types

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"feature_source = {str(path)!r} cannot be read as Parquet ({one_line(error, 200)})") from None
    lists: list[str] = []
    numbered: dict[str, dict[int, str]] = {}
    for field in schema:
        kind = field.type
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            if types.is_floating(kind.value_type):
                lists.append(field.name)
        elif types.is_floating(kind) and (match := NUMBERED.fullmatch(field.name)):
            numbered.setdefault(match[1], {})[int(match[2])] = field.name
    return lists, {start: _by_number(names) for start, names in numbered.items()}


def _by_number(names: Mapping[int, str]) -> list[str]:
    return [names[number] for number in sorted(names)]
