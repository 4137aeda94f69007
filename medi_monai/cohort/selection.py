"""Select the rows of a cohort that a run uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import stable_order
from medi_monai.cohort.table import require_columns
from medi_monai.schema import CategoricalColumn, MetadataSchema, is_missing
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import generator_from, seed_from
from medi_monai.utils.text import number_in, plural

__all__ = ["build_schema", "captioned_cohort", "training_cohort", "validation_cohort"]


def build_schema(
    table: pd.DataFrame, label: str, attributes: Sequence[str], continuous: Sequence[str]
) -> MetadataSchema:
    """Call :meth:`MetadataSchema.from_table`; print a note on numeric attributes that are treated as categorical."""
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
    """Return the rows of a split of a captioned cohort.

    Raises:
        InputError: for a cohort without captions, or an empty split.
    """
    require_columns(cohort.table, ["caption"], cohort.root)
    rows = cohort.split(split)
    if len(rows) == 0:
        raise InputError(f"the cohort in {cohort.root} has no image in the split {split!r}")
    return rows


def training_cohort(
    cohort: Cohort,
    label: str,
    min_patches_per_label: int = 2,
    continuous: Sequence[str] = (),
    permuted: Sequence[str] = (),
    seed: int = 0,
) -> Cohort:
    """Return the training patches, after checking that each label has enough of them.

    Args:
        cohort: all patches.
        label: column of the class.
        min_patches_per_label: minimum number of patches per label.
        continuous: numeric attributes; cells that are not numbers count as missing, as in the audit of ``preparing``,
            and a note is printed.
        permuted: attributes that are permuted together among the images of each label, so that they say nothing about
            an image that the label does not say; their values and combinations keep their numbers.
        seed: seed of the permutation.

    Raises:
        InputError: if a label has fewer than ``min_patches_per_label`` patches, or none of the values of a numeric
            attribute is a number.
    """
    rows = _with_numbers(cohort, continuous).split("train")
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
    return _with_permuted(rows, label, permuted, seed) if permuted else rows


def _with_permuted(cohort: Cohort, label: str, columns: Sequence[str], seed: int) -> Cohort:
    require_columns(cohort.table, columns, cohort.root)
    table, rng = cohort.table.copy(), np.random.default_rng(seed_from("permuted metadata", seed))
    order = stable_order(table)
    # groupby keeps the order within groups, and sorts these
    for _, rows in pd.Series(order).groupby(table[label].to_numpy()[order]):
        of_label = rows.to_numpy()
        table.loc[table.index[of_label], list(columns)] = table.iloc[rng.permutation(of_label)][
            list(columns)
        ].to_numpy()
    return Cohort(table, cohort.root)


def _with_numbers(cohort: Cohort, continuous: Sequence[str]) -> Cohort:
    table = cohort.table
    for name in (name for name in continuous if name in table.columns):
        cells = table[name].where(table["split"] == "train", "")
        is_number = {cell: is_missing(cell) or number_in(str(cell)) is not None for cell in cells.unique()}
        wrong = cells[~cells.map(is_number)]
        if wrong.empty:
            continue
        first = wrong.index[0]
        where = f"{wrong.iloc[0]!r} in row {first + 1} ({table['image'][first]})"
        if not cells.drop(wrong.index).map(lambda cell: not is_missing(cell)).any():
            raise InputError(
                f"no value of {name!r} in the training rows of {cohort.root} is a number, the first is {where}: take "
                f"{name} out of `continuous`, or write numbers"
            )
        print(
            f"{name}: {plural(len(wrong), 'training row')} of {cohort.root} without a number, as if the cell were "
            f"empty; the first is {where}",
            flush=True,
        )
        table = table.assign(**{name: table[name].mask(table.index.isin(wrong.index), "")})
    return Cohort(table, cohort.root)


def validation_cohort(cohort: Cohort, training: Cohort, num_patches: int, seed: int) -> Cohort:
    """Select a fixed random sample of validation patches, or of training patches if no patient is in validation."""
    rows = cohort.split("val")
    if len(rows) == 0:
        print("the split has no validation patients: the validation loss is computed on training patches", flush=True)
        rows = training
    chosen = torch.randperm(len(rows), generator=generator_from("validation", seed))[:num_patches].sort().values
    return Cohort(rows.table.iloc[chosen.tolist()].reset_index(drop=True), rows.root)
