"""Linear probing: stored features, probes, arms of a comparison, shortcut diagnostics."""

from medi_monai.evaluation.probing.arms import BASELINES, Arm, ImageSet, arm_named
from medi_monai.evaluation.probing.probe import LogisticProbe, Standardizer, fit_path
from medi_monai.evaluation.probing.protocol import DrawCondition, Outcome, ProbeProtocol
from medi_monai.evaluation.probing.shortcut import balanced_robustness, correlated_rows, find_squares, probe_accuracy
from medi_monai.evaluation.probing.store import FeatureStore

__all__ = [
    "BASELINES",
    "Arm",
    "DrawCondition",
    "FeatureStore",
    "ImageSet",
    "LogisticProbe",
    "Outcome",
    "ProbeProtocol",
    "Standardizer",
    "arm_named",
    "balanced_robustness",
    "correlated_rows",
    "find_squares",
    "fit_path",
    "probe_accuracy",
]
