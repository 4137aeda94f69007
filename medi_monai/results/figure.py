"""A number that was measured, with its interval and its count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure:
    """A number that was measured; in JSON ``{"value", "ci95", "n"}``, as the functions of ``metrics`` return it.

    Args:
        value: ``None`` where it is undefined.
        ci95: both ends of the 95 % interval, or ``None`` where there is none.
        n: what it was measured on: images, patients, pairs.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    n: float | None = None

    @classmethod
    def of(cls, figure: Mapping[str, Any]) -> Figure:
        """The figure of a mapping, which may hold more than a figure."""
        interval = figure.get("ci95")
        return cls(figure["value"], None if interval is None else (interval[0], interval[1]), figure.get("n"))
