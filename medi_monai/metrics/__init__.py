"""Measures of images and of metadata: functions on arrays."""

from medi_monai.metrics.association import associate, contingency_table, cramers_v, majority_rule, mutual_information
from medi_monai.metrics.stain import group_means, stain_regression

__all__ = [
    "associate",
    "contingency_table",
    "cramers_v",
    "group_means",
    "majority_rule",
    "mutual_information",
    "stain_regression",
]
