"""Get the plan of a sampling run from its settings: make it from the training table, or read it from a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.alignment.functional.targets import SEPARATOR, SubgroupTarget, make_target
from medi_monai.cohort import Cohort
from medi_monai.cohort.folder import holds_cohort
from medi_monai.cohort.plans import (
    PLANS,
    PlanLimits,
    TargetShares,
    TrainingCounts,
    binned,
    held_out_combinations,
    make_plan,
    read_plan,
)
from medi_monai.cohort.table import require_columns
from medi_monai.engines.sampling_settings import PlanSettings
from medi_monai.results.training import TrainingRecord
from medi_monai.schema import Conditioning, MetadataSchema
from medi_monai.schema.columns import ContinuousColumn
from medi_monai.utils.console import say
from medi_monai.utils.errors import InputError, nearest, unknown_value
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import listed, plural

__all__ = [
    "PlanSource",
    "continuous_columns",
    "not_in_plan",
    "ranged_columns",
    "resolve_plan",
    "training_counts",
]

#: settings that apply only to plans made from the training table
OF_MADE_PLANS = ("plan_values", "plan_target", "min_per_combination", "max_per_combination", "max_plan_images")


def resolve_plan(
    settings: PlanSettings,
    training_table: Callable[[], pd.DataFrame],
    columns: Sequence[str],
    schema: Conditioning | None = None,
    train_config: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Return the plan that the settings name, or that is in a file.

    Args:
        settings: name or path of the plan, and its limits.
        training_table: function that returns the training rows; called for plans by name, and for
            ``min_training_patches`` if the training is not recorded.
        columns: label and attributes that form a combination; a plan in a file must have them, and may have others.
        schema: schema of the model, whose continuous attributes may have ranges.
        train_config: settings of the training (``model.json``), to check that the model was not trained on ``unseen``
            combinations.

    Raises:
        InputError: see :func:`read_plan` and :func:`make_plan`; also for an unknown plan, for settings that do not
            apply to the plan, and if the model was trained on combinations of the plan ``unseen``, because the table is
            of another cohort.
    """
    kind = settings.plan
    if kind not in PLANS and not (Path(kind).suffix or os.sep in kind):
        close = nearest(kind, PLANS)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"unknown plan {kind!r}: {hint}Give one of {', '.join(PLANS)}, or the path of a table")
    if "images_per_combination" in settings.given and (kind not in PLANS or kind in ("balance", "target")):
        say(f"images_per_combination has no effect with plan = {kind}, which has counts of its own")
    record = TrainingRecord.in_config(train_config)
    if kind not in PLANS:
        return _plan_of_file(settings, training_table, columns, record)
    table, columns, bins = _with_values(
        training_table(), columns, settings.plan_values or {}, continuous_columns(schema)
    )
    target = _target(settings, table, columns, bins)
    shares = None if target is None else TargetShares(target.attributes, dict(zip(target.groups, target.probabilities)))
    plan = make_plan(table, columns, kind, settings.images_per_combination, _limits(settings), shares, bins)
    if target is not None:
        _print_distance(target, table, plan)
    if kind == "unseen" and record is not None:
        _check_unseen(plan, columns, record)
    return plan


class PlanSource:
    """What plans are made from: a cohort or, without it, the combinations that ``model.json`` records.

    A model can so be sampled without the images that it was trained on.

    Args:
        train_config: settings of the training (``model.json``).
        is_given: whether the user names the cohort, rather than that of the training.
        load: function that reads the cohort, and prepares it if necessary.
    """

    def __init__(self, train_config: Mapping[str, Any], is_given: bool, load: Callable[[], Cohort]) -> None:
        self._record = TrainingRecord.in_config(train_config)
        self._is_there = is_given or holds_cohort(train_config.get("cohort_dir") or "")
        self._load = load

    @cached_property
    def cohort(self) -> Cohort | None:
        """The cohort; None if it is not there, and the record is used in its place."""
        return self._load() if self._is_there or self._record is None else None

    @property
    def training_rows(self) -> pd.DataFrame:
        """One row per training image, with the values of its label and attributes."""
        if self.cohort is not None:
            return self.cohort.split("train").table
        assert self._record is not None
        return self._record.table()


