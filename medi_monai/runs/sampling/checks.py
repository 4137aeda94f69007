"""Check a plan before anything is written: columns, values, what was never trained, and space on the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medi_monai.alignment.neutral import neutral_share
from medi_monai.cohort.plans import TrainingCounts, ranges_in
from medi_monai.runs.sampling.plans import continuous_columns
from medi_monai.schema import Conditioning, MetadataSchema, is_missing, missing_cells
from medi_monai.utils.console import say
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.sizes import check_disk
from medi_monai.utils.text import listed, plural

__all__ = ["check_images", "check_plan", "print_plan"]

#: lower bounds of the size of a PNG file; noise and tissue need two or three bytes per pixel, smooth brain images less
#: than one
BYTES_PER_PIXEL, BYTES_PER_FILE = 0.25, 512
#: settings of the training that determine how often columns were dropped (null)
DROPOUTS = ("label_dropout", "attribute_dropout", "joint_dropout")

#: end of the sentence about the images of each kind in :data:`medi_monai.cohort.plans.SEEN`
NEARNESS = {
    "combination": "have a combination that was in training",
    "pairs": "have a combination of which all pairs of values were in training",
    "values": "have values that were in training, but not together",
    "no": "have a value that was not in training",
}


def check_plan(
    plan: pd.DataFrame,
    schema: Conditioning,
    columns: Sequence[str],
    train_config: Mapping[str, Any] | None,
    counts: TrainingCounts | None,
) -> list[str]:
    """Check that a model can sample a plan, and print warnings about what it may not have learned.

    Args:
        plan: plan with a column for the label; columns whose cells are all None are left to the model.
        schema: schema of the model.
        columns: label and attributes that form a combination.
        train_config: settings of the training (``model.json``).
        counts: numbers of training patches; None if they are not recorded.

    Returns:
        The columns of the schema that are left to the model.

    Raises:
        InputError: for a column, value or token that the model does not know or was never trained on.
    """
    label, allowed = schema.names[0], list(dict.fromkeys([*schema.names, *columns]))
    for name in plan.columns:
        if name not in (*allowed, "count"):
            raise unknown_value("column of the plan", name, allowed, "A plan has label, attributes and `count`.")
    free = [name for name in schema.names if name not in plan.columns or all(cell is None for cell in plan[name])]
    settings = train_config or {}
    recorded = any(name in settings for name in DROPOUTS)
    if isinstance(schema, MetadataSchema) and (label in free or (free and recorded)):
        neutral_share(schema, free, settings)
    elif plan[label].map(is_missing).any():
        raise InputError(f"a row of the plan has no {label!r}, which is required")
    _check_values(plan, schema)
    _check_unknown(plan, [name for name in schema.names if name not in free], counts)
    return free


def _check_values(plan: pd.DataFrame, schema: Conditioning) -> None:
    named = [name for name in continuous_columns(schema) if name in plan.columns]
    ranges = {name: ranges_in(plan[name], name) for name in named}
    # both ends of a range have to be within the range of the training
    for bound in ("low", "high") if any(ranges.values()) else ("",):
        ends = {
            name: plan[name].astype(object).replace({cell: str(getattr(span, bound)) for cell, span in spans.items()})
            for name, spans in ranges.items()
            if spans
        }
        schema.encode(plan.assign(**ends), absent="null")


def _check_unknown(plan: pd.DataFrame, columns: Sequence[str], counts: TrainingCounts | None) -> None:
    for name in columns:
        if counts is None or not missing_cells(plan[name]).any():
            continue
        lacking = counts.lacking(name)
        if lacking == 0:
            raise InputError(
                f"the plan has an empty cell of {name!r}, which asks for its *unknown* value, and no training patch "
                f"lacked {name!r}, so that the model never learned it: give a value, or leave out the column, for the "
                "model to choose"
            )
        if lacking is None:
            say(
                f"warning: the plan has an empty cell of {name!r}. Whether any training patch lacked it is not recorded"
                f"; if none did, its images mean nothing"
            )


def check_images(count: int, image_size: int, output_dir: str | os.PathLike) -> None:
    """Refuse a plan whose images would not fit on the disk.

    Args:
        count: number of images.
        image_size: side of the images in pixels.
        output_dir: folder for the images.

    Raises:
        InputError: if there is too little space; the message has the size of the images.
    """
    num_bytes = count * max(image_size**2 * BYTES_PER_PIXEL, BYTES_PER_FILE)
    check_disk(
        f"a plan of {count:,} images of {image_size} × {image_size} pixels", num_bytes, output_dir, "Plan fewer images."
    )


def print_plan(
    plan: pd.DataFrame,
    free: Sequence[str],
    seen: Mapping[str, int] | None,
    not_sampled: Sequence[Mapping[str, str]],
) -> None:
    """Print a summary of a plan before it is sampled.

    Args:
        plan: the plan.
        free: columns that are left to the model.
        seen: number of images by how close their combination is to the training data; None if unknown.
        not_sampled: held-out combinations that cannot be sampled.
    """
    say(f"sampling {plural(plan['count'].sum(), 'image')} of {plural(len(plan), 'combination')}")
    if free:
        say(f"the plan does not specify {', '.join(free)}: the model chooses")
    if seen and set(seen) != {"combination"}:
        words = [f"{count:,} {NEARNESS[name]}" for name, count in seen.items()]
        say(f"of these images, {', '.join(words)}")
    if not_sampled:
        names = [" · ".join(key.values()) for key in not_sampled]
        say(
            f"warning: {plural(len(names), 'combination')} that the cohort holds out cannot be sampled, because "
            f"training has no image, or too few, with one of their values: {listed(names)}"
        )
