"""Ignite engines and what a bundle's run ids call: prepare, train, sample, evaluate, probe."""

from medi_monai.engines.batches import AutocastInferer, DiffusionPrepareBatch
from medi_monai.engines.distributed import join_processes, leave_processes, local_device, shared_gradient
from medi_monai.engines.embedding import embed_images
from medi_monai.engines.evaluation import evaluate_run
from medi_monai.engines.experiment import experiment_run
from medi_monai.engines.fidelity import FidelitySettings
from medi_monai.engines.images import ImageGenerator, subpopulation_grid, training_grid
from medi_monai.engines.preparing import audit_run, audited_cohort, prepare_run
from medi_monai.engines.probe_settings import ProbeSettings
from medi_monai.engines.probing import probe_run
from medi_monai.engines.runs import (
    begin_run,
    build_schema,
    finish_run,
    load_network,
    load_schema,
    load_settings,
    trained_cohort_dir,
    training_cohort,
    validation_cohort,
)
from medi_monai.engines.sampling import resolve_plan, sample_plan
from medi_monai.engines.settings import check_model, check_settings, flags
from medi_monai.engines.trainer import DiffusionTrainer, train

__all__ = [
    "AutocastInferer",
    "DiffusionPrepareBatch",
    "DiffusionTrainer",
    "FidelitySettings",
    "ImageGenerator",
    "ProbeSettings",
    "audit_run",
    "audited_cohort",
    "begin_run",
    "build_schema",
    "check_model",
    "check_settings",
    "embed_images",
    "evaluate_run",
    "experiment_run",
    "finish_run",
    "flags",
    "join_processes",
    "leave_processes",
    "load_network",
    "load_schema",
    "load_settings",
    "local_device",
    "prepare_run",
    "probe_run",
    "resolve_plan",
    "sample_plan",
    "shared_gradient",
    "subpopulation_grid",
    "train",
    "trained_cohort_dir",
    "training_cohort",
    "training_grid",
    "validation_cohort",
]
