"""Detect byte-identical files stored under different names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medi_monai.cohort.audit.counts import EXAMPLES
from medi_monai.cohort.audit.rows import MISSING, CodedRows
from medi_monai.utils.errors import InputError

__all__ = ["FileCopies"]


@dataclass(frozen=True)
class FileCopies:
    """Byte-identical files that are listed under several slides or patients.

    Args:
        frame: one row per distinct combination of the codes ``file``, ``slide``, ``patient``, ``label`` and ``split``
            (NaN for an empty cell), with ``rows``, the number of cohort rows that have it. Files of only one slide and
            patient are not listed.
        names: names of the values of each column except ``file`` and ``rows``; a code is an index into this list.
        sides: codes of the splits that must not share files: all except ``excluded``.
    """

    frame: pd.DataFrame
    names: dict[str, list[str]]
    sides: list[int]

    @classmethod
    def among(
        cls, fingerprints: Sequence[str], coded: dict[str, tuple[np.ndarray, list[str]]], label: str, rows: CodedRows
    ) -> FileCopies:
        """Find files that occur under several slides or patients.

        Args:
            fingerprints: content fingerprint of each cohort row's file; an empty string if unknown.
            coded: for ``slide``, ``patient``, ``split`` and the label: one code per cohort row, and the names that the
                codes stand for.
            label: key of the label in ``coded``.
            rows: the coded cohort, which defines the splits to compare.

        Raises:
            InputError: if the number of fingerprints differs from the number of rows.
        """
        columns = {"slide": "slide", "patient": "patient", "label": label, "split": "split"}
        prints, count = pd.Series(fingerprints, dtype="str").to_numpy(), len(coded["slide"][0])
        if len(prints) != count:
            raise InputError(f"{len(prints)} fingerprints for {count} rows of the table: there has to be one for each")
        files, _ = pd.factorize(np.where(prints == "", None, prints))
        frame = pd.DataFrame({"file": files, **{name: coded[column][0] for name, column in columns.items()}})
        frame = frame[frame["file"] != MISSING]
        frame = frame.groupby(list(frame.columns)).size().rename("rows").reset_index()
        frame = frame.mask(frame == MISSING)
        owners = frame.groupby("file")[["slide", "patient"]].nunique().max(axis=1)
        frame = frame[frame["file"].isin(owners.index[owners > 1])]
        return cls(frame, {name: coded[column][1] for name, column in columns.items()}, rows.sides)

    def crossing(self) -> dict:
        """Report files that occur in more than one split."""
        in_splits = self.frame[self.frame["split"].isin(self.sides)]
        crossing = in_splits[in_splits["file"].isin(self._with_several(in_splits, "split"))]
        return {
            "count": int(crossing["file"].nunique()),
            "rows": int(crossing["rows"].sum()),
            "examples": self._named(crossing),
        }

    def conflicts(self) -> dict:
        """Report files that occur under several patients or several labels."""
        patients, labels = (self._with_several(self.frame, name) for name in ("patient", "label"))
        conflicting = self.frame[self.frame["file"].isin(patients | labels)]
        return {
            "count": int(conflicting["file"].nunique()),
            "of_several_patients": len(patients),
            "of_several_labels": len(labels),
            "examples": self._named(conflicting),
        }

    @staticmethod
    def _with_several(frame: pd.DataFrame, column: str) -> set[int]:
        counts = frame.groupby("file")[column].nunique()
        return set(counts.index[counts > 1])

    def _named(self, frame: pd.DataFrame) -> list[dict]:
        examples = [
            {
                f"{column}s": [self.names[column][int(code)] for code in sorted(file_rows[column].dropna().unique())]
                for column in ("slide", "patient", "label", "split")
            }
            for _, file_rows in frame.groupby("file")
        ]
        # sorted, so that the examples do not depend on the order of the rows
        return sorted(examples, key=lambda example: (example["slides"], example["patients"]))[:EXAMPLES]
