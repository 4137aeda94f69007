"""Check the roles of columns in the config of a cohort."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["check_columns"]


def check_columns(columns: Mapping[str, Any], roles: Collection[str]) -> None:
    """Check the setting ``columns``, which names a column for each role.

    Raises:
        InputError: for an unknown role, or a name that is not a string, such as an unquoted ``no`` in YAML.
    """
    for role, name in columns.items():
        if role not in roles:
            raise unknown_value("role in `columns`", role, roles)
        if isinstance(name, (bool, float, list, tuple, Mapping)):
            raise InputError(
                f"columns: {{{role}: {name!r}}} is not the name of a column. YAML turns yes, no, on and off into True "
                f"and False: put a name in quotes, or write {role}: null if there is no such column"
            )
