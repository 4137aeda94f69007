"""Comparison of arms by linear probes: stored features, arms, draws of training patients, protocol."""

from medi_monai.evaluation.probing.arms import BASELINES, Arm, ImageSet, arm_named
from medi_monai.evaluation.probing.draws import DrawCondition, Outcome
from medi_monai.evaluation.probing.protocol import ProbeProtocol
from medi_monai.evaluation.probing.store import FeatureStore

__all__ = [
    "BASELINES",
    "Arm",
    "DrawCondition",
    "FeatureStore",
    "ImageSet",
    "Outcome",
    "ProbeProtocol",
    "arm_named",
]
