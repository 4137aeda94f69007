"""Ignite engines and what a bundle's run ids call: prepare, train, sample, evaluate, probe."""

from medi_monai.alignment.functional.targets import joint_attributes
from medi_monai.alignment.neutral import encoder_features, names_some, neutral_plan, rows_naming, sampled_subgroups
from medi_monai.alignment.prompts import caption_words, generated_cohort, naming_cohort, prompt_plan
from medi_monai.alignment.resampling import cohort_target, equal_steps, resample_run, resampled_cohort
from medi_monai.alignment.roles import load_readers, subgroup_target
from medi_monai.alignment.step import AlignmentLosses, AnchorLoss
from medi_monai.alignment.tuning import AlignmentSettings, align, tuning_rate
from medi_monai.cohort.selection import build_schema, captioned_cohort, training_cohort, validation_cohort
from medi_monai.engines.classifiers.training import ClassifierSettings, classify_run
from medi_monai.engines.distributed import (
    join_processes,
    leave_processes,
    local_device,
    refuse_processes,
    shared_gradient,
)
from medi_monai.engines.generator import ImageGenerator, subpopulation_grid, training_grid
from medi_monai.engines.model_dir import load_network, load_schema, load_settings, trained_cohort_dir
from medi_monai.engines.prepare_batch import AutocastInferer, DiffusionPrepareBatch
from medi_monai.engines.text_model import clip_features, initialize_network, load_caption_schema, text_model_dir
from medi_monai.engines.trainer import DiffusionTrainer, train
from medi_monai.evaluation.alignment.run import evaluate_alignment_run
from medi_monai.evaluation.embedding import embed_images
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.metadata import evaluate_run
from medi_monai.evaluation.probing.run import probe_run
from medi_monai.evaluation.probing.settings import ProbeSettings
from medi_monai.runs.auditing import audit_run, audited_cohort
from medi_monai.runs.experiment.alignment import fair_experiment_run
from medi_monai.runs.experiment.metadata import experiment_run
from medi_monai.runs.preparing import prepare_run
from medi_monai.runs.sampling import resolve_plan, sample_plan
from medi_monai.runs.settings import check_model, check_settings, check_trained, flags
from medi_monai.utils.run_dir import begin_run, finish_run

__all__ = [
    "AlignmentLosses",
    "AlignmentSettings",
    "AnchorLoss",
    "AutocastInferer",
    "ClassifierSettings",
    "DiffusionPrepareBatch",
    "DiffusionTrainer",
    "FidelitySettings",
    "ImageGenerator",
    "ProbeSettings",
    "align",
    "audit_run",
    "audited_cohort",
    "begin_run",
    "build_schema",
    "caption_words",
    "captioned_cohort",
    "check_model",
    "check_settings",
    "check_trained",
    "classify_run",
    "clip_features",
    "cohort_target",
    "embed_images",
    "encoder_features",
    "equal_steps",
    "evaluate_alignment_run",
    "evaluate_run",
    "experiment_run",
    "fair_experiment_run",
    "finish_run",
    "flags",
    "generated_cohort",
    "initialize_network",
    "join_processes",
    "joint_attributes",
    "leave_processes",
    "load_caption_schema",
    "load_network",
    "load_readers",
    "load_schema",
    "load_settings",
    "local_device",
    "names_some",
    "naming_cohort",
    "neutral_plan",
    "prepare_run",
    "probe_run",
    "prompt_plan",
    "refuse_processes",
    "resample_run",
    "resampled_cohort",
    "resolve_plan",
    "rows_naming",
    "sample_plan",
    "sampled_subgroups",
    "shared_gradient",
    "subgroup_target",
    "subpopulation_grid",
    "text_model_dir",
    "train",
    "trained_cohort_dir",
    "training_cohort",
    "training_grid",
    "tuning_rate",
    "validation_cohort",
]
