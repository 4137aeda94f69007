"""Forest plots as tables: text that can be read at any width, with points and intervals drawn beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

from medi_monai.results import Figure

__all__ = ["Forest", "ForestCell", "ForestColumn", "ForestRow"]

#: maximum number of intervals between ticks of an axis
MOST_TICKS = 5


@dataclass(frozen=True)
class ForestCell:
    """One figure of a forest plot.

    Args:
        figure: value and interval; None leaves the cell empty.
        text: what is written beside them.
        strong: whether the text is emphasized.
        trainings: values of single trainings, drawn as small dots.
    """

    figure: Figure | None = None
    text: str = ""
    strong: bool = False
    trainings: Sequence[float] = ()

    def values(self) -> list[float]:
        """Return all values that are drawn."""
        if self.figure is None or self.figure.value is None:
            return []
        return [self.figure.value, *(self.figure.ci95 or ()), *self.trainings]


@dataclass(frozen=True)
class ForestRow:
    """One row of a forest plot.

    Args:
        title: name of the row.
        color: color of its points and intervals.
        cells: one cell for each column.
        family: rows of one family are neighbors and share its name.
        words: what the row means, written below its title.
        reference: whether the row is for comparison only; its intervals are dashed.
    """

    title: str
    color: str
    cells: Sequence[ForestCell]
    family: str = ""
    words: str = ""
    reference: bool = False


@dataclass(frozen=True)
class ForestColumn:
    """One axis of a forest plot, with a position in percent for each value.

    Args:
        heading: what is plotted.
        mark: value of the vertical line; None for no line.
        ticks: values of the ticks, ascending; the first and the last one are the ends of the axis.
    """

    heading: str
    mark: float | None
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, heading: str, cells: Iterable[ForestCell], mark: float | None = None) -> ForestColumn:
        """Return the axis that shows all values of the cells, and the mark."""
        values = [value for cell in cells for value in cell.values()] + ([] if mark is None else [mark])
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if low == high:
            low, high = low - 0.1, high + 0.1
        locator = MaxNLocator(MOST_TICKS, steps=[1, 2, 5, 10])
        return cls(heading, mark, tuple(float(round(tick, 9)) for tick in locator.tick_values(low, high)))

    def place(self, value: float) -> float:
        """Return the position of a value in percent of the width."""
        return round(100 * (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]), 2)


@dataclass(frozen=True)
class Forest:
    """A forest plot.

    Args:
        columns: axes, left to right.
        rows: rows, top to bottom.
        heading: heading of the names of the rows.
        notes: for names of families, what they mean.
    """

    columns: Sequence[ForestColumn]
    rows: Sequence[ForestRow]
    heading: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def families(self) -> list[tuple[str, list[ForestRow]]]:
        """Return the families in the order of their first rows, each with its rows."""
        families: dict[str, list[ForestRow]] = {}
        for row in self.rows:
            families.setdefault(row.family, []).append(row)
        return list(families.items())
