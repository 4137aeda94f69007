"""Linear probing: stored features, probes, arms of a comparison, shortcut diagnostics."""

from medi_monai.evaluation.probing.arms import BASELINES, Arm, ImageSet, arm_named
from medi_monai.evaluation.probing.draws import DrawCondition, Outcome
from medi_monai.evaluation.probing.pairs import balanced_clustering, balanced_robustness
from medi_monai.evaluation.probing.probe import LogisticProbe, Standardizer, fit_path
from medi_monai.evaluation.probing.protocol import ProbeProtocol
from medi_monai.evaluation.probing.shortcut import correlated_rows, find_squares, outside_rows, probe_accuracy
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
    "balanced_clustering",
    "balanced_robustness",
    "correlated_rows",
    "find_squares",
    "fit_path",
    "outside_rows",
    "probe_accuracy",
]
