"""How far the combinations of a plan are from what a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from medi_monai.results.training import TrainingRecord
from medi_monai.schema import is_missing

__all__ = ["EVIDENCE", "SEEN", "TrainingCounts"]

#: columns of a manifest: the nearest that was in training, training patches of the combination, and of that of its
#: values that has the fewest
EVIDENCE = ("seen", "training_patches", "rarest_value_patches")
#: ``combination``: in training; ``pairs``: all pairs of its values are, but not together; ``values``: all of its values
#: are, but not all pairs; ``no``: one of its values is not
SEEN = ("combination", "pairs", "values", "no")


class TrainingCounts:
    """Training patches of combinations, of pairs of values and of values.

    Args:
        record: of the training; continuous attributes are not in it and do not count.
    """

    def __init__(self, record: TrainingRecord) -> None:
        self.columns = record.columns
        self._table = pd.DataFrame([key for key, _ in record.combinations], columns=list(record.columns), dtype=object)
        self._sizes = pd.Series([size for _, size in record.combinations], dtype="int64")

    def of(
        self, plan: pd.DataFrame, mixtures: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType({})
    ) -> pd.DataFrame:
        """:data:`EVIDENCE` of each row of a plan, with its index.

        An empty cell is the *unknown* value; columns that are left to the model do not count.

        Args:
            plan: combinations.
            mixtures: values of each mixture, by its column and cell. A mixture was not in training; its rarest
                value is that of those mixed.
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
        """Training patches without a value in a column; None if the column is not recorded."""
        return int(self._sizes[self._table[column] == ""].sum()) if column in self.columns else None

    def _lookup(self, cells: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
        if not columns:
            return pd.Series(int(self._sizes.sum()), index=cells.index)
        names = list(columns)
        sizes = self._sizes.groupby([self._table[name] for name in names]).sum()
        keys = cells[names[0]] if len(names) == 1 else pd.MultiIndex.from_frame(cells[names])
        return pd.Series(sizes.reindex(keys, fill_value=0).to_numpy(), index=cells.index)
