"""A number that was measured, with its interval and its count."""

from __future__ import annotations

from dataclasses import dataclass

from medi_monai.results.typed import Result

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure(Result):
    """A number that was measured; in JSON ``{"value", "ci95", "n"}``, as the functions of ``metrics`` return it.

    Args:
        value: ``None`` where it is undefined.
        ci95: both ends of the 95 % interval, or ``None`` where there is none.
        n: what it was measured on: images, patients, pairs.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    n: int | None = None
