"""Named split schemes over patients, never over patches; deterministic in a seed."""

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
