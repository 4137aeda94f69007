"""Cohorts: tables of patches with metadata, how they are prepared, split, loaded and planned."""

from medi_monai.cohort.dataset import BalancedBatchSampler, PatchDataset
from medi_monai.cohort.plan import expand_plan, make_plan, read_plan
from medi_monai.cohort.prepare import Preparation, default_cohort_dir, load_or_prepare, prepare
from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.cohort.table import Cohort

__all__ = [
    "BalancedBatchSampler",
    "Cohort",
    "ImageTable",
    "PatchDataset",
    "Preparation",
    "SplitScheme",
    "assign_splits",
    "default_cohort_dir",
    "expand_plan",
    "load_or_prepare",
    "make_plan",
    "prepare",
    "read_plan",
]
