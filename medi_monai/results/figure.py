"""A measured number, with its confidence interval and its count."""

from __future__ import annotations

from dataclasses import dataclass

from medi_monai.results.typed import Result

__all__ = ["Figure"]


@dataclass(frozen=True)
class Figure(Result):
    """A measured number; in JSON ``{"value", "ci95", "n"}``, as the functions of ``metrics`` return it.

    Args:
        value: the number; ``None`` if it is undefined.
        ci95: lower and upper end of the 95 % interval; ``None`` if there is none.
        n: number of units it was measured on: images, patients or pairs.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    n: int | None = None
