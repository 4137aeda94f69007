"""The settings of an alignment: what an update minimizes, how the tuning runs, and what it works on."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from medi_monai.alignment.functional import ROLLOUTS, SEPARATOR, check_shares
from medi_monai.networks.tuning import TUNED
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import (
    Component,
    Count,
    Flag,
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
    "LOSSES",
    "SCOPES",
    "AlignmentLosses",
    "AlignmentSettings",
    "BrainAlignmentLosses",
    "BrainAlignmentSettings",
    "PromptSettings",
    "ReaderSettings",
    "TargetSettings",
]

#: ``matching`` is the paper's batch probability matching; ``transport`` the optimal-transport pseudo-targets
LOSSES = ("matching", "transport")
#: ``prompt``: the images of each prompt, so that the attribute is not tied to what a prompt says; ``batch``: all images
SCOPES = ("prompt", "batch")


class TargetSettings(Settings):
    """The shares that the subgroups should have."""

    target: MappingOf | Text | None = setting(
        "uniform", "target shares: uniform, table, or a mapping as {female: 0.3, male: 0.7}"
    )
    target_table: PathText | None = setting(
        None, "reference table of `table`: a row per image or patient, or rows with a count or a share"
    )

    def check_attribute(self, attribute: str | None) -> None:
        """Refuse shares that cannot be, of the attribute or of the joint of several.

        Raises:
            InputError: naming what is wrong with them.
        """
        if self.target is not None and attribute:
            check_shares(self.target, attribute.split(SEPARATOR), self.target_table)


class ReaderSettings(Settings):
    """The classifiers that read the attribute of an image."""

    classifier_dir: PathText = setting(help="folder of the classifiers", expression="$@bundle_root + '/models'")
    guide: Component = setting(help="the classifier whose gradient tunes", expression="$@classifier_dir + '/guide'")
    validation_classifier: Component | None = setting(
        None, "the classifier that decides when it is enough", expression="$@classifier_dir + '/validation'"
    )
    judge: Component | None = setting(
        None, "the classifier that measures the result", expression="$@classifier_dir + '/judge'"
    )


class PromptSettings(Settings):
    """The texts that images are drawn for."""

    prompts: Texts | PathText = setting("neutral", "neutral, named, a file with a prompt on each line, or a list")
    num_images: Count = setting(64, "images in all")


class AlignmentLosses(Settings):
    """What an update minimizes."""

    subgroup_loss: Annotated[str, OneOf("choice of `subgroup_loss`", LOSSES)] = setting(
        "transport", "matching: of the paper; transport: optimal-transport pseudo-targets"
    )
    scope: Annotated[str, OneOf("choice of `scope`", SCOPES)] = setting(
        "prompt", "what is brought to the target: each prompt, or a batch"
    )
    min_confidence: Fraction = setting(
        0.55, "of `transport`: share of the drawn label sets in which an image has to get its label"
    )
    draws: Count | None = setting(100, "of `transport`: label sets drawn; null apportions the target to each batch")
    # without it nothing is aligned
    subgroup_weight: Rate = setting(1.0, "weight of the subgroup loss")
    consistency_weight: Number = setting(1.0, "weight of 1 - cosine between features of tuned and untuned images")
    pixel_weight: Number = setting(1.0, "weight of the term that sees color and form in the pixels")
    anchor_weight: Number = setting(1.0, "weight of the denoising loss on real images")
    distillation_weight: Number = setting(
        100.0, "weight of the distance to the untuned model where the condition names the attribute"
    )
    keep_weight: Number = setting(1.0, "weight of consistency of an image that keeps its subgroup")
    change_weight: Number = setting(0.2, "weight of consistency of an image that has to change it")
    rollout: Annotated[str, OneOf("choice of `rollout`", tuple(ROLLOUTS))] = setting(
        "adjusted", "gradient through the sampler"
    )
    last_steps: Count | None = setting(None, "sampling steps that it goes through; null: all")


class BrainAlignmentLosses(AlignmentLosses, defaults={"keep_weight": 2.0}):
    """What an update of the brain MR model minimizes."""


class AlignmentSettings(Settings):
    """How a tuning runs."""

    max_steps: Count = setting(60, "updates at most")
    batch_size: Count = setting(48, "images of an update, 2 or more")
    learning_rate: Rate | None = setting(None, "highest learning rate of AdamW; by default as `tuned` needs it")
    max_grad_norm: Rate = setting(1.0, "norm that gradients are clipped to")
    tuned: Annotated[str, OneOf("choice of `tuned`", TUNED)] = setting("all", "which weights are tuned")
    rank: Count = setting(8, "rank of the adapter, with lora")
    pool_size: Count = setting(480, "prompts with their noise that updates draw from")
    val_interval: Count = setting(10, "updates between two validations")
    num_validation: Count = setting(128, "images of a validation")
    patience: Count = setting(3, "validations without improvement after which the tuning ends")
    checkpoint_every: Count = setting(20, "updates between two checkpoints")
    harden_guide: Flag = setting(False, "whether images are augmented before the guide sees them")
    anchor_batch_size: Count = setting(48, "real images of an update")
    draw_batch_size: Count = setting(48, "images drawn at once")
    resume: Flag = setting(False, "resume from the last checkpoint")
    seed: Seed = setting(0, "seed of all draws")

    @model_validator(mode="after")
    def _pool_holds_a_batch(self) -> AlignmentSettings:
        if self.batch_size < 2:
            raise InputError("batch_size = 1 of an alignment: one image has no distribution; give 2 or more")
        if self.pool_size < self.batch_size:
            raise InputError(
                f"pool_size = {self.pool_size} is less than batch_size = {self.batch_size}: an image would come twice "
                "in an update"
            )
        return self


class BrainAlignmentSettings(
    AlignmentSettings,
    defaults={"max_steps": 40, "tuned": "cross_attention", "num_validation": 480, "anchor_batch_size": 96},
):
    """How a tuning of the brain MR model runs."""
