"""Plans with values that a model was not trained on: learned values, mixtures, and paths from one value to another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from medi_monai.cohort.plans import PLANS, read_plan
from medi_monai.engines.generator import ImageGenerator
from medi_monai.networks.learned_values import LearnedValue
from medi_monai.report import labeled_grid
from medi_monai.results.training import RECORD
from medi_monai.schema import (
    CategoricalColumn,
    Conditioning,
    ExtendedSchema,
    MetadataSchema,
    Mixture,
    ValuePath,
    is_missing,
    parse_mixture,
    parse_path,
)
from medi_monai.utils.errors import InputError

__all__ = ["along_path", "extend_model", "path_grid", "path_of", "with_learned"]

#: side in pixels of the images in the picture of a path
CELL_SIZE = 96


def extend_model(
    network: nn.Module,
    generator: ImageGenerator,
    plan: pd.DataFrame,
    learned: Sequence[LearnedValue] = (),
    path: ValuePath | None = None,
) -> tuple[ImageGenerator, pd.DataFrame]:
    """Extend a generator and its network so that they can draw a plan that names learned values or mixtures.

    Args:
        network: trained network; additional values are appended to its embeddings in place, the others do not change.
        generator: generator of the network.
        plan: combinations with ``count``; a cell of a categorical column can be a mixture, such as ``Ash:30+Birch:70``.
        learned: values that were learned for this model.
        path: path that the plan follows, if any; all its steps then get the noise of its start.

    Returns:
        A generator with the extended schema (the same schema if the plan names no additional value), and the plan with
        mixtures in canonical spelling, with rows that are then equal merged.

    Raises:
        InputError: for a mixture that is misspelled or ambiguous.
    """
    schema = generator.schema
    if not isinstance(schema, MetadataSchema):
        return generator, plan
    if path is not None:
        generator = copy(generator)
        generator.noise_from = {path.column: path.values[0]}
    base = schema.base if isinstance(schema, ExtendedSchema) and schema.base is not None else schema
    known = ExtendedSchema.of(base, [value.added for value in learned])
    spelled, used, mixtures = _spelled(plan, known)
    named = [value for value in learned if (value.column, value.value) in used]
    if not named and not mixtures:
        return generator, spelled
    extended = ExtendedSchema.of(base, [value.added for value in named], mixtures)
    rows = {(value.column, value.value): value.embedding for value in named}
    conditioned: Any = network
    conditioned.class_embedding = conditioned.class_embedding.extended(extended, rows)
    conditioned.schema = extended
    drawing = copy(generator)
    drawing.schema = extended
    return drawing, spelled


def _spelled(plan: pd.DataFrame, known: ExtendedSchema) -> tuple[pd.DataFrame, set[tuple[str, str]], list[Mixture]]:
    """Spell the mixtures of a plan canonically.

    Returns:
        The plan, with rows that are then equal merged; the values it names, by themselves or in a mixture, as (column,
        value); and its mixtures in order of occurrence.
    """
    used: set[tuple[str, str]] = set()
    mixtures: dict[tuple[str, str], Mixture] = {}
    spelled = plan
    for column in known.columns:
        if not isinstance(column, CategoricalColumn) or column.name not in plan.columns:
            continue
        cells = plan[column.name].unique()
        texts = {cell: _canonical(column, cell, mixtures) for cell in cells if not is_missing(cell)}
        changed = {cell: text for cell, text in texts.items() if text != cell}
        if changed:
            cells = [changed.get(cell, cell) for cell in plan[column.name]]
            spelled = spelled.assign(**{column.name: pd.Series(cells, plan.index, dtype=object)})
        used.update((column.name, str(text)) for text in texts.values())
    used.update((mixture.column, value) for mixture in mixtures.values() for value, _ in mixture.shares)
    if spelled is not plan:
        keys = [name for name in spelled.columns if name != "count"]
        spelled = spelled.groupby(keys, sort=False, as_index=False, dropna=False)["count"].sum()[list(plan.columns)]
    return spelled, used, list(mixtures.values())


def _canonical(column: CategoricalColumn, cell: object, mixtures: dict[tuple[str, str], Mixture]) -> object:
    """Return a cell in canonical spelling; a mixture of several values is also added to ``mixtures``."""
    mixture = parse_mixture(column, cell) if isinstance(cell, str) else None
    if mixture is None:
        return cell
    if len(mixture.shares) > 1:
        mixtures[column.name, mixture.text] = mixture
    return mixture.text


def with_learned(
    train_config: Mapping[str, Any] | None, schema: Conditioning, learned: Sequence[LearnedValue]
) -> Mapping[str, Any] | None:
    """Add the patches of learned values to the training record, so that their combinations do not count as unseen.

    Args:
        train_config: content of ``model.json``, with or without a :class:`TrainingRecord` as JSON.
        schema: schema of the generator, from :func:`extend_model`, with the values that a plan uses.
        learned: values that were learned for this model.

    Returns:
        The settings with the extended record; unchanged if there is no record, or no learned value is used.
    """
    record = (train_config or {}).get(RECORD)
    used = {value.source for value in schema.added} if isinstance(schema, ExtendedSchema) else set()
    more = [value.origin.get(RECORD, {}) for value in learned if value.source in used]
    if train_config is None or record is None or not more:
        return train_config
    added = [item for other in more if other.get("columns") == record["columns"] for item in other["combinations"]]
    return {**train_config, RECORD: {**record, "combinations": sorted([*record["combinations"], *added])}}


def path_of(
    path: str | None, num_steps: int, schema: MetadataSchema, learned: Sequence[LearnedValue] = ()
) -> ValuePath | None:
    """Parse the user's path from one value to another, such as ``center=Ash..Birch``.

    Args:
        path: path as text; None for no path.
        num_steps: number of steps, including start and end.
        schema: schema of the model.
        learned: values that were learned for this model, which the path may name.
    """
    if path is None:
        return None
    return parse_path(path, num_steps, ExtendedSchema.of(schema, [value.added for value in learned]))


def along_path(
    path: ValuePath,
    schema: MetadataSchema,
    images_per_combination: int,
    plan: str = "",
    given: Collection[str] = ("plan",),
) -> pd.DataFrame:
    """Return the plan of a path: each of its values with each label, or with each combination of a table.

    Args:
        path: path from one value to another.
        schema: schema of the model.
        images_per_combination: number of images of each label at each step, if there is no table.
        plan: path of a table with the other columns and ``count``; if empty, every label is used.
        given: names of the settings that the user gave; unless it contains ``plan``, ``plan`` is a default and ignored.

    Returns:
        Combinations with ``count``; the column of the path is the last before ``count``.

    Raises:
        InputError: for the name of a plan instead of a table, or a table that has the column of the path.
    """
    label = schema.label.name
    if "plan" not in given or not plan:
        values = {} if path.column == label else {label: list(schema.label.values)}
        table = pd.DataFrame(values, index=range(len(schema.label.values) if values else 1))
        table = table.assign(count=images_per_combination)
    elif plan in PLANS:
        raise InputError(
            f"plan = {plan!r}: a path has a plan of its own, each of its steps with each {label}. Leave out --plan, or "
            "give a table of the other columns"
        )
    else:
        table = read_plan(plan, [])
    if path.column in table.columns:
        raise InputError(f"{plan} has the column {path.column!r}, along which the path runs: leave the column out")
    crossed = table.merge(pd.DataFrame({path.column: path.values}), how="cross")
    return crossed[[*(name for name in table.columns if name != "count"), path.column, "count"]]


def path_grid(path: ValuePath, manifest: pd.DataFrame, images: Sequence[np.ndarray], title: str = "") -> np.ndarray:
    """Draw a picture of a path, with a row per combination, a column per step, and the same noise along each row.

    Args:
        path: path from one value to another.
        manifest: columns of the combination, with one row per image.
        images: ``(H, W, 3)`` uint8 images of the rows.
        title: title of the picture.
    """
    others = [name for name in manifest.columns if name != path.column]
    rows = [" · ".join(values) or path.column for values in manifest[others].astype(str).itertuples(False, None)]
    titles = dict(zip(path.values, path.titles))
    cells = {(row, titles[value]): [image] for row, value, image in zip(rows, manifest[path.column], images)}
    return labeled_grid(cells, list(dict.fromkeys(rows)), list(path.titles), title, (1, 1), CELL_SIZE)
