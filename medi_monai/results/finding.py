"""Findings: statements about results, each with its severity and the figures that support it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from medi_monai.results.typed import Result
from medi_monai.utils.errors import unknown_value

__all__ = ["LEVELS", "Finding", "print_findings"]

#: worst first: ``leakage`` and ``error`` invalidate results, a ``warning`` should be checked, a ``note`` informs
LEVELS = ("leakage", "error", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding(Result):
    """A finding of an audit, an evaluation or a probing.

    Args:
        level: severity, one of :data:`LEVELS`.
        text: one or more sentences.
        figures: figures that support the text, by name; values of JSON.
        name: machine-readable name of the kind of finding; empty if no program needs it.

    Raises:
        InputError: for an unknown level.
    """

    level: Annotated[str, Field(json_schema_extra={"enum": list(LEVELS)})]
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise unknown_value("level of a finding", self.level, LEVELS)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print findings, each on a line that begins with its level."""
    for finding in findings:
        print(f"{finding.level.upper()}: {finding.text}", flush=True)
