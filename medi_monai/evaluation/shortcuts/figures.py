"""What features reveal of the class and of an attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.cohort.groups import codes_of, spread_rows, stable_order
from medi_monai.evaluation.probes import probe_accuracy
from medi_monai.evaluation.shortcuts.pairs import balanced_clustering, balanced_robustness
from medi_monai.results.diagnostics import CorrelationSweep, Shortcut
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.utils.seeding import seed_from

__all__ = ["column_accuracy", "predicted_rows", "shortcut_figures"]

#: maximum number of rows whose center and class are predicted
MAX_PREDICTED = 20_000


def predicted_rows(table: pd.DataFrame, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the row numbers to predict, at most :data:`MAX_PREDICTED`, spread over combinations.

    Args:
        table: one row per image; the choice does not depend on their order.
        groups: ``(N,)`` codes of the combinations.
        seed: seed of the draw.
    """
    order = stable_order(table)
    rng = np.random.default_rng(seed_from("shortcut", seed))
    return order[spread_rows(groups[order], MAX_PREDICTED, rng)]


def column_accuracy(
    features: np.ndarray,
    table: pd.DataFrame,
    column: str,
    c_values: Sequence[float],
    seed: int = 0,
    num_replicates: int = 0,
) -> ProbeAccuracy:
    """Measure how accurately a linear probe predicts a column; see :func:`probe_accuracy`.

    Args:
        features: ``(N, D)`` features.
        table: N rows with ``patient`` and the column, none of them missing.
        column: column to predict.
        c_values: values of C to choose from.
        seed: seed of the division into parts.
        num_replicates: bootstrap samples of the patients for the interval; 0 for no interval.
    """
    patients = codes_of(table, ["patient"])[0]
    return probe_accuracy(features, codes_of(table, [column])[0], patients, c_values, seed, num_replicates)


def shortcut_figures(
    features: np.ndarray,
    table: pd.DataFrame,
    label: str,
    center: str,
    c_values: Sequence[float],
    seed: int = 0,
    correlation: CorrelationSweep | None = None,
    num_replicates: int = 0,
    of_label: ProbeAccuracy | None = None,
) -> Shortcut:
    """Measure what features reveal of the class and of an attribute.

    Args:
        features: ``(N, D)`` features.
        table: N rows with ``patient``, label and attribute, none of them missing, and ``slide`` if known.
        label: column of the class.
        center: column of the attribute.
        c_values: values of C for the probes to choose from.
        seed: seed of all draws.
        correlation: accuracy as center and class become correlated, if it was measured.
        num_replicates: as for :func:`column_accuracy`; 0 also for no interval of the robustness index and the
            clustering score.
        of_label: accuracy for the class on the same rows, if it was measured.
    """
    of_label = of_label or column_accuracy(features, table, label, c_values, seed, num_replicates)
    of_center = column_accuracy(features, table, center, c_values, seed, num_replicates)
    labels, centers = (codes_of(table, [column])[0] for column in (label, center))
    slides = codes_of(table, ["slide"])[0] if "slide" in table else None
    patients = codes_of(table, ["patient"])[0] if num_replicates > 1 else None
    robustness = balanced_robustness(
        features, labels, centers, slides, seed, patients=patients, num_replicates=num_replicates
    )
    clustering = balanced_clustering(features, labels, centers, seed, patients=patients)
    return Shortcut(of_label, of_center, robustness, correlation or CorrelationSweep(), clustering)