def training_counts(train_config: Mapping[str, Any] | None) -> TrainingCounts | None:
    """Return the numbers of training patches recorded in ``model.json``; None if they are not recorded."""
    record = TrainingRecord.in_config(train_config)
    return None if record is None else TrainingCounts(record)


def continuous_columns(schema: Conditioning | None) -> list[str]:
    """Return the names of the continuous attributes of a model."""
    known = schema.columns if isinstance(schema, MetadataSchema) else ()
    return [column.name for column in known if isinstance(column, ContinuousColumn)]


def ranged_columns(keys: Sequence[str], schema: Conditioning | None) -> list[str]:
    """Return the columns of a plan that may have ranges: all except those for which the model has a vocabulary.

    This includes columns that a class-only model does not know, so that it can be sampled with the same plan.
    """
    known = set() if schema is None else set(schema.names) - set(continuous_columns(schema))
    return [name for name in keys if name not in known]


def not_in_plan(
    settings: PlanSettings,
    plan_table: pd.DataFrame,
    cohort: Callable[[], Cohort | None],
    columns: Sequence[str],
) -> list[dict[str, str]]:
    """Return the held-out combinations that the plan omits because too few training patches have one of their values.

    Args:
        settings: settings of the plan; only ``unseen``, ``union`` and ``all`` are meant to sample every held-out
            combination, and for other plans, the result is empty.
        plan_table: the plan.
        cohort: function that returns the cohort with its split; without a cohort, the result is empty.
        columns: label and attributes that form a combination.

    Returns:
        The combinations, each as values by column.
    """
    known_cohort = cohort() if settings.plan in ("unseen", "union", "all") else None
    if known_cohort is None:
        return []
    values = {name: set(map(str, wanted)) for name, wanted in (settings.plan_values or {}).items()}
    table = known_cohort.table
    training = table[table["split"] == "train"]
    known = {name: training[name].value_counts() for name in columns}
    least = max(1, settings.min_training_patches)
    planned = set(plan_table[list(columns)].itertuples(index=False, name=None))
    absent = [
        key
        for key in held_out_combinations(table, columns)
        if key not in planned
        and all(value in values.get(name, {value}) for name, value in zip(columns, key))
        and any(known[name].get(value, 0) < least for name, value in zip(columns, key))
    ]
    return [dict(zip(columns, key)) for key in absent]


def _limits(settings: PlanSettings) -> PlanLimits:
    return PlanLimits(
        settings.min_per_combination,
        settings.max_per_combination,
        settings.max_plan_images,
        settings.min_training_patches,
    )


def _plan_of_file(
    settings: PlanSettings,
    training_table: Callable[[], pd.DataFrame],
    columns: Sequence[str],
    record: TrainingRecord | None,
) -> pd.DataFrame:
    given = [name for name in OF_MADE_PLANS if getattr(settings, name)]
    if given:
        raise InputError(
            f"{given[0]} is given, and the plan is the table {settings.plan}, which has counts of its own: change them "
            f"there, or give one of {', '.join(PLANS)}"
        )
    plan = read_plan(settings.plan, columns)
    least = settings.min_training_patches
    if not least:
        return plan
    if record is None:
        table = training_table()
        names = [name for name in plan.columns if name != "count" and name in table.columns]
        record = TrainingRecord.of(table, names, "")
    kept = TrainingCounts(record).of(plan)["rarest_value_patches"] >= least
    if not kept.any():
        raise InputError(
            f"min_training_patches = {least:,}: each row of {settings.plan} has a value with fewer training patches"
        )
    if not kept.all():
        rows = plan[~kept].drop(columns="count").astype(str).itertuples(index=False, name=None)
        removed = listed(" · ".join(row) for row in rows)
        say(
            f"{plural(int((~kept).sum()), 'combination')} of {settings.plan} with a value that has fewer than "
            f"{least:,} training patches (min_training_patches) will not be sampled: {removed}"
        )
    return plan[kept].reset_index(drop=True)


