"""Sampling plans: combinations to sample, the number of images for each, and how much of each was in training."""

from medi_monai.cohort.plans.evidence import EVIDENCE, SEEN, TrainingCounts
from medi_monai.cohort.plans.fill import fill
from medi_monai.cohort.plans.make import PLANS, PlanLimits, TargetShares, held_out_combinations, make_plan
from medi_monai.cohort.plans.tables import expand_plan, read_plan
from medi_monai.cohort.plans.values import ValueRange, binned, draw_values, ranges_in

__all__ = [
    "EVIDENCE",
    "PLANS",
    "SEEN",
    "PlanLimits",
    "TargetShares",
    "TrainingCounts",
    "ValueRange",
    "binned",
    "draw_values",
    "expand_plan",
    "fill",
    "held_out_combinations",
    "make_plan",
    "ranges_in",
    "read_plan",
]
