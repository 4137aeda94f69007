"""Named split schemes, which split patients, never patches, and are reproducible from a seed."""

from medi_monai.cohort.splits.assign import assign_splits
from medi_monai.cohort.splits.combinations import combination_holdout, subpopulation_holdout
from medi_monai.cohort.splits.scheme import SCHEMES, SplitScheme
from medi_monai.cohort.splits.sites import site_holdout

__all__ = [
    "SCHEMES",
    "SplitScheme",
    "assign_splits",
    "combination_holdout",
    "site_holdout",
    "subpopulation_holdout",
]
