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

    def cells(self) -> dict[str, float | int | None]:
        """Return the cells of a row of a long table: ``value``, the interval as ``low`` and ``high``, and ``n``."""
        low, high = self.ci95 or (None, None)
        return {"value": self.value, "low": low, "high": high, "n": self.n}
