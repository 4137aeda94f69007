"""Settings of sampling: solver, guidance, plans, sharing between jobs, and paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import model_validator

from medi_monai.diffusion import SOLVERS, Guidance
from medi_monai.engines.settings import AMP, AutoFlag
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.settings import (
    Bounds,
    Count,
    Fraction,
    MappingOf,
    Number,
    OneOf,
    PathText,
    Repeats,
    Settings,
    Text,
    Texts,
    Whole,
    setting,
)

__all__ = [
    "GUIDANCE_SCALE",
    "IMAGE_FORMATS",
    "GuidanceSettings",
    "PathSettings",
    "PlanSettings",
    "SamplingSettings",
    "SharingSettings",
]

#: help of the setting of this name, wherever it is declared
GUIDANCE_SCALE = "guidance scale of all conditions together; 1: none"
#: files of generated images
IMAGE_FORMATS = ("png", "tar")


class SamplingSettings(Settings):
    """Sampling."""

    solver: Annotated[str, OneOf("solver", tuple(SOLVERS))] = setting("dpm", "solver")
    num_steps: Repeats = setting(20, "number of sampling steps")
    guidance_scale: Number = setting(1.0, GUIDANCE_SCALE)
    batch_size: Count = setting(64, "images per batch")
    amp: AutoFlag = setting("auto", AMP)


class GuidanceSettings(Settings):
    """Guidance by single columns."""

    label_guidance: Number = setting(2.25, "guidance scale of the label alone; 1: none")
    attribute_guidance: MappingOf | Number = setting(
        1.5, "guidance scale of each attribute alone: a number, or a mapping from attributes to numbers; 1: none"
    )
    guidance_interval: Bounds | None = setting(
        [0.2, 3.0], "lowest and highest noise level, sigma / alpha, at which guidance acts; null: all"
    )
    guidance_rescale: Fraction = setting(
        0.0, "how far guided predictions are rescaled to the standard deviation of unguided ones: 0 not at all, 1 fully"
    )

    def of(self, names: Sequence[str], scale: float = 1.0) -> Guidance:
        """Return these settings as guidance for the columns of a schema.

        Args:
            names: names of the label and the attributes.
            scale: scale of all conditions together.

        Raises:
            InputError: for scales of attributes that the schema does not have, or that are not numbers of 0 or more.
        """
        label, *attributes = names
        scales = self.attribute_guidance
        # a class-only model has no attribute, whatever the scales of the model that it is compared with
        scales = scales if isinstance(scales, dict) and attributes else dict.fromkeys(attributes, scales)
        for name, value in scales.items():
            if name not in attributes:
                raise unknown_value("attribute of attribute_guidance", name, attributes)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InputError(f"attribute_guidance of {name} = {value!r}: allowed is a number of 0 or more")
        columns = {0: self.label_guidance, **{names.index(name): float(value) for name, value in scales.items()}}
        low, high = self.guidance_interval or (0, math.inf)
        return Guidance(scale, columns, None if self.guidance_interval is None else (low, high), self.guidance_rescale)

    def text(self, names: Sequence[str], scale: float = 1.0) -> str:
        """Describe the guidance in words, such as ``guidance project_id 2.5, center 1.5``.

        Args:
            names: names of the label and the attributes.
            scale: scale of all conditions together.
        """
        guidance = self.of(names, scale)
        scales = {"all": guidance.scale, **{names[index]: value for index, value in guidance.columns.items()}}
        shown = ", ".join(f"{name} {value:g}" for name, value in scales.items() if value != 1)
        if not shown:
            return "no guidance"
        within = "" if guidance.interval is None else " at noise levels {:g} to {:g}".format(*guidance.interval)
        return f"guidance {shown}{within}"


class PlanSettings(Settings):
    """Sampling plan."""

    plan: PathText = setting(
        "unseen",
        "combinations to sample: unseen, balance, observed, all, union, target, or a table with a column `count`",
    )
    plan_columns: Texts | None = setting(None, "columns of the plan", expression="@subpopulation_columns")
    images_per_combination: Count = setting(16, "images per combination")
    plan_values: MappingOf | None = setting(
        None,
        "values to which columns are restricted; for continuous attributes, numbers and ranges: {age: [40..60, 70]}",
    )
    plan_target: MappingOf | Text | None = setting(
        None, "for `plan: target`: shares of training and generated images together; same syntax as `target`"
    )
    plan_target_table: PathText | None = setting(None, "reference table, for `plan_target: table`")
    min_per_combination: Whole = setting(0, "minimum number of images of each combination of the plan")
    max_per_combination: Count | None = setting(None, "maximum number of images of each combination; null: no limit")
    max_plan_images: Count | None = setting(None, "maximum number of images in the plan; null: no limit")
    min_training_patches: Whole = setting(
        0, "minimum number of training patches with each value of a combination; other combinations are not sampled"
    )

    @model_validator(mode="after")
    def _target_fits_the_plan(self) -> PlanSettings:
        if (self.plan == "target") != (self.plan_target is not None):
            raise InputError(
                "plan = 'target' needs the shares that it is to reach: set plan_target"
                if self.plan == "target"
                else f"plan_target is given, and the plan is {self.plan!r}: set plan to target, or leave it out"
            )
        if self.plan_target_table is not None and self.plan_target != "table":
            raise InputError(f"plan_target_table is given, and plan_target is {self.plan_target!r}: set it to table")
        return self


class SharingSettings(Settings):
    """Sharing a sampling, and the files of its images."""

    shard: Text | None = setting(
        None, "share of the plan for this job, k/n for the k-th of n jobs; null: combine the images of the jobs"
    )
    image_format: Annotated[str, OneOf("image format", IMAGE_FORMATS)] = setting(
        "png", "png: a file per image; tar: tar files of images with their rows as JSON, as WebDataset reads them"
    )
    images_per_tar: Count = setting(1000, "images in a tar file")


class PathSettings(Settings):
    """Path from one value to another."""

    path: Text | None = setting(
        None, "path from one value of a column to another, such as center=Ash..Birch or age=40..70, in place of a plan"
    )
    path_steps: Repeats = setting(7, "number of steps of the path, including its start and end")
