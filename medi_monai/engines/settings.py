"""The settings of networks, their training, and the images they draw."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import model_validator

from medi_monai.cohort.dataset import BALANCES, PATCH_CACHES
from medi_monai.cohort.settings import CohortSettings, check_named_once
from medi_monai.diffusion import OBJECTIVES, SCHEDULES, SOLVERS
from medi_monai.networks.conditioner import MODES
from medi_monai.networks.text.encoder import ON_LONG
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.settings import (
    Component,
    Count,
    Counts,
    Flag,
    Flags,
    Fraction,
    MappingOf,
    Number,
    OneOf,
    PathText,
    Rate,
    Seed,
    Settings,
    Text,
    Texts,
    setting,
)

__all__ = [
    "ClassificationSettings",
    "ConditionSettings",
    "DiffusionSettings",
    "NetworkSettings",
    "PathologyTrainingSettings",
    "PlanSettings",
    "SamplingSettings",
    "SeedSettings",
    "SpaceSettings",
    "TextNetworkSettings",
    "TextSettings",
    "TextTrainingSettings",
    "TrainingSettings",
    "check_model",
]


class SeedSettings(Settings):
    """The seed of a run."""

    seed: Seed = setting(0, "seed of all draws", recorded=True)


class ConditionSettings(Settings):
    """What a metadata-conditioned model is conditioned on, besides the label."""

    arm: Text = setting("medi", "name of the arm: medi, or cls for the class-only model", recorded=True)
    attributes: Texts = setting(["center"], "attributes that the model knows", recorded=True)
    continuous: Texts = setting([], "those of them that are quantities", recorded=True)


class DiffusionSettings(Settings):
    """The diffusion process and the UNet that both bundles share."""

    objective: Annotated[str, OneOf("objective", OBJECTIVES)] = setting("v", "what the network predicts", recorded=True)
    schedule: Annotated[str, OneOf("noise schedule", SCHEDULES)] = setting("cosine", "noise schedule", recorded=True)
    num_timesteps: Count = setting(1000, "steps of the noise schedule", recorded=True)
    channels: Counts = setting([32, 64, 64], "channels of each level of the UNet", recorded=True)
    attention_levels: Flags = setting([False, False, True], "levels with attention", recorded=True)
    num_res_blocks: Count | Counts = setting([2, 2, 1], "residual blocks of each level", recorded=True)
    num_head_channels: Count | Counts = setting(32, "channels of an attention head", recorded=True)
    norm_num_groups: Count = setting(16, "groups of the group normalization", recorded=True)


class NetworkSettings(DiffusionSettings):
    """The metadata-conditioned UNet."""

    conditioning: Annotated[str, OneOf("mode of conditioning", MODES)] = setting(
        "concat", "how class and metadata become one vector", recorded=True
    )


class SpaceSettings(Settings):
    """What a text-to-image network sees of an image."""

    image_channels: Count = setting(1, "channels of the images", recorded=True)
    patch_size: Count = setting(2, "side of the squares of pixels that are folded into channels", recorded=True)


class TextNetworkSettings(
    DiffusionSettings,
    defaults={"channels": [64, 64, 64], "attention_levels": [False, True, True], "num_res_blocks": [1, 1, 1]},
):
    """The text-to-image UNet."""

    pooled: Flag = setting(True, "whether the pooled text embedding joins the timestep", recorded=True)


class TrainingSettings(Settings):
    """A training of a diffusion model."""

    max_steps: Count = setting(1800, "optimizer steps")
    batch_size: Count = setting(16, "images of a batch", recorded=True)
    accumulation_steps: Count = setting(1, "batches whose gradients make one step", recorded=True)
    learning_rate: Rate = setting(0.002, "highest learning rate", recorded=True)
    warmup_steps: Seed = setting(100, "steps until it is reached", recorded=True)
    decay_steps: Count | None = setting(
        None, "steps until it has fallen to zero along a cosine", expression="@max_steps", recorded=True
    )
    weight_decay: Number = setting(0.0, "weight decay", recorded=True)
    max_grad_norm: Rate = setting(1.0, "norm that gradients are clipped to", recorded=True)
    ema_width: Rate = setting(0.1, "relative width of the average of the weights", recorded=True)
    augment: Flag = setting(True, "whether images are turned and mirrored", recorded=True)
    amp: Flag = setting(True, "whether bfloat16 is used where it is fast", recorded=True)
    resume: Flag = setting(False, "resume from the last checkpoint")
    log_every: Count = setting(10, "steps between two scalars in TensorBoard")
    val_interval: Count = setting(250, "steps between two validations")
    checkpoint_every: Count = setting(500, "steps between two checkpoints")
    sample_every: Count = setting(1000, "steps between two grids of samples")
    num_validation: Count = setting(256, "images of the validation")

    @model_validator(mode="after")
    def _decays_not_before_the_end(self) -> TrainingSettings:
        if (self.decay_steps or math.inf) < self.max_steps:
            raise InputError(f"decay_steps = {self.decay_steps} is less than max_steps = {self.max_steps}")
        return self


class PathologyTrainingSettings(TrainingSettings):
    """A training of the metadata-conditioned model."""

    label_dropout: Fraction = setting(0.05, "share of images whose label is dropped", recorded=True)
    attribute_dropout: Fraction = setting(0.05, "share of images that an attribute is dropped of", recorded=True)
    joint_dropout: Fraction = setting(0.1, "share of images whose label and attributes are all dropped", recorded=True)
    balance: Annotated[str, OneOf("choice of `balance`", BALANCES)] = setting(
        "class", "what batches are balanced by", recorded=True
    )
    min_patches_per_label: Count = setting(2, "training patches that a class needs")
    patch_cache: Annotated[str, OneOf("choice of `patch_cache`", PATCH_CACHES)] = setting(
        "auto", "where patches are kept in training"
    )


class TextTrainingSettings(TrainingSettings, defaults={"max_steps": 2000, "batch_size": 32, "augment": False}):
    """A training of the text-to-image model."""

    caption_dropout: Fraction = setting(0.1, "share of images whose caption is dropped", recorded=True)
    init_from: PathText | None = setting(None, "weights to begin with: a model or a training checkpoint", recorded=True)
    resample_to: MappingOf | Text | None = setting(
        None, "shares of the subgroups that real images are resampled to", recorded=True
    )
    resample_table: PathText | None = setting(None, "reference table of these shares")


class TextSettings(Settings):
    """The frozen text encoder."""

    text_model: PathText | None = setting(None, "folder of a CLIP model; without one, a small CLIP is trained")
    text_steps: Count = setting(600, "steps of the small CLIP's training")
    max_length: Count | None = setting(None, "tokens of a caption at most; null: those of the model")
    on_long: Annotated[str, OneOf("choice of `on_long`", ON_LONG)] = setting(
        "error", "what happens to a longer caption"
    )


class SamplingSettings(Settings):
    """How images are drawn."""

    solver: Annotated[str, OneOf("solver", tuple(SOLVERS))] = setting("ddim", "solver of the sampling")
    num_steps: Count = setting(50, "sampling steps")
    guidance_scale: Number = setting(1.0, "guidance scale; 1 is none")
    batch_size: Count = setting(64, "images drawn at once")
    amp: Flag = setting(False, "whether bfloat16 is used where it is fast; images then depend on the batch size")


class PlanSettings(Settings):
    """Which combinations are drawn."""

    plan: PathText = setting("unseen", "unseen, balance, observed, all, or a table with a count")
    plan_columns: Texts | None = setting(None, "columns of the plan", expression="@subpopulation_columns")
    images_per_combination: Count = setting(16, "images of each combination")


class ClassificationSettings(Settings):
    """A classifier of an attribute."""

    role: Annotated[str, OneOf("role", ("guide", "validation", "judge"))] = setting("guide", "what it is for")
    max_steps: Count = setting(600, "optimizer steps")
    batch_size: Count = setting(64, "images of a batch")
    learning_rate: Rate = setting(0.004, "highest learning rate")
    depth: Count = setting(1, "blocks of each level")
    width: Count | None = setting(None, "channels of the first level; null: as the role has it")
    residual: Flag | None = setting(None, "whether blocks are residual; null: as the role has it")
    generated: Component | None = setting(None, "folder of generated images to train on as well")
    classifier_folds: Count | None = setting(None, "folds of a cross-validation, where few patients are held out")


def check_model(conditions: ConditionSettings, cohort: CohortSettings, network: NetworkSettings) -> None:
    """Refuse settings of a training that contradict each other before any patch is cut.

    Raises:
        InputError: for a class-only arm with attributes or another without, an attribute that is not carried into the
            cohort, or an image size that the levels of the network cannot halve.
    """
    if (conditions.arm == "cls") != (not conditions.attributes):
        raise InputError(
            f"arm {conditions.arm!r} with the attributes {conditions.attributes}: `cls` has none, any other arm has "
            "some. The overlay class_only.json has to come last in --config_file"
        )
    check_named_once("attributes", conditions.attributes, cohort.label)
    for name in (*conditions.attributes, *cohort.subpopulation_columns[1:]):
        if name not in cohort.metadata_columns:
            raise unknown_value("attribute", name, cohort.metadata_columns, "Name it in `metadata_columns` as well.")
    factor = 2 ** (len(network.channels) - 1)
    if cohort.image_size % factor:
        raise InputError(
            f"image_size = {cohort.image_size}: a network of {len(network.channels)} levels needs a multiple of "
            f"{factor}"
        )
