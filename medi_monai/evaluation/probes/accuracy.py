"""How well a linear probe predicts a column from features, on other patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medi_monai.cohort.groups import group_weights
from medi_monai.evaluation.probes.blocks import Standardizer
from medi_monai.evaluation.probes.probe import fit_path
from medi_monai.metrics.components import Estimate, Source, cluster_weights
from medi_monai.metrics.groups import balanced_accuracy
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.utils.seeding import seed_from

__all__ = ["probe_accuracy"]


def probe_accuracy(
    features: np.ndarray,
    codes: np.ndarray,
    patients: np.ndarray,
    c_values: Sequence[float],
    seed: int = 0,
    num_replicates: int = 0,
) -> ProbeAccuracy:
    """Measure how well a linear probe predicts a column from features: balanced accuracy on other patients.

    Patients are divided into three parts; each is predicted by a probe trained on one of the others, with the
    regularizer chosen on the third. Perfect prediction of the center means that the shortcut is fully available.

    Args:
        features: ``(N, D)`` features.
        codes: ``(N,)`` integer values of the column.
        patients: ``(N,)`` patients.
        c_values: values of C to choose from.
        seed: seed of the division.
        num_replicates: bootstrap samples of the test patients for the interval, which does not count that other
            patients would train other probes; 0 for no interval.
    """
    third = _dealt(codes, patients, seed)
    num = int(codes.max()) + 1
    predicted = np.full(len(codes), -1)
    for fold in range(3):
        train, val, test = (np.flatnonzero(third == (fold + turn) % 3) for turn in range(3))
        if len(np.unique(codes[train])) < 2 or not np.isin(codes[val], codes[train]).any() or not len(test):
            continue
        scale = Standardizer().fit(np.asarray(features[train]))
        train_features, val_features, test_features = (
            scale.transform(np.asarray(features[rows])) for rows in (train, val, test)
        )
        probe, _ = fit_path(
            train_features, codes[train], num, c_values, val_features, codes[val], group_weights(codes[train])
        )
        # a value whose patients are all in one part cannot be learned, and is not counted
        predicted[test] = np.where(np.isin(codes[test], codes[train]), probe.predictions(test_features).numpy(), -1)
    rows = np.flatnonzero(predicted >= 0)
    confusion = np.zeros((num, num))
    np.add.at(confusion, (codes[rows], predicted[rows]), 1)
    num_values = int((confusion.sum(1) > 0).sum())
    if num_values < 2:
        return ProbeAccuracy(None, n=len(rows), chance=None, num_values=num_values)
    accuracy = float(balanced_accuracy(confusion))
    interval = _patient_interval(accuracy, codes[rows], predicted[rows], patients[rows], num_replicates, seed)
    return ProbeAccuracy(accuracy, interval, len(rows), chance=1 / num_values, num_values=num_values)


def _patient_interval(
    value: float, codes: np.ndarray, predicted: np.ndarray, patients: np.ndarray, num_replicates: int, seed: int
) -> tuple[float, float] | None:
    """Return the 95% interval of a balanced accuracy, clustered by patient."""
    if num_replicates < 2:
        return None
    names, unit = np.unique(patients, return_inverse=True)
    right, targets = (np.zeros((len(names), int(codes.max()) + 1)) for _ in range(2))
    np.add.at(targets, (unit, codes), 1)
    np.add.at(right, (unit, codes), predicted == codes)
    # patients of each value are drawn apart if every patient has a single one
    first = targets.argmax(1)
    strata = first if (np.count_nonzero(targets, axis=1) == 1).all() else np.zeros_like(first)
    rng = np.random.default_rng(seed_from("patients of a probe", seed))
    weights, df = cluster_weights(np.arange(len(names)), strata, num_replicates, rng)
    drawn, of_all = weights @ right, weights @ targets
    recalls = np.divide(drawn, of_all, out=np.full(drawn.shape, np.nan), where=of_all > 0)
    replicates = np.nanmean(recalls, axis=1)
    if df <= 0:
        return None
    interval = Estimate(value, {"test": Source(float(replicates.var(ddof=1)), df)}).interval()
    return None if interval is None else (max(0.0, interval[0]), min(1.0, interval[1]))


def _dealt(codes: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    # part (0, 1 or 2) of every row, by patient; patients with the same value go to different parts as far as possible.
    # The name that seeds the draw must not change: another one would give other figures
    rng = np.random.default_rng(seed_from("readability", seed))
    names, first = np.unique(patients, return_index=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(codes[first[order]], kind="stable")]
    third = np.empty(len(names), np.int64)
    third[order] = np.arange(len(names)) % 3
    return third[np.searchsorted(names, patients)]
