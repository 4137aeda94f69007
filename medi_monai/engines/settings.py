"""Settings of networks and training."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from medi_monai.cohort.dataset import BALANCES, PATCH_CACHES
from medi_monai.cohort.settings import CohortSettings, check_named_once
from medi_monai.diffusion import OBJECTIVES, SCHEDULES, TIMESTEP_WEIGHTS, NoiseSchedule, check_objective
from medi_monai.networks.conditioner import MODES
from medi_monai.networks.optimizers import OPTIMIZERS
from medi_monai.networks.text.encoder import ON_LONG
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.settings import (
    Component,
    Count,
    Few,
    Fews,
    Flag,
    Flags,
    Fraction,
    MappingOf,
    Number,
    OneOf,
    PathText,
    Rate,
    Repeats,
    Seed,
    Settings,
    Text,
    Texts,
    Whole,
    Width,
    Widths,
    Words,
    setting,
)

__all__ = [
    "AdaptationSettings",
    "AutoFlag",
    "AutoencoderSettings",
    "CascadeSettings",
    "ClassificationSettings",
    "ConditionSettings",
    "DiffusionSettings",
    "NetworkSettings",
    "PatchSpaceSettings",
    "PathologyTrainingSettings",
    "SeedSettings",
    "SpaceSettings",
    "TextNetworkSettings",
    "TextSettings",
    "TextTrainingSettings",
    "TrainingSettings",
    "UpsamplingSettings",
    "check_diffusion",
    "check_model",
]


def _auto(value: Any) -> Any:
    return "auto" if isinstance(value, str) and value.lower() == "auto" else value


AutoFlag = Annotated[Flag | Literal["auto"], BeforeValidator(_auto), Words("auto, true or false")]
Betas = Annotated[
    list[Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, lt=1)]],
    Field(strict=True, min_length=2, max_length=2),
    Words('two numbers from 0 to below 1, such as "[0.9, 0.999]"'),
]
#: help text of the setting `amp`
AMP = "whether to compute in bfloat16; auto: if it is fast, otherwise in float16 on older GPUs, or in float32"


class SeedSettings(Settings):
    """Random seed."""

    seed: Seed = setting(0, "random seed", recorded=True)


class ConditionSettings(Settings):
    """Conditioning of a metadata-conditioned model."""

    arm: Text = setting("medi", "name of the arm: medi, or cls for the class-only model", recorded=True)
    attributes: Texts = setting(
        ["center"], "attributes that the model is conditioned on, besides the label", recorded=True
    )
    continuous: Texts = setting([], "which of these attributes are continuous", recorded=True)


class DiffusionSettings(Settings):
    """Diffusion process and UNet."""

    objective: Annotated[str, OneOf("objective", OBJECTIVES)] = setting("v", "what the network predicts", recorded=True)
    schedule: Annotated[str, OneOf("noise schedule", SCHEDULES)] = setting("cosine", "noise schedule", recorded=True)
    num_timesteps: Repeats = setting(1000, "number of timesteps of the noise schedule", recorded=True)
    channels: Widths = setting([32, 64, 64], "channels at each level of the UNet", recorded=True)
    attention_levels: Flags = setting([False, False, True], "whether each level has attention", recorded=True)
    num_res_blocks: Few | Fews = setting([2, 2, 1], "residual blocks at each level", recorded=True)
    num_head_channels: Width | Widths = setting(32, "channels per attention head", recorded=True)
    norm_num_groups: Width = setting(16, "groups in group normalization", recorded=True)


class NetworkSettings(DiffusionSettings):
    """Metadata-conditioned UNet."""

    conditioning: Annotated[str, OneOf("mode of conditioning", MODES)] = setting(
        "concat", "how the embeddings of class and metadata are combined", recorded=True
    )


class SpaceSettings(Settings):
    """Image space of a text-to-image model."""

    image_channels: Width = setting(1, "channels of the images", recorded=True)
    patch_size: Width = setting(
        2, "side of the pixel squares that are stacked as channels, unless there is an autoencoder", recorded=True
    )
    autoencoder: PathText | None = setting(
        None, "folder of the run `autoencoding`; the model works in its latents; null: in pixels", recorded=True
    )


class PatchSpaceSettings(SpaceSettings, defaults={"image_channels": 3, "patch_size": 1}):
    """Image space."""


class CascadeSettings(Settings):
    """Second stage of a cascade."""

    small_size: Width = setting(32, "side in pixels of the images that the model enlarges", recorded=True)
    max_level: Whole = setting(
        300, "largest timestep of the noise that is added to the small images in training", recorded=True
    )


class UpsamplingSettings(Settings):
    """Enlarging sampled images."""

    sampled_dir: PathText = setting(help="folder of the run `sampling` whose images are enlarged")
    level: Whole = setting(100, "timestep of the noise that is added to the small images; at most `max_level`")


class AutoencoderSettings(Settings):
    """Training of an autoencoder, as MONAI trains it."""

    unscaled_gradients = True

    image_channels: Width = setting(3, "channels of the images")
    autoencoder_channels: Widths = setting(
        [32, 64, 64], "channels at each level; a level is half as large as the one before"
    )
    autoencoder_blocks: Few = setting(1, "residual blocks at each level")
    autoencoder_attention: Flag = setting(False, "whether the middle of encoder and decoder has attention")
    latent_channels: Width = setting(4, "channels of the latents")
    init_from: PathText | None = setting(None, "initial weights: a file of MONAI's `AutoencoderKL` of this shape")
    max_steps: Whole = setting(3000, "number of optimizer steps; 0: measure the scale of `init_from` alone")
    batch_size: Count = setting(8, "images per batch")
    learning_rate: Rate = setting(0.001, "peak learning rate of the autoencoder; half of it for the discriminator")
    kl_weight: Number = setting(1e-6, "weight of the Kullback-Leibler divergence of the latents")
    adversarial_weight: Number = setting(0.01, "weight of the PatchGAN loss; 0: no such loss")
    adversarial_start: Whole = setting(1000, "steps before the PatchGAN loss begins")
    perceptual: Text | None = setting(
        None, "network of MONAI's `PerceptualLoss`, such as squeeze, whose weights are available; null: no such loss"
    )
    perceptual_weight: Number = setting(0.001, "weight of the perceptual loss")
    augment: Flag = setting(True, "whether to augment with rotations and reflections")
    amp: AutoFlag = setting("auto", "whether to compute in bfloat16; auto: if it is fast, otherwise in float32")
    resume: Flag = setting(False, "whether to resume from the last checkpoint")
    log_every: Count = setting(10, "steps between TensorBoard scalars")
    checkpoint_every: Count = setting(500, "steps between checkpoints")
    num_validation: Count = setting(64, "held-out images on which the reconstruction is measured")


class TextNetworkSettings(
    DiffusionSettings,
    defaults={"channels": [64, 64, 64], "attention_levels": [False, True, True], "num_res_blocks": [1, 1, 1]},
):
    """Text-to-image UNet."""

    pooled: Flag = setting(True, "whether the pooled text embedding is added to the timestep embedding", recorded=True)


class TrainingSettings(Settings):
    """Training of a diffusion model."""

    max_steps: Count = setting(1800, "number of optimizer steps")
    batch_size: Count = setting(16, "images per batch", recorded=True)
    accumulation_steps: Count = setting(
        1, "parts into which a batch is split to save memory; a step still uses the whole batch", recorded=True
    )
    optimizer_type: Annotated[str, OneOf("optimizer", OPTIMIZERS)] = setting(
        "muon", "optimizer: muon (Muon for hidden matrices, AdamW for the rest), or adamw", recorded=True
    )
    timestep_weights: Annotated[str, OneOf("choice of `timestep_weights`", TIMESTEP_WEIGHTS)] = setting(
        "uniform", "how often noise levels are trained: uniform, or weighted as in the literature", recorded=True
    )
    learning_rate: Rate = setting(0.002, "peak learning rate", recorded=True)
    warmup_steps: Whole = setting(100, "steps of linear warm-up to the peak learning rate", recorded=True)
    decay_steps: Count | None = setting(
        None, "step at which cosine decay reaches a learning rate of zero", expression="@max_steps", recorded=True
    )
    weight_decay: Number = setting(0.0, "weight decay", recorded=True)
    adam_betas: Betas = setting([0.9, 0.999], "decay rates of AdamW's moving averages", recorded=True)
    max_grad_norm: Rate = setting(1.0, "norm to which gradients are clipped", recorded=True)
    ema_width: Rate = setting(0.1, "relative width of the power-function EMA of the weights", recorded=True)
    augment: Flag = setting(True, "whether to augment with rotations and reflections", recorded=True)
    amp: AutoFlag = setting("auto", AMP)
    resume: Flag = setting(False, "whether to resume from the last checkpoint")
    log_every: Count = setting(10, "steps between TensorBoard scalars")
    val_interval: Count = setting(250, "steps between validations")
    checkpoint_every: Count = setting(500, "steps between checkpoints")
    sample_every: Count = setting(1000, "steps between sample grids")
    num_validation: Count = setting(256, "images per validation")

    @model_validator(mode="after")
    def _decays_not_before_the_end(self) -> TrainingSettings:
        if (self.decay_steps or math.inf) < self.max_steps:
            raise InputError(f"decay_steps = {self.decay_steps} is less than max_steps = {self.max_steps}")
        return self


class PathologyTrainingSettings(TrainingSettings, defaults={"timestep_weights": "min_snr"}):
    """Training of the metadata-conditioned model."""

    label_dropout: Fraction = setting(0.05, "probability of dropping the label", recorded=True)
    attribute_dropout: Fraction = setting(0.05, "probability of dropping each attribute", recorded=True)
    joint_dropout: Fraction = setting(
        0.1, "probability of dropping the label and all attributes together", recorded=True
    )
    balance: Annotated[str, OneOf("choice of `balance`", BALANCES)] = setting(
        "class", "groups that are equally frequent in batches", recorded=True
    )
    permute_metadata: Flag = setting(
        False,
        "whether to permute attributes within each class, as a control whose images should not help a classifier",
        recorded=True,
    )
    init_from: PathText | None = setting(
        None,
        "initial weights: a model or checkpoint of ours, or weights of MONAI, monai-generative or diffusers",
    )
    min_patches_per_label: Count = setting(2, "minimum number of training patches per class")
    patch_cache: Annotated[str, OneOf("choice of `patch_cache`", PATCH_CACHES)] = setting(
        "auto", "where patches are stored during training; auto: in memory up to 4 GB, otherwise on disk"
    )


class TextTrainingSettings(TrainingSettings, defaults={"max_steps": 2000, "batch_size": 32, "augment": False}):
    """Training of the text-to-image model."""

    caption_dropout: Fraction = setting(0.1, "probability of dropping the caption", recorded=True)
    init_from: PathText | None = setting(None, "initial weights: a model or a training checkpoint", recorded=True)
    resample_to: MappingOf | Text | None = setting(
        None, "subgroup shares to which real images are resampled; same syntax as `target`", recorded=True
    )
    resample_table: PathText | None = setting(None, "reference table, for `resample_to: table`")


class TextSettings(Settings):
    """Frozen text encoder."""

    text_model: PathText | None = setting(None, "hub id or folder of a CLIP model; null: train a small CLIP")
    text_steps: Count = setting(600, "training steps of the small CLIP")
    max_length: Repeats | None = setting(None, "maximum number of tokens in a caption; null: the model's limit")
    on_long: Annotated[str, OneOf("choice of `on_long`", ON_LONG)] = setting("error", "what to do with longer captions")


class AdaptationSettings(Settings):
    """Learning a new value of an attribute."""

    unscaled_gradients = True

    attribute: Text | None = setting(None, "attribute that gets the value; null: the first categorical one")
    value: Text | None = setting(None, "name of the new value; null: Yew, an additional center of the demo cohort")
    patches: PathText | None = setting(
        None, "table of its patches (image, label), or folder of a cohort; null: patches of the demo"
    )
    max_patches: Repeats = setting(256, "maximum number of patches; of more, this many are drawn at random")
    max_steps: Count = setting(150, "number of steps")
    learning_rate: Rate = setting(0.2, "peak learning rate of the embedding")
    num_steps: Repeats = setting(15, "number of sampling steps of the picture")
    amp: AutoFlag = setting("auto", "whether to compute in bfloat16; auto: if it is fast, otherwise in float32")


class ClassificationSettings(Settings):
    """Classifier of an attribute."""

    role: Annotated[str, OneOf("role", ("guide", "validation", "judge"))] = setting("guide", "role of the classifier")
    max_steps: Count = setting(600, "number of optimizer steps")
    batch_size: Count = setting(64, "images per batch")
    learning_rate: Rate = setting(0.004, "peak learning rate")
    depth: Few = setting(1, "blocks per level")
    width: Width | None = setting(None, "channels of the first level; null: default of the role")
    residual: Flag | None = setting(None, "whether blocks are residual; null: default of the role")
    generated: Component | None = setting(None, "folder of generated images to add to the training data")
    classifier_folds: Repeats | None = setting(
        None, "folds of cross-validation, to measure accuracy if few patients are held out"
    )


def check_diffusion(diffusion: DiffusionSettings, space: SpaceSettings | None = None) -> None:
    """Check that objective, schedule and image space are compatible, before any work starts.

    Raises:
        InputError: as for :func:`medi_monai.diffusion.check_objective`; the latents of an autoencoder are unbounded.
    """
    clip = None if space is not None and space.autoencoder else 1.0
    check_objective(diffusion.objective, NoiseSchedule(diffusion.schedule, diffusion.num_timesteps), clip)


def check_model(
    conditions: ConditionSettings,
    cohort: CohortSettings,
    network: NetworkSettings,
    space: SpaceSettings | None = None,
) -> None:
    """Check that the settings of a training are consistent, before any patches are cut.

    Raises:
        InputError: for a class-only arm with attributes, another arm without any, an attribute that is not in
            ``metadata_columns``, or an image size that cannot be halved at each level of the network.
    """
    if (conditions.arm == "cls") != (not conditions.attributes):
        raise InputError(
            f"arm {conditions.arm!r} with the attributes {conditions.attributes}: `cls` has no attributes, every other "
            "arm has at least one. The overlay class_only.json has to be the last in --config_file"
        )
    check_named_once("attributes", conditions.attributes, cohort.label)
    for name in (*conditions.attributes, *cohort.subpopulation_columns[1:]):
        if name not in cohort.metadata_columns:
            raise unknown_value("attribute", name, cohort.metadata_columns, "Name it in `metadata_columns` as well.")
    factor = 2 ** (len(network.channels) - 1)
    if space is not None:
        # the size of the latents is checked later, when the autoencoder is known
        factor = 1 if space.autoencoder else factor * space.patch_size
    if cohort.image_size % factor:
        raise InputError(
            f"image_size = {cohort.image_size}: a network of {len(network.channels)} levels needs a multiple of "
            f"{factor}"
        )
