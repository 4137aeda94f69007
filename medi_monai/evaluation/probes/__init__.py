"""Linear probes of frozen features: blocks of rows, fits to the optimum, robust fits, accuracy for a column."""

from medi_monai.evaluation.probes.accuracy import probe_accuracy
from medi_monai.evaluation.probes.blocks import Standardizer
from medi_monai.evaluation.probes.probe import LogisticProbe, choose_probe, fit_path

__all__ = ["LogisticProbe", "Standardizer", "choose_probe", "fit_path", "probe_accuracy"]
