"""The images of a plan, one block at a time: their rows, names and lines in the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort.plans import EVIDENCE, SEEN, draw_values
from medi_monai.cohort.samples import MANIFEST
from medi_monai.runs.sampling.names import Twins, combination_names
from medi_monai.runs.sampling.shares import WorkShare

__all__ = ["COMBINATION", "PlannedImages"]

#: column of the manifest with the name of an image's combination, including columns that the plan left to the model
COMBINATION = "combination"
#: number of images whose rows are in memory at the same time
BLOCK = 4096


class PlannedImages:
    """Images by their position in a plan, which is never expanded as a whole.

    Args:
        plan: combinations with ``count``.
        evidence: for each combination, how close it is to the training data (:data:`EVIDENCE`); None if unknown.
        ranged: columns that may have ranges, from which numbers are drawn.
        recipe: settings of the sampling, for the manifest.
        seed: random seed of the drawn numbers.
        twins: values whose names differ only in case; see :func:`case_twins`.
        share: share of the plan that this run draws.
    """

    def __init__(
        self,
        plan: pd.DataFrame,
        evidence: pd.DataFrame | None,
        ranged: list[str],
        recipe: Mapping[str, Any],
        seed: int,
        twins: Twins,
        share: WorkShare,
    ) -> None:
        self._cells = plan.drop(columns="count").reset_index(drop=True)
        self._evidence = None if evidence is None else evidence.reset_index(drop=True)
        self._ends = np.cumsum(plan["count"].to_numpy(np.int64))
        self._ranged, self._recipe, self._seed, self.share = ranged, recipe, seed, share
        self.keys = list(self._cells.columns)
        self.total = int(self._ends[-1]) if len(plan) else 0
        self.combinations = combination_names(self._cells, twins)

    def __len__(self) -> int:
        return self.share.size(self.total)

    @property
    def columns(self) -> list[str]:
        """Columns of the manifest, without :data:`EVIDENCE`."""
        return ["image", COMBINATION, *self.keys, "number", *MANIFEST]

    @cached_property
    def seen(self) -> dict[str, int] | None:
        """Number of images by how close their combination is to the training data (:data:`SEEN`); None if unknown."""
        if self._evidence is None:
            return None
        counts = np.diff(self._ends, prepend=0)
        sizes = pd.Series(counts).groupby(self._evidence["seen"]).sum()
        return {name: int(sizes[name]) for name in SEEN if name in sizes}

    def blocks(self, share: WorkShare | None = None) -> Iterator[np.ndarray]:
        """Yield the positions of the images of a share (by default, of this run), ascending, one block at a time."""
        for start in range(0, self.total, BLOCK):
            positions = np.arange(start, min(start + BLOCK, self.total))
            own = positions[(share or self.share).owns(positions)]
            if len(own):
                yield own

    def names(self, positions: np.ndarray) -> list[str]:
        """Return the name of the image at each position, ``images/<combination>/<number>.png``."""
        codes, numbers = self._codes(positions)
        folders = self.combinations
        return [f"images/{folders[code]}/{number:05d}.png" for code, number in zip(codes.tolist(), numbers.tolist())]

    def rows(self, positions: np.ndarray) -> pd.DataFrame:
        """Return one row per position with its combination and ``number``, where numbers are drawn from ranges."""
        codes, numbers = self._codes(positions)
        rows = self._cells.iloc[codes].assign(number=numbers).reset_index(drop=True)
        # the folder of an image is named after the range in the plan; its row has the number drawn from it
        return draw_values(rows, self._ranged, self._seed)

    def manifest(self, positions: np.ndarray, files: list[str]) -> pd.DataFrame:
        """Return the lines of the manifest for positions whose images are in the given files."""
        codes, _ = self._codes(positions)
        table = self.rows(positions).assign(**{name: self._recipe[name] for name in MANIFEST})
        table.insert(0, "image", files)
        table.insert(1, COMBINATION, [self.combinations[code] for code in codes.tolist()])
        if self._evidence is not None:
            table = table.assign(**{name: self._evidence[name].to_numpy()[codes] for name in EVIDENCE})
        return table

    def table(self) -> pd.DataFrame:
        """Return the manifest of this run's share as one table, which has to fit in memory."""
        blocks = [self.manifest(positions, self.names(positions)) for positions in self.blocks()]
        return pd.concat(blocks, ignore_index=True)

    def first_of_each(self, codes: list[int], count: int) -> np.ndarray:
        """Return the first positions of some combinations in this run's share, at most ``count`` per combination."""
        chosen: list[int] = []
        for code in codes:
            start = int(self._ends[code - 1]) if code else 0
            own = (at for at in range(start, int(self._ends[code])) if self.share.owns(np.array([at]))[0])
            chosen += islice(own, count)
        return np.array(chosen, np.int64)

    def requested(self, positions: np.ndarray) -> pd.DataFrame:
        """Return the rows of the plan for some positions, without replacing ranges by numbers."""
        return self._cells.iloc[self._codes(positions)[0]].reset_index(drop=True)

    def grid_codes(self, columns: list[str], most: int) -> tuple[list[int], int]:
        """Select combinations for a picture with at most ``most`` rows and columns.

        Args:
            columns: column of the plan for the rows of the picture, then those for its columns.
            most: maximum number of rows and of columns.

        Returns:
            The numbers of the selected combinations, and the number of all combinations.
        """
        first = pd.factorize(self._cells[columns[0]].astype(object), use_na_sentinel=False)[0]
        others = self._cells[columns[1:]].astype(object)
        second = others.groupby(columns[1:], sort=False, dropna=False).ngroup() if columns[1:] else np.zeros(len(first))
        return np.flatnonzero((first < most) & (np.asarray(second) < most)).tolist(), len(first)

    def has_line_breaks(self) -> bool:
        """Return whether a cell contains a carriage return, which ends a line of CSV unless it is quoted."""
        return any(self._cells[name].astype(str).str.contains("\r", regex=False).any() for name in self.keys)

    def _codes(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = np.searchsorted(self._ends, positions, side="right")
        starts = np.concatenate([[0], self._ends])[codes]
        return codes, positions - starts
