"""Settings of an alignment: target, classifiers, prompts, losses and optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

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
    Repeats,
    Seed,
    Settings,
    Text,
    Texts,
    Width,
    setting,
)

__all__ = [
    "LOSSES",
    "SCOPES",
    "SUBGROUP_CHOICES",
    "AlignmentLosses",
    "AlignmentSettings",
    "BrainAlignmentLosses",
    "BrainAlignmentSettings",
    "PromptSettings",
    "SubgroupPromptSettings",
    "AlignmentClassifierSettings",
    "TargetSettings",
]

#: ``matching``: the paper's batch probability matching; ``transport``: optimal-transport pseudo-targets
LOSSES = ("matching", "transport")
#: images whose shares are matched to the target: ``prompt``, those of each prompt separately, which keeps the attribute
#: independent of the prompt; ``batch``, all
SCOPES = ("prompt", "batch")


#: who chooses the subgroup of an image for a neutral prompt
SUBGROUP_CHOICES = ("model", "named", "debiased")


class TargetSettings(Settings):
    """Target distribution."""

    target: MappingOf | Text | None = setting(
        "uniform", "target shares of the subgroups: uniform, table, or a mapping such as {female: 0.3, male: 0.7}"
    )
    target_table: PathText | None = setting(
        None,
        "reference table for `target: table`: one row per image or patient, or one per subgroup with count or share",
    )

    def check_attribute(self, attribute: str | None) -> None:
        """Check that the shares are possible for the attribute, or for the joint distribution of several.

        Raises:
            InputError: if they are not.
        """
        if self.target is not None and attribute:
            check_shares(self.target, attribute.split(SEPARATOR), self.target_table)


class AlignmentClassifierSettings(Settings):
    """Classifiers of the attribute."""

    classifier_dir: PathText = setting(help="folder of the classifiers", expression="$@bundle_root + '/models'")
    guide: Component = setting(
        help="classifier whose gradient tunes the model", expression="$@classifier_dir + '/guide'"
    )
    validation_classifier: Component | None = setting(
        None,
        "classifier that decides when to stop and which weights to keep",
        expression="$@classifier_dir + '/validation'",
    )
    judge: Component | None = setting(
        None, "classifier that measures the result", expression="$@classifier_dir + '/judge'"
    )


class PromptSettings(Settings):
    """Prompts."""

    prompts: Texts | PathText = setting(
        "neutral", "prompts: neutral, named, a file with one prompt per line, or a list"
    )
    num_images: Count = setting(64, "total number of images")


class SubgroupPromptSettings(Settings):
    """Subgroups of neutral prompts."""

    subgroups: Annotated[str, OneOf("choice of `subgroups`", SUBGROUP_CHOICES)] = setting(
        "model",
        "model: the model chooses the subgroup of an image; named: prompts name a subgroup, with the shares of "
        "`target`; debiased: text embeddings are moved to a subgroup, with the shares of `target`",
    )


class AlignmentLosses(Settings):
    """Losses of an alignment."""

    subgroup_loss: Annotated[str, OneOf("choice of `subgroup_loss`", LOSSES)] = setting(
        "transport",
        "matching: batch probability matching, as in the paper; transport: optimal-transport pseudo-targets",
    )
    scope: Annotated[str, OneOf("choice of `scope`", SCOPES)] = setting(
        "prompt", "prompt: match the target within each prompt; batch: over all images"
    )
    min_confidence: Fraction = setting(
        0.55, "for `transport`: an image is used if at least this fraction of the sampled label sets agree on its label"
    )
    draws: Repeats | None = setting(
        100, "for `transport`: number of sampled label sets; null: apportion the target to each batch"
    )
    # a weight of 0 is not allowed, because nothing would be aligned
    subgroup_weight: Rate = setting(1.0, "weight of the subgroup loss")
    consistency_weight: Number = setting(
        1.0, "weight of 1 - cosine similarity between features of tuned and original images"
    )
    pixel_weight: Number = setting(1.0, "weight of the pixel term, which preserves color and shape")
    anchor_weight: Number = setting(1.0, "weight of the denoising loss on real images")
    distillation_weight: Number = setting(
        100.0, "weight of the distance to the original model's predictions where the condition names the attribute"
    )
    keep_weight: Number = setting(1.0, "consistency weight of images that keep their subgroup")
    change_weight: Number = setting(0.2, "consistency weight of images that have to change their subgroup")
    rollout: Annotated[str, OneOf("choice of `rollout`", tuple(ROLLOUTS))] = setting(
        "adjusted", "how the gradient passes through the sampler"
    )
    last_steps: Repeats | None = setting(
        None, "number of last sampling steps that the gradient passes through; null: all"
    )


class BrainAlignmentLosses(AlignmentLosses, defaults={"keep_weight": 2.0}):
    """Losses of an alignment of the brain MR model."""


class AlignmentSettings(Settings):
    """Tuning."""

    #: default learning rates by the weights that are tuned: the fewer they are, the farther each has to move
    rates: ClassVar[Mapping[str, float]] = {"all": 5e-5, "cross_attention": 5e-4, "lora": 1e-3}

    max_steps: Count = setting(60, "maximum number of updates")
    batch_size: Count = setting(48, "images per update, at least 2")
    learning_rate: Rate | None = setting(None, "peak learning rate of AdamW; null: default for the choice of `tuned`")
    max_grad_norm: Rate = setting(1.0, "norm to which gradients are clipped")
    tuned: Annotated[str, OneOf("choice of `tuned`", TUNED)] = setting("all", "which weights are tuned")
    rank: Width = setting(8, "rank of the adapter, for `tuned: lora`")
    pool_size: Count = setting(480, "number of pairs of prompt and noise from which batches are drawn")
    val_interval: Count = setting(10, "updates between validations")
    num_validation: Count = setting(128, "images per validation")
    patience: Count = setting(3, "number of validations without improvement after which tuning stops")
    checkpoint_every: Count = setting(20, "updates between checkpoints")
    harden_guide: Flag = setting(False, "whether to augment the images that the guide classifies")
    anchor_batch_size: Count = setting(48, "real images per update")
    draw_batch_size: Count = setting(48, "images per sampling batch")
    resume: Flag = setting(False, "whether to resume from the last checkpoint")
    seed: Seed = setting(0, "random seed")

    @model_validator(mode="after")
    def _pool_holds_a_batch(self) -> AlignmentSettings:
        if self.batch_size < 2:
            raise InputError("batch_size = 1: an alignment compares the shares within a batch; give at least 2")
        if self.pool_size < self.batch_size:
            raise InputError(
                f"pool_size = {self.pool_size} is less than batch_size = {self.batch_size}: an update would "
                "contain the same image twice"
            )
        return self

    @property
    def rate(self) -> float:
        """The learning rate: the given one, or the default for the weights that are tuned."""
        return self.rates[self.tuned] if self.learning_rate is None else self.learning_rate


class BrainAlignmentSettings(
    AlignmentSettings,
    defaults={"max_steps": 40, "tuned": "cross_attention", "num_validation": 480, "anchor_batch_size": 96},
):
    """Tuning of the brain MR model."""

    rates: ClassVar[Mapping[str, float]] = {**AlignmentSettings.rates, "all": 2.5e-5}
