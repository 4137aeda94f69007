"""The settings of runs, and the groups by the names that configs list under ``settings``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from medi_monai.alignment.settings import (
    AlignmentLosses,
    AlignmentSettings,
    BrainAlignmentLosses,
    BrainAlignmentSettings,
    PromptSettings,
    ReaderSettings,
    TargetSettings,
)
from medi_monai.cohort.settings import CaptionSettings, CohortSettings, ReadingSettings
from medi_monai.engines.model_dir import load_settings
from medi_monai.engines.settings import (
    ClassificationSettings,
    ConditionSettings,
    NetworkSettings,
    PathologyTrainingSettings,
    PlanSettings,
    SamplingSettings,
    SeedSettings,
    SpaceSettings,
    TextNetworkSettings,
    TextSettings,
    TextTrainingSettings,
    check_model,
)
from medi_monai.evaluation.settings import (
    AlignmentEvaluationSettings,
    ArmSettings,
    BrainFidelitySettings,
    ComparisonSettings,
    EncoderSettings,
    FidelitySettings,
    FocusSettings,
    PenaltySettings,
    ProbeSettings,
    ReferenceSettings,
)
from medi_monai.runs.auditing import AUDIT_SOURCES
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest
from medi_monai.utils.settings import (
    Component,
    Count,
    Flag,
    Number,
    OneOf,
    PathText,
    Rate,
    Settings,
    Text,
    Words,
    is_recorded,
    setting,
)
from medi_monai.wsi.readers import BACKENDS

__all__ = ["GROUPS", "check_groups", "check_trained", "load_train_config", "stage_options"]


def _is_device(value: Any) -> Any:
    try:
        torch.empty(1, device=value).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        known = "cuda (or cuda:0, …) and cpu" if torch.cuda.is_available() else "cpu; PyTorch finds no GPU"
        raise InputError(f"device {str(value)!r} is not available: {known}") from error
    return value


Device = Annotated[Any, AfterValidator(_is_device), Words("cpu, cuda, or cuda:0 and so on")]


class OutputSettings(Settings):
    """Where a run writes."""

    output_dir: PathText = setting(help="folder of the run's results")


class DeviceSettings(Settings):
    """Where a run computes."""

    device: Device = setting(
        help="device to compute on", expression="$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"
    )


class ModelSettings(Settings):
    """Where the model lies."""

    ckpt_dir: PathText = setting(help="folder of the model", expression="$@bundle_root + '/models'")


class TunedModelSettings(Settings):
    """Where the aligned model goes."""

    aligned_dir: PathText = setting(help="folder of the aligned model", expression="$@bundle_root + '/models/aligned'")


class CohortDirSettings(Settings):
    """Where the prepared cohort lies."""

    at_start = False

    cohort_dir: PathText = setting(
        help="folder of the prepared cohort", expression="$cohorts.default_cohort_dir(@preparation, @bundle_root)"
    )


class PreparingSettings(ReadingSettings, defaults={"on_error": "skip"}):
    """How patches are cut."""

    backend: Annotated[str, OneOf("back end", BACKENDS)] = setting("auto", "library that reads slides")
    fail_on_leakage: Flag = setting(False, "whether leakage between splits ends the run with an error")


class AuditSettings(ReadingSettings, defaults={"on_error": "skip"}):
    """What is audited."""

    audit_source: Annotated[str, OneOf("choice of `audit_source`", AUDIT_SOURCES)] = setting(
        "patches", "patches: the prepared cohort; table: the table alone, before a slide is there"
    )
    fail_on_leakage: Flag = setting(False, "whether leakage between splits ends the run with an error")


class SampledSettings(Settings):
    """Which images are chosen from."""

    sampling_dir: PathText = setting(
        help="folder of the sampling to choose from", expression="$@bundle_root + '/output/sampling'"
    )


class AlignedAttributeSettings(Settings):
    """Which attribute of a metadata-conditioned model is aligned."""

    attribute: Text | None = setting("center", "the attribute that is aligned; several are joined as race|sex")


class NeutralPlanSettings(Settings):
    """Which images the tuning draws."""

    plan: PathText = setting("neutral", "neutral, or a table of label and attributes without the aligned one")
    num_images: Count = setting(256, "images of the plan")


class TuningPromptSettings(PromptSettings, defaults={"num_images": 256}):
    """The prompts of a tuning."""


class SolverSettings(Settings):
    """How a tuning draws images."""

    num_steps: Count = setting(15, "sampling steps")
    guidance_scale: Number = setting(1.0, "guidance scale; 1 is none")
    amp: Flag = setting(True, "whether bfloat16 is used where it is fast")


class BrainSamplingSettings(SamplingSettings, defaults={"num_steps": 15, "amp": True}):
    """How brain MR images are drawn."""


class BrainEncoderSettings(EncoderSettings, defaults={"encoder": "clip"}):
    """The frozen features that brain MR images are compared by."""


class ClipSettings(Settings):
    """The CLIP model whose features hold images to what they were."""

    at_start = False

    clip_model: Component = setting(
        help="folder of the CLIP model", expression="$@text_model or @schema.text_encoder.source"
    )


class MeasuredTargetSettings(TargetSettings, defaults={"target": None}):
    """The shares that an evaluation measures against; null: those of the aligning."""


class FoldSettings(Settings):
    """Cross-validation of the classifiers of captions."""

    num_folds: Count | None = setting(None, "folds of a cross-validation, where few patients are held out")


class DemoPlanSettings(PlanSettings, defaults={"plan": "all", "images_per_combination": 96}):
    """Which combinations the experiment draws."""


class DemoSamplingSettings(SamplingSettings, defaults={"solver": "dpm", "num_steps": 15}):
    """How the experiment draws images."""


class ExperimentReadingSettings(ReadingSettings, defaults={"on_error": "skip"}):
    """How the experiment reads the data set."""


class ParallelSettings(Settings):
    """How the stages of an experiment run."""

    max_parallel_stages: Count | None = setting(None, "stages that run beside each other; null: 2 on a CPU, else 1")


class ExperimentSettings(ParallelSettings):
    """What the experiment of the metadata-conditioned model has of its own."""

    sampling_batch_size: Count = setting(64, "images drawn at once")
    sampling_amp: Flag = setting(False, "whether sampling uses bfloat16")


class BrainExperimentSettings(ParallelSettings):
    """What the experiment of the text-to-image model has of its own."""

    reference_dataset: PathText | None = setting(
        None,
        "data set that has the target's shares; null: the cohort itself",
        expression="$None if @dataset_dir else 'demo_balanced'",
    )
    num_images: Count = setting(600, "images before and after, of neutral prompts and of those that name the attribute")
    alternatives: Flag = setting(True, "whether retraining and choosing are compared with")
    num_candidates: Count = setting(1800, "images that the alternative `resampled` chooses from")
    align_steps: Count = setting(40, "updates of the tuning")
    align_batch_size: Count = setting(48, "images of an update")
    align_learning_rate: Rate | None = setting(None, "highest learning rate of the tuning; null: as `tuned` needs it")
    classifier_steps: Count = setting(600, "steps of a classifier")
    classifier_batch_size: Count = setting(64, "images of a classifier's batch")
    classifier_folds: Count | None = setting(None, "folds of the classifiers' cross-validation")
    retrain_steps: Count | None = setting(None, "steps of the retraining; null: as many images as the tuning may see")
    retrain_learning_rate: Rate = setting(0.0005, "highest learning rate of the retraining")


#: what configs name under ``settings``
GROUPS: dict[str, type[Settings]] = {
    "aligned_attribute": AlignedAttributeSettings,
    "alignment": AlignmentSettings,
    "alignment_evaluation": AlignmentEvaluationSettings,
    "arms": ArmSettings,
    "audit": AuditSettings,
    "brain_alignment": BrainAlignmentSettings,
    "brain_encoder": BrainEncoderSettings,
    "brain_experiment": BrainExperimentSettings,
    "brain_fidelity": BrainFidelitySettings,
    "brain_losses": BrainAlignmentLosses,
    "brain_sampling": BrainSamplingSettings,
    "captions": CaptionSettings,
    "classification": ClassificationSettings,
    "clip": ClipSettings,
    "cohort": CohortSettings,
    "cohort_dir": CohortDirSettings,
    "comparison": ComparisonSettings,
    "conditions": ConditionSettings,
    "demo_plan": DemoPlanSettings,
    "demo_sampling": DemoSamplingSettings,
    "device": DeviceSettings,
    "encoder": EncoderSettings,
    "experiment": ExperimentSettings,
    "experiment_reading": ExperimentReadingSettings,
    "fidelity": FidelitySettings,
    "focus": FocusSettings,
    "folds": FoldSettings,
    "losses": AlignmentLosses,
    "measured_target": MeasuredTargetSettings,
    "model": ModelSettings,
    "network": NetworkSettings,
    "neutral_plan": NeutralPlanSettings,
    "output": OutputSettings,
    "penalties": PenaltySettings,
    "plan": PlanSettings,
    "preparing": PreparingSettings,
    "probe": ProbeSettings,
    "prompts": PromptSettings,
    "readers": ReaderSettings,
    "reading": ReadingSettings,
    "reference": ReferenceSettings,
    "sampled": SampledSettings,
    "sampling": SamplingSettings,
    "seed": SeedSettings,
    "solver": SolverSettings,
    "space": SpaceSettings,
    "target": TargetSettings,
    "text": TextSettings,
    "text_network": TextNetworkSettings,
    "text_training": TextTrainingSettings,
    "training": PathologyTrainingSettings,
    "tuned_model": TunedModelSettings,
    "tuning_prompts": TuningPromptSettings,
}


def check_groups(groups: Any) -> None:
    """Refuse, before any work, settings that contradict those of another group.

    Args:
        groups: what a config has under ``settings`` by the time it runs.

    Raises:
        InputError: naming what contradicts what; also where the configs were not read by way of this package.
    """
    if not isinstance(groups, Mapping):
        raise InputError(
            "the settings of this bundle were not read: medi_monai has to be installed (pip install), and "
            "TORCH_DEVICE_BACKEND_AUTOLOAD must not be 0"
        )
    if all(isinstance(groups.get(name), Settings) for name in ("conditions", "cohort", "network")):
        check_model(groups["conditions"], groups["cohort"], groups["network"])
    attribute = next((values["attribute"] for group in groups.values() if "attribute" in (values := dict(group))), None)
    for group in groups.values():
        if isinstance(group, TargetSettings):
            group.check_attribute(attribute)


def load_train_config(ckpt_dir: str | os.PathLike, *groups: str) -> dict[str, Any]:
    """How the model in ``ckpt_dir`` was trained (``model.json``); where there is no model yet, as it would be.

    Args:
        ckpt_dir: folder of the model.
        groups: names of the groups of settings whose defaults stand in for what is not recorded.
    """
    defaults: dict[str, Any] = {"cohort_dir": None}
    for group in groups:
        for name, field in GROUPS[group].model_fields.items():
            if is_recorded(field) or name in ("table", "columns"):
                defaults[name] = field.get_default(call_default_factory=True)
    return load_settings(ckpt_dir, defaults)


def stage_options(settings: Mapping[str, Any], *groups: str, **more: Any) -> dict[str, Any]:
    """The settings of an experiment that each of its stages takes where its config has them.

    Args:
        settings: what the config has under ``settings`` by the time it runs.
        groups: names of those that stages take.
        more: further ids with values.
    """
    options = {name: value for group in groups for name, value in dict(settings[group]).items()}
    if "device" in options:
        options["device"] = str(options["device"])
    return {**options, **more}


def check_trained(ckpt_dir: str | os.PathLike, train_config: Mapping[str, Any], **settings: Any) -> None:
    """Refuse settings other than those of the training: a model would draw something else in silence.

    Args:
        ckpt_dir: where the model lies; where there is none, nothing is compared.
        train_config: its ``model.json``.
        settings: that decide what its weights mean.

    Raises:
        InputError: naming the first setting that differs.
    """
    if not (Path(ckpt_dir) / "model.json").is_file():
        return
    for name, value in settings.items():
        if name in train_config and json_digest(train_config[name]) != json_digest(value):
            raise InputError(
                f"{name} = {value!r}: the model in {ckpt_dir} was trained with {train_config[name]!r}; leave the "
                "option out"
            )
