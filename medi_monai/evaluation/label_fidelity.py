"""Label fidelity: whether classifiers trained on real images predict the requested values in generated images."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort.groups import codes_of, group_weights, spread_rows, stable_order
from medi_monai.evaluation.probes import LogisticProbe, Standardizer, fit_path, probe_accuracy
from medi_monai.metrics import wilson_interval
from medi_monai.utils.seeding import seed_from

__all__ = ["label_fidelity"]

#: maximum numbers of real images for training and validation of a classifier, and of generated images it classifies
MAX_TRAINING, MAX_CLASSIFIED = 40_000, 20_000


def label_fidelity(
    real: np.ndarray,
    table: pd.DataFrame,
    arms: Mapping[str, tuple[np.ndarray, pd.DataFrame]],
    columns: Sequence[str],
    c_values: Sequence[float],
    seed: int = 0,
    seen: Container[tuple[str, ...]] = frozenset(),
) -> dict[str, dict[str, Any]]:
    """Measure how often generated images are predicted as requested by a classifier of real images.

    For each column, a linear probe is trained on real images of all splits, including held-out combinations, with equal
    weight for every combination; it is independent of the evaluated models. Its accuracy on real images of other
    patients is the ceiling.

    Args:
        real: ``(N, D)`` features of real images.
        table: table of the real images.
        arms: features and manifest of each arm.
        columns: label and attributes.
        c_values: values of C to choose from.
        seed: seed of all draws.
        seen: combinations, values of ``columns``, that the models were trained on.

    Returns:
        For each arm and column, ``value`` (share predicted as requested, with equal weight for every combination),
        ``seen`` and ``unseen`` (the same over combinations in training, and over others), ``ci95`` (Wilson), ``n``,
        ``left_out`` (images requested with a value that the classifier was not trained on) and ``by_value``; for the
        arm ``real``, the ceiling (balanced accuracy) with its chance level. Columns that cannot be predicted are left
        out.
    """
    groups, order = codes_of(table, columns)[0], stable_order(table)
    rows = order[spread_rows(groups[order], MAX_TRAINING, np.random.default_rng(seed_from("reading", seed)))]
    features, groups, table = np.asarray(real[rows]), groups[rows], table.iloc[rows]
    patients = codes_of(table, ["patient"])[0]
    by_arm: dict[str, dict[str, Any]] = {"real": {}, **{arm: {} for arm in arms}}
    for column in columns:
        codes, names = codes_of(table, [column])
        if len(names) < 2:
            continue
        by_arm["real"][column] = vars(probe_accuracy(features, codes, patients, c_values, seed))
        held = _thirds(patients, np.random.default_rng(seed_from("reading", seed, column))) == 0
        trained_codes = np.unique(codes[~held])
        if len(trained_codes) < 2 or not np.isin(codes[held], trained_codes).any():
            continue
        scale = Standardizer().fit(features[~held])
        known, other = (scale.transform(features[rows]) for rows in (~held, held))
        weights = group_weights(groups[~held])
        probe, _ = fit_path(known, codes[~held], len(names), c_values, other, codes[held], weights)
        classifier = _ColumnClassifier(column, names, trained_codes, scale, probe)
        for arm, (generated, manifest) in arms.items():
            result = _predicted_as_requested(classifier, generated, manifest, columns, seed)
            by_combination = result.pop("by_combination")
            for name, wanted in (("seen", True), ("unseen", False)):
                shares = [share for key, share in by_combination.items() if (key in seen) == wanted]
                result[name] = float(np.mean(shares)) if shares else None
            by_arm[arm][column] = result
    return by_arm


@dataclass(frozen=True)
class _ColumnClassifier:
    """Classifier of one column.

    Args:
        column: label or attribute.
        names: values of the column among the real images.
        known: codes (indices of ``names``) that the probe was trained on.
        scale: scale of the features.
        probe: probe of the scaled features.
    """

    column: str
    names: Sequence[tuple[str, ...]]
    known: np.ndarray
    scale: Standardizer
    probe: LogisticProbe

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the ``(N,)`` predicted codes for ``(N, D)`` features."""
        return self.probe.predictions(self.scale.transform(features)).numpy()


def _predicted_as_requested(
    classifier: _ColumnClassifier, generated: np.ndarray, manifest: pd.DataFrame, columns: Sequence[str], seed: int
) -> dict[str, Any]:
    """Classify the images of one arm, except those requested with a value that the probe was not trained on."""
    requested, known = codes_of(manifest, [classifier.column], classifier.names)
    combination, combinations = codes_of(manifest, columns)
    order = stable_order(manifest)
    usable = order[np.isin(requested[order], classifier.known)]
    result: dict[str, Any] = {"value": None, "ci95": None, "n": 0, "left_out": len(order) - len(usable), "by_value": {}}
    result["by_combination"] = {}
    if not len(usable):
        return result
    rng = np.random.default_rng(seed_from("read", seed))
    chosen = usable[spread_rows(combination[usable], MAX_CLASSIFIED, rng)]
    predicted = classifier.predict(np.asarray(generated[chosen]))
    right = pd.Series((predicted == requested[chosen]).astype(float))
    by_combination = right.groupby(combination[chosen])
    shares = by_combination.mean()
    share = float(shares.mean())
    # images of small combinations have larger weights
    effective = len(by_combination) ** 2 / float((1 / by_combination.size()).sum())
    by_value = right.groupby(requested[chosen]).mean()
    return {
        **result,
        "value": share,
        "ci95": wilson_interval(share * effective, effective),
        "n": len(right),
        "by_value": {known[code][0]: float(value) for code, value in by_value.items()},
        "by_combination": {combinations[code]: float(value) for code, value in shares.items()},
    }


def _thirds(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (rng.permutation(int(patients.max()) + 1) % 3)[patients]
