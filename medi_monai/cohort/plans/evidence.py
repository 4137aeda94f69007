"""How close the combinations of a plan are to those that a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from medi_monai.results.training import TrainingRecord
from medi_monai.schema import is_missing

__all__ = ["EVIDENCE", "SEEN", "TrainingCounts"]

#: columns of a manifest: which part of the combination was in training (see :data:`SEEN`), the number of training
#: patches with the combination, and the number with its rarest value
EVIDENCE = ("seen", "training_patches", "rarest_value_patches")
#: ``combination``: the combination itself was in training; ``pairs``: all pairs of its values were, but not all values
#: together; ``values``: all of its values were, but not all pairs; ``no``: at least one value was not
SEEN = ("combination", "pairs", "values", "no")


class TrainingCounts:
    """Numbers of training patches of combinations, of pairs of values, and of single values.

    Args:
        record: record of the training; it does not contain continuous attributes, which are ignored.
    """

    def __init__(self, record: TrainingRecord) -> None:
        self.columns = record.columns
        self._table = pd.DataFrame([key for key, _ in record.combinations], columns=list(record.columns), dtype=object)
        self._sizes = pd.Series([size for _, size in record.combinations], dtype="int64")

    def of(
        self, plan: pd.DataFrame, mixtures: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType({})
    ) -> pd.DataFrame:
        """Return the columns :data:`EVIDENCE` for each row of a plan, with the index of the plan.

        An empty cell is the *unknown* value. Columns in which all cells are None are left to the model and ignored.

        Args:
            plan: combinations, one per row.
            mixtures: for each mixture, given as column and cell, the values that it mixes. A mixture counts as not in
                training; its rarest value is the rarest one that it mixes.
        """
        evidence = self._of(plan)
        for (name, cell), values in mixtures.items():
            mixed = plan[plan[name] == cell] if name in plan.columns else plan.head(0)
            if len(mixed):
                of_values = [self.of(mixed.assign(**{name: value}), mixtures) for value in values]
                rarest = pd.concat([of_value["rarest_value_patches"] for of_value in of_values], axis=1).min(axis=1)
                seen = rarest.map(lambda count: "values" if count else "no")
                evidence.loc[mixed.index, list(EVIDENCE)] = pd.DataFrame(dict(zip(EVIDENCE, (seen, 0, rarest))))
        return evidence

    def _of(self, plan: pd.DataFrame) -> pd.DataFrame:
        columns = [name for name in self.columns if name in plan.columns and not all(c is None for c in plan[name])]
        cells = plan[columns].astype(object)
        cells = cells.mask(cells.map(is_missing), "").astype(str)
        whole = self._lookup(cells, columns)
        rarest = whole.copy() if not columns else None
        for name in columns:
            single = self._lookup(cells, [name])
            rarest = single if rarest is None else rarest.where(rarest <= single, single)
        seen = pd.Series("values", index=plan.index, dtype=object)
        if len(columns) > 2:
            pairs = [(first, second) for at, first in enumerate(columns) for second in columns[at + 1 :]]
            together = pd.concat([self._lookup(cells, pair) > 0 for pair in pairs], axis=1).all(axis=1)
            seen[together] = "pairs"
        seen[rarest == 0] = "no"
        seen[whole > 0] = "combination"
        return pd.DataFrame(dict(zip(EVIDENCE, (seen, whole, rarest))), index=plan.index)

    def lacking(self, column: str) -> int | None:
        """Return the number of training patches without a value in a column; None if the column is not recorded."""
        return int(self._sizes[self._table[column] == ""].sum()) if column in self.columns else None

    def _lookup(self, cells: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
        if not columns:
            return pd.Series(int(self._sizes.sum()), index=cells.index)
        names = list(columns)
        sizes = self._sizes.groupby([self._table[name] for name in names]).sum()
        keys = cells[names[0]] if len(names) == 1 else pd.MultiIndex.from_frame(cells[names])
        return pd.Series(sizes.reindex(keys, fill_value=0).to_numpy(), index=cells.index)
