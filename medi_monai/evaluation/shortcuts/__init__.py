"""Shortcut diagnostics: what features reveal, robustness index, clustering score, squares of class and center."""

from medi_monai.evaluation.shortcuts.figures import column_accuracy, predicted_rows, shortcut_figures
from medi_monai.evaluation.shortcuts.pairs import balanced_clustering, balanced_robustness
from medi_monai.evaluation.shortcuts.squares import Square, correlated_rows, find_squares, outside_rows

__all__ = [
    "Square",
    "balanced_clustering",
    "balanced_robustness",
    "column_accuracy",
    "correlated_rows",
    "find_squares",
    "outside_rows",
    "predicted_rows",
    "shortcut_figures",
]
