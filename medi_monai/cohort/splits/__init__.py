"""Named split schemes, which split patients, never patches, and are reproducible from a seed."""

from medi_monai.cohort.splits.assign import ChosenSplit, assign_splits, choose_split
from medi_monai.cohort.splits.combinations import combination_holdout, subpopulation_holdout
from medi_monai.cohort.splits.scheme import SCHEMES, SplitScheme
from medi_monai.cohort.splits.sites import site_holdout

__all__ = [
    "SCHEMES",
    "ChosenSplit",
    "SplitScheme",
    "assign_splits",
    "choose_split",
    "combination_holdout",
    "site_holdout",
    "subpopulation_holdout",
]
