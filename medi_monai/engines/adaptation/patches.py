"""Patches of a new value, from a table, a cohort, or the demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.demo.new_center import NEW_CENTER, demo_new_center
from medi_monai.cohort.table import TABLE_FILES, find_table, require_columns
from medi_monai.engines.settings import AdaptationSettings
from medi_monai.schema import CategoricalColumn, MetadataSchema, is_missing, parse_mixture
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import generator_from
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import plural

__all__ = ["adapted_column", "new_value_patches"]

FEW_PATCHES = 10


def adapted_column(schema: MetadataSchema, attribute: str | None) -> CategoricalColumn:
    """Return the column that gets a new value.

    Args:
        schema: schema of the model.
        attribute: name of the attribute; None for the first categorical one.

    Raises:
        InputError: for an attribute that the model does not have, or that is continuous.
    """
    categorical = [column for column in schema.attributes if isinstance(column, CategoricalColumn)]
    for column in categorical:
        if column.name == attribute or attribute is None:
            return column
    raise unknown_value(
        "categorical attribute of the model",
        attribute or "(first)",
        [column.name for column in categorical],
        "A new value can be learned for these; another class, or a number, cannot.",
    )


def new_value_patches(
    settings: AdaptationSettings, schema: MetadataSchema, train_config: Mapping[str, Any]
) -> tuple[str, Cohort]:
    """Return the name and the patches of the new value; by default those of an additional center of the demo cohort.

    Args:
        settings: settings with ``attribute``, ``value``, ``patches`` and ``max_patches``.
        schema: schema of the model. The table needs its label; its other attributes are used if the table has them.
        train_config: settings of the training, with the size and the resolution of patches.

    Returns:
        The value and its patches: rows with this value if the table has the attribute, and of the split ``train`` if
        it has splits; at most ``max_patches``, drawn at random.

    Raises:
        InputError: for a missing name, a name that the model knows or that reads like a mixture, a missing column or
            file, a table without suitable rows, or patches with another resolution than those of the training.
    """
    path, value = settings.patches, settings.value
    if path is None:
        path, value = str(demo_new_center(train_config["image_size"])), value or NEW_CENTER.name
    elif value is None:
        raise InputError("the new value has no name: give it with --value")
    column = adapted_column(schema, settings.attribute)
    if is_missing(value) or value in column.values:
        raise InputError(
            f"value = {value!r}: the model knows this value of {column.name!r} already. Give a name that is new"
        )
    if parse_mixture(column, value) is not None:
        raise InputError(f"value = {value!r} reads like a mixture: give a name without `:` and `+`")
    file = _table_file(Path(path))
    table = read_table(file)
    require_columns(table, ["image", schema.label.name], file)
    rows = _chosen_rows(table, column.name, value, file)
    _check_resolution(rows, train_config, file)
    if len(rows) > settings.max_patches:
        print(f"{settings.max_patches} of {len(rows):,} patches are used (max_patches)", flush=True)
        order = torch.randperm(len(rows), generator=generator_from("new value", value, len(rows)))
        rows = rows.iloc[order[: settings.max_patches].sort().values.tolist()]
    if len(rows) < FEW_PATCHES:
        print(f"warning: {plural(len(rows), 'patch', 'patches')} of {value}; some tens are needed", flush=True)
    return value, Cohort(rows.assign(**{column.name: value}).reset_index(drop=True), file.parent)


def _table_file(path: Path) -> Path:
    if path.is_dir():
        table = find_table(path)
        if table is None:
            raise InputError(f"{path} contains no {' or '.join(TABLE_FILES)}: give a table of patches, or a cohort")
        return table
    if not path.is_file():
        raise InputError(f"there is no table of patches at {path}")
    return path


def _chosen_rows(table: pd.DataFrame, column: str, value: str, file: Path) -> pd.DataFrame:
    rows = table
    if column in table.columns:
        rows = table[table[column] == value]
        if rows.empty:
            raise unknown_value(f"value of {column!r} in {file}", value, sorted(set(table[column]) - {""}))
    if "split" in rows.columns and not (rows["split"] == "train").all():
        kept = rows[rows["split"] == "train"]
        if kept.empty:
            raise InputError(
                f"none of {plural(len(rows), 'patch', 'patches')} of {value} in {file} is in the split 'train': others "
                "are left for evaluation. Give a table without the column `split` to use them"
            )
        rows = kept
    if rows.empty:
        raise InputError(f"{file} has no rows")
    return rows


def _check_resolution(rows: pd.DataFrame, train_config: Mapping[str, Any], file: Path) -> None:
    expected = train_config.get("mpp")
    if "mpp" not in rows.columns or expected is None:
        return
    given = pd.to_numeric(rows["mpp"], errors="coerce").dropna()
    wrong = given[(given / float(expected) - 1).abs() > 0.005]
    if len(wrong):
        raise InputError(
            f"{plural(len(wrong), 'patch', 'patches')} in {file} have {wrong.iloc[0]:g} microns per pixel, and the "
            f"model was trained at {float(expected):g}: cut the patches at this resolution"
        )
