"""Selecting the rows of a cohort that a run uses."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.table import require_columns
from medi_monai.schema import CategoricalColumn, MetadataSchema
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import generator_from

__all__ = ["build_schema", "captioned_cohort", "training_cohort", "validation_cohort"]


def build_schema(
    table: pd.DataFrame, label: str, attributes: Sequence[str], continuous: Sequence[str]
) -> MetadataSchema:
    """:meth:`MetadataSchema.from_table`; prints a note for numeric attributes that are treated as categorical."""
    schema = MetadataSchema.from_table(table, label, attributes, continuous)
    for column in schema.attributes:
        values = column.values if isinstance(column, CategoricalColumn) else ()
        if len(values) > 8 and pd.to_numeric(pd.Series(values), errors="coerce").notna().all():
            print(
                f"{column.name!r} has {len(values)} values, all numbers, and is treated as categorical; if it is "
                "a quantity, add it to `continuous`",
                flush=True,
            )
    return schema


def captioned_cohort(cohort: Cohort, split: str = "train") -> Cohort:
    """Captioned rows of a split.

    Raises:
        InputError: for a cohort without captions, or an empty split.
    """
    require_columns(cohort.table, ["caption"], cohort.root)
    rows = cohort.split(split)
    if len(rows) == 0:
        raise InputError(f"the cohort in {cohort.root} has no image in the split {split!r}")
    return rows


def training_cohort(cohort: Cohort, label: str, min_patches_per_label: int = 2) -> Cohort:
    """Training patches, after checking that each label has enough of them.

    Raises:
        InputError: if a label has fewer than ``min_patches_per_label`` patches.
    """
    rows = cohort.split("train")
    if label not in rows.table.columns:
        raise unknown_value("label", label, rows.table.columns, "It is a column of the cohort table.")
    counts = rows.table[label].value_counts()
    rare = counts[counts < min_patches_per_label]
    if len(rare):
        counted = ", ".join(f"{name!r} ({count})" for name, count in rare.items())
        raise InputError(
            f"labels with fewer than {min_patches_per_label} patches in training: {counted}. Class-balanced sampling "
            "would repeat them endlessly: remove or merge them, or allow this with --min_patches_per_label 1"
        )
    return rows


def validation_cohort(cohort: Cohort, training: Cohort, num_patches: int, seed: int) -> Cohort:
    """A fixed selection of validation patches: from validation patients, or from training if the split has none."""
    rows = cohort.split("val")
    if len(rows) == 0:
        print("the split has no validation patients: the validation loss is computed on training patches", flush=True)
        rows = training
    chosen = torch.randperm(len(rows), generator=generator_from("validation", seed))[:num_patches].sort().values
    return Cohort(rows.table.iloc[chosen.tolist()].reset_index(drop=True), rows.root)
