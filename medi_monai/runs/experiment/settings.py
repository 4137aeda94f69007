"""Settings of experiments."""

from __future__ import annotations

from medi_monai.cohort.settings import ReadingSettings
from medi_monai.engines.sampling_settings import PlanSettings, SamplingSettings
from medi_monai.runs.shipped import PATHOLOGY_BUNDLE
from medi_monai.utils.settings import (
    Component,
    Count,
    Few,
    Flag,
    MappingOf,
    Number,
    PathText,
    Rate,
    Rates,
    Repeats,
    Settings,
    Whole,
    setting,
)

__all__ = [
    "BrainExperimentSettings",
    "ExperimentPlanSettings",
    "ExperimentReadingSettings",
    "ExperimentSamplingSettings",
    "ExperimentSettings",
    "WorkflowSettings",
]


class ExperimentPlanSettings(PlanSettings, defaults={"plan": "all", "images_per_combination": 64}):
    """Sampling plan of the experiment."""


class ExperimentSamplingSettings(SamplingSettings, defaults={"num_steps": 15}):
    """Sampling in the experiment."""


class ExperimentReadingSettings(ReadingSettings, defaults={"on_error": "skip"}):
    """Preparing the cohort of the experiment."""


class ParallelSettings(Settings):
    """Stages of an experiment."""

    max_parallel_stages: Few | None = setting(
        None, "maximum number of stages that run in parallel; null: 2 on a CPU, otherwise 1"
    )


class ExperimentSettings(ParallelSettings):
    """Experiment with the metadata-conditioned model."""

    sampling_batch_size: Count = setting(64, "images per sampling batch")
    num_trainings: Repeats = setting(1, "trainings of each arm, with seeds `seed`, `seed` + 1, …")
    class_only_guidance: Number = setting(1.0, "`label_guidance` of the class-only arm; 1: none")
    permuted_control: Flag = setting(
        False, "whether to include an arm trained on permuted metadata, whose images should not help"
    )
    second_encoder: Component | None = setting(
        "auto",
        "encoder with which evaluation and probing are repeated; auto: `efficientnet_lite0` if the first encoder is "
        "`embedded`, otherwise `embedded`; null: none",
    )
    second_repeats: Repeats = setting(4, "`num_repeats` of the probing with the second encoder")
    second_sweep_repeats: Whole = setting(
        1, "`sweep_repeats` of the probing with the second encoder, whose only sweep is `correlation`"
    )
    second_c_values: Rates = setting([0.01, 0.1, 1.0], "`c_values` of evaluation and probing with the second encoder")


class WorkflowSettings(Settings):
    """Listing the stages of an experiment for a scheduler of jobs."""

    bundle: PathText = setting(PATHOLOGY_BUNDLE, "name or folder of the bundle")
    resources: MappingOf = setting(
        {}, "what stages are given, such as `threads`, by name of a stage, id of a run, or `default`"
    )


class BrainExperimentSettings(ParallelSettings):
    """Experiment with the text-to-image model."""

    reference_dataset: PathText | None = setting(
        None,
        "data set of real images with the target shares; null: the cohort itself",
        expression="$None if @dataset_dir else 'demo_balanced'",
    )
    num_images: Count = setting(
        600, "images before and after tuning, both for neutral prompts and for prompts that name the attribute"
    )
    alternatives: Flag = setting(
        True, "whether to include the alternatives `retrained`, `resampled`, `prompted` and `debiased`"
    )
    num_candidates: Count = setting(1800, "number of images from which the alternative `resampled` selects")
    num_tunings: Repeats = setting(
        1, "number of seeds of the tuning; the intervals of the evaluation then include the variance between them"
    )
    align_steps: Count = setting(40, "maximum number of updates of the tuning")
    align_batch_size: Count = setting(48, "images per update")
    align_learning_rate: Rate | None = setting(
        None, "peak learning rate of the tuning; null: default for the choice of `tuned`"
    )
    classifier_steps: Count = setting(600, "training steps per classifier")
    classifier_batch_size: Count = setting(64, "images per batch of a classifier")
    classifier_folds: Repeats | None = setting(None, "folds of cross-validation of the classifiers")
    retrain_steps: Count | None = setting(
        None, "training steps of the alternative `retrained`; null: same number of images as the tuning"
    )
    retrain_learning_rate: Rate = setting(0.0005, "peak learning rate of the alternative `retrained`")
