"""Cohorts: tables of patches with metadata; preparing, splitting, loading and planning.

``medi_monai.cohort.audit`` is imported separately: the processes that cut patches import this package, and the
statistics of an audit would double the time that takes.
"""

from medi_monai.cohort.dataset import BalancedBatchSampler, PatchDataset, StreamedPatchDataset, patch_dataset
from medi_monai.cohort.duplicates import hash_images, near_duplicates
from medi_monai.cohort.extraction import Cutting
from medi_monai.cohort.patches import Preparation
from medi_monai.cohort.plans import expand_plan, make_plan, read_plan
from medi_monai.cohort.prepare import Shard, default_cohort_dir, load_or_prepare, prepare, table_cohort
from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.cohort.table import Cohort

__all__ = [
    "BalancedBatchSampler",
    "Cohort",
    "Cutting",
    "ImageTable",
    "PatchDataset",
    "Preparation",
    "Shard",
    "SplitScheme",
    "StreamedPatchDataset",
    "assign_splits",
    "default_cohort_dir",
    "expand_plan",
    "hash_images",
    "load_or_prepare",
    "make_plan",
    "near_duplicates",
    "patch_dataset",
    "prepare",
    "read_plan",
    "table_cohort",
]
