"""Settings of runs, and all groups of settings by the names that configs list under ``settings``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from medi_monai.alignment.settings import (
    AlignmentClassifierSettings,
    AlignmentLosses,
    AlignmentSettings,
    BrainAlignmentLosses,
    BrainAlignmentSettings,
    PromptSettings,
    SubgroupPromptSettings,
    TargetSettings,
)
from medi_monai.cohort.settings import (
    CaptionSettings,
    CohortSettings,
    FeatureCohortSettings,
    FeatureSettings,
    ReadingSettings,
)
from medi_monai.engines.model_dir import has_format, load_settings
from medi_monai.engines.sampling_settings import (
    GUIDANCE_SCALE,
    GuidanceSettings,
    PathSettings,
    PlanSettings,
    SamplingSettings,
    SharingSettings,
)
from medi_monai.engines.settings import (
    AdaptationSettings,
    AutoencoderSettings,
    AutoFlag,
    CascadeSettings,
    ClassificationSettings,
    ConditionSettings,
    NetworkSettings,
    PatchSpaceSettings,
    PathologyTrainingSettings,
    SeedSettings,
    SpaceSettings,
    TextNetworkSettings,
    TextSettings,
    TextTrainingSettings,
    UpsamplingSettings,
    check_diffusion,
    check_model,
)
from medi_monai.evaluation.settings import (
    AlignmentEvaluationSettings,
    ArmSettings,
    BrainFidelitySettings,
    ComparisonSettings,
    CompressionSettings,
    EncoderSettings,
    FidelitySettings,
    FocusSettings,
    PenaltySettings,
    PixelFigureSettings,
    ProbeSettings,
    ReferenceSettings,
    SweepSettings,
)
from medi_monai.runs.auditing import AUDIT_SOURCES
from medi_monai.runs.devices import Device, device_line
from medi_monai.runs.devices import precision_of as precision_of
from medi_monai.runs.experiment.settings import (
    BrainExperimentSettings,
    ExperimentPlanSettings,
    ExperimentReadingSettings,
    ExperimentSamplingSettings,
    ExperimentSettings,
)
from medi_monai.runs.model_record import check_record
from medi_monai.runs.sizes import check_sizes
from medi_monai.utils.errors import InputError, report_user_errors
from medi_monai.utils.files import json_digest
from medi_monai.utils.run_dir import is_command_line
from medi_monai.utils.settings import (
    Component,
    Count,
    Flag,
    Number,
    OneOf,
    PathText,
    Repeats,
    Settings,
    Text,
    is_recorded,
    setting,
)
from medi_monai.wsi.readers import BACKENDS

__all__ = ["GROUPS", "BundleSettings", "check_groups", "check_trained", "load_train_config", "stage_options"]


class BundleSettings(Settings):
    """Bundle folder, a setting of every config."""

    bundle_root: PathText = setting(".", "folder of the bundle")


class OutputSettings(Settings):
    """Output folder."""

    output_dir: PathText = setting(help="folder for the results of the run")


class DeviceSettings(Settings):
    """Device."""

    device: Device = setting(
        help="PyTorch device", expression="$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"
    )


class ModelSettings(Settings):
    """Model folder."""

    ckpt_dir: PathText = setting(help="folder of the model", expression="$@bundle_root + '/models'")


class TunedModelSettings(Settings):
    """Folder of the aligned model."""

    unscaled_gradients = True

    aligned_dir: PathText = setting(help="folder for the aligned model", expression="$@bundle_root + '/models/aligned'")


class CohortDirSettings(Settings):
    """Cohort folder."""

    at_start = False

    cohort_dir: PathText = setting(
        help="folder of the prepared cohort", expression="$cohorts.default_cohort_dir(@preparation, @bundle_root)"
    )


class TrainedCohortSettings(Settings):
    """Cohort of the training."""

    cohort_dir: PathText | None = setting(
        None,
        "folder of the prepared cohort; null: that of the training or, without it, the combinations that model.json "
        "records",
    )


class PreparingSettings(ReadingSettings, defaults={"on_error": "skip"}):
    """Preparing."""

    backend: Annotated[str, OneOf("back end", BACKENDS)] = setting("auto", "library that reads slides")
    fail_on_leakage: Flag = setting(False, "whether leakage between splits ends the run with an error")


class AuditSettings(ReadingSettings, defaults={"on_error": "skip"}):
    """Audit."""

    audit_source: Annotated[str, OneOf("choice of `audit_source`", AUDIT_SOURCES)] = setting(
        "patches", "patches: audit the prepared cohort; table: audit the table alone, without any images"
    )
    fail_on_leakage: Flag = setting(False, "whether leakage between splits ends the run with an error")


class SampledSettings(Settings):
    """Candidate images."""

    sampling_dir: PathText = setting(
        help="folder of the sampled images to select from", expression="$@bundle_root + '/output/sampling'"
    )


class AlignedAttributeSettings(Settings):
    """Aligned attribute."""

    attribute: Text | None = setting("center", "attribute to align; join several as race|sex")


class NeutralPlanSettings(Settings):
    """Plan of the tuning."""

    plan: PathText = setting(
        "neutral", "neutral, or a table of the label and the attributes other than the aligned one"
    )
    num_images: Count = setting(256, "number of images in the plan")


class TuningPromptSettings(PromptSettings, defaults={"num_images": 256}):
    """Prompts of the tuning."""


class TuningSamplingSettings(Settings):
    """Sampling during tuning."""

    num_steps: Repeats = setting(15, "number of sampling steps")
    guidance_scale: Number = setting(1.0, GUIDANCE_SCALE)
    amp: AutoFlag = setting("auto", "whether to compute in bfloat16; auto: if it is fast, otherwise in float32")


class BrainSamplingSettings(SamplingSettings, defaults={"num_steps": 15}):
    """Sampling of brain MR images."""


class AlignmentEncoderSettings(EncoderSettings):
    """Feature encoder of the evaluation of an alignment."""

    encoder: Component = setting(
        "independent",
        "encoder for distances, diversity and consistency, or a mapping with its settings; independent: embedded, or "
        "efficientnet_lite0 if embedded regularized the tuning",
    )


class ClipSettings(Settings):
    """CLIP model of the consistency loss."""

    at_start = False

    clip_model: Component = setting(
        help="folder of the CLIP model", expression="$@text_model or @schema.text_encoder.source"
    )


class MeasuredTargetSettings(TargetSettings, defaults={"target": None}):
    """Target distribution of an evaluation; null: as in the run `aligning`."""


#: groups of settings by the name that configs list under ``settings``
GROUPS: dict[str, type[Settings]] = {
    "adaptation": AdaptationSettings,
    "aligned_attribute": AlignedAttributeSettings,
    "alignment": AlignmentSettings,
    "alignment_encoder": AlignmentEncoderSettings,
    "alignment_evaluation": AlignmentEvaluationSettings,
    "arms": ArmSettings,
    "audit": AuditSettings,
    "autoencoding": AutoencoderSettings,
    "brain_alignment": BrainAlignmentSettings,
    "brain_experiment": BrainExperimentSettings,
    "brain_fidelity": BrainFidelitySettings,
    "brain_losses": BrainAlignmentLosses,
    "brain_sampling": BrainSamplingSettings,
    "captions": CaptionSettings,
    "cascade": CascadeSettings,
    "classification": ClassificationSettings,
    "classifiers": AlignmentClassifierSettings,
    "clip": ClipSettings,
    "cohort": CohortSettings,
    "cohort_dir": CohortDirSettings,
    "trained_cohort": TrainedCohortSettings,
    "comparison": ComparisonSettings,
    "compression": CompressionSettings,
    "conditions": ConditionSettings,
    "experiment_plan": ExperimentPlanSettings,
    "experiment_sampling": ExperimentSamplingSettings,
    "device": DeviceSettings,
    "encoder": EncoderSettings,
    "experiment": ExperimentSettings,
    "experiment_reading": ExperimentReadingSettings,
    "feature_cohort": FeatureCohortSettings,
    "features": FeatureSettings,
    "fidelity": FidelitySettings,
    "focus": FocusSettings,
    "guidance": GuidanceSettings,
    "losses": AlignmentLosses,
    "measured_target": MeasuredTargetSettings,
    "model": ModelSettings,
    "network": NetworkSettings,
    "neutral_plan": NeutralPlanSettings,
    "output": OutputSettings,
    "path": PathSettings,
    "patch_space": PatchSpaceSettings,
    "penalties": PenaltySettings,
    "pixel_figures": PixelFigureSettings,
    "plan": PlanSettings,
    "preparing": PreparingSettings,
    "probe": ProbeSettings,
    "prompts": PromptSettings,
    "reading": ReadingSettings,
    "reference": ReferenceSettings,
    "sampled": SampledSettings,
    "sampling": SamplingSettings,
    "subgroup_prompts": SubgroupPromptSettings,
    "seed": SeedSettings,
    "sharing": SharingSettings,
    "space": SpaceSettings,
    "sweeps": SweepSettings,
    "target": TargetSettings,
    "text": TextSettings,
    "text_network": TextNetworkSettings,
    "text_training": TextTrainingSettings,
    "training": PathologyTrainingSettings,
    "tuned_model": TunedModelSettings,
    "tuning_prompts": TuningPromptSettings,
    "tuning_sampling": TuningSamplingSettings,
    "upsampling": UpsamplingSettings,
}


def check_groups(groups: Any) -> None:
    """Check, before any work, that groups of settings are consistent with each other, and print the device.

    Args:
        groups: the value of ``settings`` in the config when the run starts.

    Raises:
        InputError: if groups are inconsistent, or if the configs were not read by this package.
    """
    if not isinstance(groups, Mapping):
        if is_command_line(sys.argv):
            report_user_errors()
        raise InputError(
            "the settings of this bundle were not read: medi_monai has to be installed in this environment (pip "
            "install; PYTHONPATH alone is not enough), and TORCH_DEVICE_BACKEND_AUTOLOAD must not be 0"
        )
    if all(isinstance(groups.get(name), Settings) for name in ("conditions", "cohort", "network")):
        check_model(groups["conditions"], groups["cohort"], groups["network"], groups.get("patch_space"))
    for network, space in (("network", "patch_space"), ("text_network", "space")):
        if isinstance(groups.get(network), Settings):
            check_diffusion(groups[network], groups.get(space))
    check_sizes(groups)
    line = device_line(groups)
    if line is not None and os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
    attribute = next((values["attribute"] for group in groups.values() if "attribute" in (values := dict(group))), None)
    for group in groups.values():
        if isinstance(group, TargetSettings):
            group.check_attribute(attribute)


def load_train_config(ckpt_dir: str | os.PathLike, *groups: str) -> dict[str, Any]:
    """Return the training settings of the model in ``ckpt_dir`` (``model.json``), or defaults if there is no model yet.

    Args:
        ckpt_dir: folder of the model.
        groups: names of the groups with which the model was trained; their defaults are used for settings that are not
            recorded.
    """
    defaults: dict[str, Any] = {"cohort_dir": None}
    needed = []
    for group in groups:
        for name, field in GROUPS[group].model_fields.items():
            if is_recorded(field) or name in ("table", "columns"):
                defaults[name] = field.get_default(call_default_factory=True)
            if is_recorded(field):
                needed.append(name)
    path = Path(ckpt_dir) / "model.json"
    if path.is_file():
        content = load_settings(ckpt_dir, {})
        check_record(path, content, GROUPS, groups, needed if has_format(ckpt_dir) else ())
    return load_settings(ckpt_dir, defaults)


def stage_options(settings: Mapping[str, Any], *groups: str, **more: Any) -> dict[str, Any]:
    """Return the options that an experiment passes to each stage whose config has them.

    Args:
        settings: the value of ``settings`` in the config when the run starts.
        groups: names of the groups to pass.
        more: additional ids with values.
    """
    options = {name: value for group in groups for name, value in dict(settings[group]).items()}
    if "device" in options:
        options["device"] = str(options["device"])
    return {**options, **more}


def check_trained(ckpt_dir: str | os.PathLike, train_config: Mapping[str, Any], **settings: Any) -> None:
    """Check that settings equal those of the training; if not, the model would generate different images unnoticed.

    Args:
        ckpt_dir: folder of the model; if it contains no model, nothing is checked.
        train_config: content of its ``model.json``.
        settings: settings that determine how the weights are used, by name.

    Raises:
        InputError: if a setting differs; the message names the first one.
    """
    if not (Path(ckpt_dir) / "model.json").is_file():
        return
    for name, value in settings.items():
        if name in train_config and json_digest(train_config[name]) != json_digest(value):
            raise InputError(
                f"{name} = {value!r}: the model in {ckpt_dir} was trained with {train_config[name]!r}; leave the "
                "option out"
            )
