"""Alignment of a metadata-conditioned model: neutral conditions, in which the aligned attributes are null."""

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
from medi_monai.networks.encoders import ImageFeatures, build_encoder
from medi_monai.schema import MetadataSchema, missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.pixels import to_gray_levels

__all__ = ["encoder_features", "names_some", "neutral_plan", "neutral_share", "rows_naming", "sampled_subgroups"]

NEUTRAL = "neutral"
#: share of training rows with the aligned attributes null below which the model has hardly learned this condition
FEW = 0.01


def neutral_share(schema: MetadataSchema, attributes: Sequence[str], settings: Mapping[str, Any]) -> float:
    """Return the share of training rows in which exactly these attributes were dropped to null.

    Args:
        schema: schema of the model.
        attributes: attributes to leave null, which may include the label; attributes that the model is not conditioned
            on are ignored, because all its images are neutral in them.
        settings: settings of the training (``model.json``), with ``label_dropout``, ``attribute_dropout`` and
            ``joint_dropout``.

    Returns:
        The share, in (0, 1]; a warning is printed if it is small.

    Raises:
        InputError: if these attributes were never null together in training.
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
        raise InputError(f"the model was never trained with {words}): it cannot choose. Train it with dropout")
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
    """Return the conditions to align: those of the training, with the aligned attributes null.

    Args:
        plan: ``neutral``, for every combination of the other columns in proportion to its frequency in training; or
            the path of a table with these columns and ``count``.
        training: function that returns the training rows; called for ``neutral``, and if the model is not conditioned
            on an aligned attribute.
        schema: schema of the model.
        attributes: attributes to align; the model need not be conditioned on them.
        settings: settings of the training, as for :func:`neutral_share`.
        num_images: total number of images for ``neutral``.

    Returns:
        The label (None if it is aligned), the other columns that are not null, and ``count``, without rows whose count
        is 0.

    Raises:
        InputError: as for :func:`neutral_share`; for a missing column, or a plan that names an aligned attribute.
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
    """Print a note about attributes that the model is not conditioned on; these may be any columns of the cohort."""
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
    """Return whether the model is conditioned on any of the attributes, as distillation requires."""
    return any(name in schema.names for name in attributes)


def rows_naming(cohort: Cohort, attributes: Sequence[str]) -> Cohort:
    """Return the images with a value for each attribute, so that the anchor does not train the null condition.

    Raises:
        InputError: if there are no such images.
    """
    require_columns(cohort.table, attributes, cohort.root)
    known = ~np.any([missing_cells(cohort.table[name]) for name in attributes], axis=0)
    if not known.any():
        raise InputError(f"no image of the cohort in {cohort.root} has a value in {list(attributes)}")
    return Cohort(cohort.table[known].reset_index(drop=True), cohort.root)


def sampled_subgroups(folder: str | os.PathLike, attributes: Sequence[str]) -> Cohort:
    """Return generated images whose conditions name the attributes, labeled with the requested values.

    Args:
        folder: ``output_dir`` of a sampling run.
        attributes: attributes, which have to be columns of its manifest.
    """
    return read_arms({"generated": folder}, attributes)["generated"]


def encoder_features(spec: Any, device: str | torch.device = "cpu", image_size: int = 32) -> ImageFeatures | None:
    """Return an encoder as a function that is differentiable with respect to the images, for the consistency loss.

    Args:
        spec: encoder, as for :func:`medi_monai.networks.encoders.build_encoder`; None for no encoder.
        device: device of the encoder.
        image_size: side in pixels of the images used to test the gradient.

    Returns:
        A function from ``(N, 3, H, W)`` floats in [-1, 1] to ``(N, dim)`` features; values outside the range are
        clipped, as when an image is saved.

    Raises:
        InputError: for an encoder that passes no gradient to the images, and as for
            :func:`medi_monai.networks.encoders.build_encoder`.
    """
    if spec is None:
        return None
    encoder = build_encoder(spec, device).requires_grad_(False)

    def features(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            # the range of uint8, which encoders expect, without its rounding
            return encoder.encode(encoder.preprocess(to_gray_levels(images.float()))).float()

    tried = torch.linspace(-0.9, 0.9, 3 * image_size**2, device=device).view(1, 3, image_size, image_size)
    total = features(tried.requires_grad_()).sum()
    if not total.requires_grad or torch.autograd.grad(total, tried, allow_unused=True)[0] is None:
        raise InputError(
            f"the encoder {encoder.name} passes no gradient to the images, so it cannot serve the consistency term"
        )
    return ImageFeatures(features, encoder.describe())
