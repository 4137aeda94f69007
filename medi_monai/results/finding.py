"""One sentence about results, with how grave it is and the figures that it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from medi_monai.results.typed import Result
from medi_monai.utils.errors import unknown_value

__all__ = ["LEVELS", "Finding", "print_findings"]

#: worst first: ``leakage`` and ``error`` void figures, a ``warning`` wants a look, a ``note`` is good to know
LEVELS = ("leakage", "error", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding(Result):
    """What an audit, an evaluation or a probing found.

    Args:
        level: one of :data:`LEVELS`.
        text: a sentence or several.
        figures: numbers that the text rests on, and names that they belong to, as JSON.
        name: of the kind of finding, for programs; empty where none asks for it.

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