def _with_values(
    table: pd.DataFrame, columns: Sequence[str], values: Mapping[str, Any], continuous: Sequence[str]
) -> tuple[pd.DataFrame, list[str], dict[str, list[str]]]:
    """Restrict a training table to the values of a plan.

    Returns:
        The rows with these values, where numbers are replaced by the range that contains them; the columns of the plan;
        and the values of each column that has ranges.
    """
    bins: dict[str, list[str]] = {}
    columns = [*columns, *(name for name in values if name not in columns)]
    require_columns(table, columns, "the training table")
    for name, given in values.items():
        wanted = [str(value) for value in (given if isinstance(given, list) else [given])]
        if name in continuous:
            bins[name] = list(dict.fromkeys(wanted))
            table = table.assign(**{name: binned(table[name], wanted)})
            continue
        known = sorted(set(table[name]) - {""})
        for value in wanted:
            if value not in known:
                raise unknown_value(f"value of {name!r} in plan_values", value, known, "Training has only these.")
        table = table[table[name].isin(wanted)]
    return table, columns, bins


def _check_unseen(plan: pd.DataFrame, columns: Sequence[str], record: TrainingRecord) -> None:
    trained = record.of_columns(columns) or set()
    seen = [key for key in plan[list(columns)].itertuples(index=False, name=None) if key in trained]
    if seen:
        raise InputError(
            f"the plan 'unseen' has {plural(len(seen), 'combination')} of {len(plan):,} that the model was "
            f"trained on, for example {' · '.join(seen[0])}: leave out --cohort_dir to use the cohort of "
            "the training, or give another plan"
        )


def _target(
    settings: PlanSettings, table: pd.DataFrame, columns: Sequence[str], bins: Mapping[str, Sequence[str]]
) -> SubgroupTarget | None:
    if settings.plan != "target":
        return None
    spec: Any = settings.plan_target
    values = {name: bins.get(name, sorted(set(table[name]) - {""})) for name in columns}
    names = _columns_of(spec, values)
    reference = None if settings.plan_target_table is None else read_table(settings.plan_target_table)
    return make_target(spec, values, reference, names)


def _columns_of(spec: Any, values: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the columns whose values are the keys of a flat target; None for other targets, which need no columns."""
    if isinstance(spec, str) or all(isinstance(share, Mapping) for share in spec.values()):
        return None
    parts = list(zip(*(str(key).split(SEPARATOR) for key in spec)))
    names = []
    for words in parts:
        fitting = [name for name in values if name not in names and set(words) <= set(values[name])]
        if len(fitting) != 1:
            raise InputError(
                f"plan_target: {', '.join(map(repr, dict.fromkeys(words)))} "
                f"{'are not all values of one of' if not fitting else 'may be values of several of'} the columns "
                f"{', '.join(values)}: name the column, as in {{{next(iter(values))}: {{…: 0.5, …: 0.5}}}}"
            )
        names += fitting
    return names


def _print_distance(target: SubgroupTarget, table: pd.DataFrame, plan: pd.DataFrame) -> None:
    names = list(target.attributes)

    def sizes(rows: pd.Series) -> np.ndarray:
        by_key = {key if isinstance(key, tuple) else (key,): size for key, size in rows.items()}
        return np.array([by_key.get(group, 0) for group in target.groups], float)

    real = sizes(table.groupby(names).size())
    wanted = np.array(target.probabilities)
    before, after = (
        0.5 * np.abs(counts / counts.sum() - wanted).sum()
        for counts in (real, real + sizes(plan.groupby(names)["count"].sum()))
    )
    say(
        f"{plural(int(real.sum()), 'training image')} and {int(plan['count'].sum()):,} of the plan differ from the "
        f"target of {', '.join(names)} by {after:.3f} (total variation; without the plan {before:.3f})"
    )
