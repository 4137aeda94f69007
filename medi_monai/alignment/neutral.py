"""Aligning a model that is conditioned on metadata: neutral is what leaves the aligned attributes null."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional import apportion
from medi_monai.cohort import Cohort, read_plan
from medi_monai.cohort.samples import read_arms
from medi_monai.cohort.table import require_columns
from medi_monai.networks.encoders import build_encoder
from medi_monai.schema import MetadataSchema, missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.pixels import to_gray_levels

__all__ = ["encoder_features", "names_some", "neutral_plan", "neutral_share", "rows_naming", "sampled_subgroups"]

NEUTRAL = "neutral"
#: a null that fewer rows of the training saw than this is hardly known
FEW = 0.01


def neutral_share(schema: MetadataSchema, attributes: Sequence[str], settings: Mapping[str, Any]) -> float:
    """The share of training rows that had exactly these attributes dropped to null.

    Args:
        schema: of the model.
        attributes: to be left null, the label among them or not; those that the model is not conditioned on do not
            count, for all that it draws is neutral in them.
        settings: of the training (``model.json``): ``label_dropout``, ``attribute_dropout`` and ``joint_dropout``.

    Returns:
        In (0, 1]; a warning is printed where it is small.

    Raises:
        InputError: for a null that the model never saw in training.
    """
    attributes = [name for name in attributes if name in schema.names]
    if not attributes:
        return 1.0
    rates = {}
    for name in ("label_dropout", "attribute_dropout", "joint_dropout"):
        rate = settings.get(name)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise InputError(f"the settings of the training (model.json) do not contain {name}: train a model first")
        rates[name] = float(rate)
    dropouts = [rates["label_dropout"], *([rates["attribute_dropout"]] * len(schema.attributes))]
    alone = math.prod(rate if name in attributes else 1 - rate for name, rate in zip(schema.names, dropouts))
    joint = rates["joint_dropout"]
    share = (1 - joint) * alone + (joint if set(attributes) == set(schema.names) else 0.0)
    words = f"{' and '.join(attributes)} left out (" + ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    if share <= 0:
        raise InputError(f"the model was never trained with {words}): there is nothing to align. Train it with dropout")
    if share < FEW:
        print(
            f"warning: {share:.2%} of the training had {words}): the quality of neutral images may be poor", flush=True
        )
    return share


def neutral_plan(
    plan: str,
    training: Callable[[], pd.DataFrame],
    schema: MetadataSchema,
    attributes: Sequence[str],
    settings: Mapping[str, Any],
    num_images: int,
) -> pd.DataFrame:
    """The conditions to align: those of the training, with the aligned attributes null.

    Args:
        plan: ``neutral``: every combination of the other columns in training, as often as it occurs there; or the path
            of a table with these columns and ``count``.
        training: returns the rows in training; called for the word, and for an attribute that the model does not know.
        schema: of the model.
        attributes: the aligned ones; the model need not be conditioned on them.
        settings: of the training; see :func:`neutral_share`.
        num_images: of the word ``neutral``, of all conditions together.

    Returns:
        The label, the other columns that are not null, and ``count``; rows with the count 0 are left out. Where the
        label is aligned it is None.

    Raises:
        InputError: as :func:`neutral_share`; for a column that lacks, or a plan that names an aligned attribute.
    """
    _check_unconditioned(schema, attributes, training)
    neutral_share(schema, attributes, settings)
    label = schema.names[0]
    columns = [name for name in schema.names if name not in attributes]
    if plan != NEUTRAL:
        prompts = read_plan(plan, columns)
        aligned = [name for name in attributes if name in prompts.columns]
        if aligned:
            raise InputError(
                f"the plan {plan} names {aligned[0]!r}, which has to be left to the model: drop the column"
            )
    elif columns:
        prompts = _occurring(training(), columns, num_images)
    else:
        prompts = pd.DataFrame({"count": [num_images]})
    if label not in prompts.columns:
        prompts.insert(0, label, pd.Series([None] * len(prompts), dtype=object))
    return prompts


def _check_unconditioned(
    schema: MetadataSchema, attributes: Sequence[str], training: Callable[[], pd.DataFrame]
) -> None:
    """A word on attributes that the model is not conditioned on: any column of the cohort may be one."""
    unconditioned = [name for name in attributes if name not in schema.names]
    for name in unconditioned:
        columns = training().columns
        if name not in columns:
            raise unknown_value("attribute", name, columns, "It is a column of the cohort.")
    if unconditioned:
        print(
            f"the model is not conditioned on {', '.join(unconditioned)}: every prompt is "
            "neutral in it. The anchor cannot name it either and keeps the shares of the training: lower "
            "--anchor_weight if the target is not reached. There is nothing to distill",
            flush=True,
        )


def _occurring(table: pd.DataFrame, columns: Sequence[str], num_images: int) -> pd.DataFrame:
    require_columns(table, columns, "the training table")
    cells = table[list(columns)].astype(object)
    counts = cells.mask(cells.map(lambda cell: cell is None), "").value_counts(sort=False).sort_index()
    shares = torch.from_numpy(counts.to_numpy(np.float64) / counts.sum())
    plan = counts.index.to_frame(index=False).assign(count=apportion(shares, num_images).numpy())
    return plan[plan["count"] > 0].reset_index(drop=True)


def names_some(schema: MetadataSchema, attributes: Sequence[str]) -> bool:
    """Whether the model is conditioned on one of the attributes, so that its meaning can be distilled."""
    return any(name in schema.names for name in attributes)


def rows_naming(cohort: Cohort, attributes: Sequence[str]) -> Cohort:
    """The images of which all of these attributes are known; of the anchor, which must not teach the null its skew.

    Raises:
        InputError: where there is none.
    """
    require_columns(cohort.table, attributes, cohort.root)
    known = ~np.any([missing_cells(cohort.table[name]) for name in attributes], axis=0)
    if not known.any():
        raise InputError(f"no image of the cohort in {cohort.root} has a value in {list(attributes)}")
    return Cohort(cohort.table[known].reset_index(drop=True), cohort.root)


def sampled_subgroups(folder: str | os.PathLike, attributes: Sequence[str]) -> Cohort:
    """Images that a sampling made of rows that name the attributes, labeled by what was asked for.

    Args:
        folder: the ``output_dir`` of a sampling.
        attributes: columns of its manifest.
    """
    return read_arms({"generated": folder}, attributes)["generated"]


def encoder_features(
    spec: Any, device: str | torch.device = "cpu", image_size: int = 32
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Features of an encoder as the consistency needs them, differentiable with respect to the images.

    Args:
        spec: as for :func:`medi_monai.networks.encoders.build_encoder`; None for none.
        device: where to.
        image_size: side of the images that it is tried with.

    Returns:
        From ``(N, 3, H, W)`` floats in [-1, 1] to ``(N, dim)``; what is beyond is cut, as in a file.

    Raises:
        InputError: for an encoder that passes no gradient to the images, and as the function above.
    """
    if spec is None:
        return None
    encoder = build_encoder(spec, device).requires_grad_(False)

    def features(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            # the scale of uint8, which encoders expect, without its steps
            return encoder.encode(encoder.preprocess(to_gray_levels(images.float()))).float()

    tried = torch.linspace(-0.9, 0.9, 3 * image_size**2, device=device).view(1, 3, image_size, image_size)
    total = features(tried.requires_grad_()).sum()
    if not total.requires_grad or torch.autograd.grad(total, tried, allow_unused=True)[0] is None:
        raise InputError(
            f"the encoder {encoder.name} passes no gradient to the images, so it cannot serve the consistency term"
        )
    return features
