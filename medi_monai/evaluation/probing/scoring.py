"""Score a probe on the test images by counts per patient and group, from which figures and intervals are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from torchmetrics.classification import MulticlassCalibrationError

from medi_monai.cohort.groups import codes_of, rows_by_group
from medi_monai.evaluation.probing.draws import IN_DOMAIN, ArmScores, DemographicGaps, WorstGroup
from medi_monai.metrics import (
    GroupConfusion,
    auroc,
    balanced_accuracy,
    cluster_weights,
    equal_opportunity_gap,
    equalized_odds_gap,
    matthews_correlation,
    worst_group_accuracy,
)
from medi_monai.metrics.groups import BELOW_ONE
from medi_monai.results.probing import GroupAccuracy
from medi_monai.schema import missing_cells

__all__ = ["Clusters", "Scorer", "TestUnits"]

#: number of test images counted at once
BATCH = 4096
#: minimum degrees of freedom for combinations to be the units that another study would draw
MIN_DF = 4


@dataclass(frozen=True)
class TestUnits:
    """Test images grouped into units with the same patient, label, attributes and demographics.

    Args:
        code: ``(N,)`` unit of every test image.
        table: one row per unit: ``patient``, label, attributes, demographics.
        label: column of the class.
        attributes: columns of the attributes; the first is the center.
        demographics: columns whose groups are compared.
    """

    __test__ = False

    code: np.ndarray
    table: pd.DataFrame
    label: str
    attributes: tuple[str, ...]
    demographics: tuple[str, ...]

    @classmethod
    def of(cls, rows: pd.DataFrame, label: str, attributes: Sequence[str], demographics: Sequence[str]) -> TestUnits:
        """Group test rows into units."""
        columns = list(dict.fromkeys(["patient", label, *attributes, *demographics]))
        code, names = codes_of(rows, columns)
        table = pd.DataFrame(names, columns=columns, dtype="str")
        return cls(code, table, label, tuple(attributes), tuple(demographics))

    @cached_property
    def clusters(self) -> Clusters:
        """Clusters of the units that another study would draw: combinations if there are enough, otherwise patients.

        Patients of a combination share what is difficult about it, so they do not count as independent if results
        are meant to hold for other combinations. That needs two combinations of each class, and enough degrees of
        freedom.
        """
        label = codes_of(self.table, [self.label])[0]
        combination = codes_of(self.table, [self.label, *self.attributes])[0]
        numbers = np.bincount(label[np.unique(combination, return_index=True)[1]])
        if numbers.min() > 1 and (numbers - 1).sum() >= MIN_DF:
            return Clusters("combination", combination, label)
        patient = codes_of(self.table, ["patient"])[0]
        one_class = pd.Series(label).groupby(patient).nunique().max() == 1
        return Clusters("patient", patient, label if one_class else np.zeros_like(label))

    @cached_property
    def patients_of_combinations(self) -> Clusters:
        """Patients as clusters, with their combinations as strata: for figures of single combinations."""
        combination = codes_of(self.table, [self.label, *self.attributes])[0]
        return Clusters("patient", codes_of(self.table, ["patient", self.label, *self.attributes])[0], combination)

    def grouped(self, columns: Sequence[str]) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        """Return the ``(U,)`` group of every unit, -1 if a value is missing, and the groups."""
        keys = self.table[list(columns)]
        known = np.ones(len(keys), bool)
        for column in columns:
            known &= ~missing_cells(keys[column]).to_numpy(dtype=bool)
        code = np.full(len(keys), -1)
        code[known], names = codes_of(keys[known], columns)
        return code, names


@dataclass(frozen=True)
class Clusters:
    """Clusters of test units: what they are, and the ``(U,)`` cluster and stratum of every unit."""

    kind: str
    code: np.ndarray
    strata: np.ndarray

    def weights(self, num: int, seed: int) -> np.ndarray:
        """Return ``(num, U)`` bootstrap weights of the units; see :func:`cluster_weights`."""
        return cluster_weights(self.code, self.strata, num, np.random.default_rng(seed))[0]

    @property
    def df(self) -> int:
        """Degrees of freedom: number of clusters minus that of strata with more than one."""
        return cluster_weights(self.code, self.strata, 1, np.random.default_rng(0))[1]


class Scorer:
    """Ignite evaluator over the probabilities of test images.

    Args:
        targets: ``(N,)`` class codes of the test images.
        units: units of the same images.
        classes: names of the classes.
        min_count: minimum number of images for a group to be considered as the worst group or in demographic gaps.
        num_replicates: number of bootstrap samples of the clusters of test units.
        seed: seed of the bootstrap; samples of the same seed are the same in all draws.
    """

    def __init__(
        self,
        targets: np.ndarray,
        units: TestUnits,
        classes: Sequence[str],
        min_count: int = 10,
        num_replicates: int = 100,
        seed: int = 0,
    ) -> None:
        self.targets, self.units, self.classes = torch.from_numpy(targets), units, list(classes)
        self.min_count = min_count
        self.by_group, groups = units.grouped(units.attributes)
        self.by_center, self.centers = units.grouped(units.attributes[:1])
        #: a group is a class within a combination of attributes
        self.groups = [(label, *group) for group in groups for label in self.classes]
        self.by_demographic = {name: units.grouped([name]) for name in units.demographics}
        #: (B, U) weight of each unit in each bootstrap sample, of clusters and of patients within combinations
        self.drawn = units.clusters.weights(num_replicates, seed)
        self.drawn_patients = units.patients_of_combinations.weights(num_replicates, seed)
        self.once = np.ones((1, len(units.table)))
        #: (G, C) whether a group can be the worst group
        self.large = self._sizes(targets) >= min_count
        self.evaluator = self._evaluator()

    def _sizes(self, targets: np.ndarray) -> np.ndarray:
        counts = np.zeros((len(self.units.table), len(self.classes)))
        np.add.at(counts, (self.units.code, targets), 1)
        return _summed(counts, self.by_group, self.once)[0]

    def _evaluator(self) -> Engine:
        self.confusion = GroupConfusion(len(self.units.table), len(self.classes))
        self.calibration = MulticlassCalibrationError(len(self.classes), n_bins=15)
        evaluator = Engine(lambda engine, batch: batch)

        @evaluator.on(Events.STARTED)
        def _reset() -> None:
            self.confusion.reset()
            self.calibration.reset()

        @evaluator.on(Events.ITERATION_COMPLETED)
        def _update(engine: Engine) -> None:
            batch: Any = engine.state.output
            probabilities, targets, units = batch
            self.confusion.update(probabilities.argmax(1), targets, units)
            self.calibration.update(probabilities.clamp(max=BELOW_ONE), targets)

        return evaluator

    def score(self, probabilities: torch.Tensor, in_domain_accuracy: float | None = None) -> ArmScores:
        """Compute all figures of one arm in one draw.

        Args:
            probabilities: ``(N, C)`` class probabilities of the test images.
            in_domain_accuracy: balanced accuracy on the validation images.
        """
        units = torch.from_numpy(self.units.code)
        starts = range(0, len(units), BATCH)
        batches = [tuple(x[at : at + BATCH] for x in (probabilities, self.targets, units)) for at in starts]
        self.evaluator.run(batches, max_epochs=1, epoch_length=len(batches))
        confusion = self.confusion.compute().numpy().astype(float)
        return ArmScores(
            figures={
                **{name: values[0] for name, values in self._figures_of_counts(confusion, self.once).items()},
                "auroc": auroc(probabilities, self.targets)["value"],
                "calibration_error": float(self.calibration.compute()),
                IN_DOMAIN: in_domain_accuracy,
            },
            replicates={
                **self._figures_of_counts(confusion, self.drawn),
                "worst_group_accuracy": self._replicates_of_worst_group(confusion),
            },
            worst_group=self._worst_group(confusion),
            per_center=self._per_center(confusion),
            per_class=self._per_class(confusion.sum(0)),
            demographics=self._demographics(confusion),
        )

    def _replicates_of_worst_group(self, confusion: np.ndarray) -> list[float | None]:
        # the accuracy of the worst group, which has no other combinations: only its patients vary. Another group may be
        # the worst in a sample; following it would add the variance of groups to that of patients
        worst = self._worst_group(confusion).group
        if worst is None:
            return [math.nan] * len(self.drawn_patients)
        group, label = divmod(self.groups.index(worst), len(self.classes))
        right, targets = (_summed(counts, self.by_group, self.drawn_patients) for counts in _right_and_all(confusion))
        return (right[:, group, label] / targets[:, group, label]).tolist()

    def _figures_of_counts(self, confusion: np.ndarray, weights: np.ndarray) -> dict[str, list[float | None]]:
        # figures of every sample, from weights (B, U) and confusions of the units (U, C, C). For groups, only the
        # correct and all targets of each class are needed, which limits the memory for many samples of many groups
        num_classes = confusion.shape[-1]
        overall = (weights @ confusion.reshape(len(confusion), -1)).reshape(-1, num_classes, num_classes)
        groups, centers = (
            [_summed(counts, code, weights) for counts in _right_and_all(confusion)]
            for code in (self.by_group, self.by_center)
        )
        return {
            "balanced_accuracy": balanced_accuracy(overall).tolist(),
            "worst_group_accuracy": self._worst_of_samples(*groups),
            "group_mean_accuracy": [_mean_over_groups(*counts) for counts in zip(*centers)],
            "mcc": matthews_correlation(overall).tolist(),
        }

    def _worst_of_samples(self, right: np.ndarray, targets: np.ndarray) -> list[float | None]:
        # (B, G, C) each. Which groups are large enough is decided on the original test set: if it were decided in each
        # sample, groups near the limit would be the worst group less often than they should be
        rates = np.divide(right, targets, out=np.full(right.shape, np.inf), where=(targets > 0) & self.large)
        worst = rates.reshape(len(rates), -1).min(1, initial=np.inf)
        return np.where(np.isfinite(worst), worst, np.nan).tolist()

    def _worst_group(self, confusion: np.ndarray) -> WorstGroup:
        right, targets = (_summed(counts, self.by_group, self.once)[0] for counts in _right_and_all(confusion))
        counts = np.stack([right.ravel(), targets.ravel()], axis=1)
        return WorstGroup(**worst_group_accuracy(counts, self.groups, self.min_count))

    def _per_center(self, confusion: np.ndarray) -> dict[str, GroupAccuracy]:
        right, targets = (_summed(counts, self.by_center, self.once)[0] for counts in _right_and_all(confusion))
        return {
            name[0]: GroupAccuracy(
                float(_recalls(right[code], targets[code]).mean()) if targets[code].any() else None,
                int(targets[code].sum()),
                int((targets[code] > 0).sum()),
            )
            for code, name in enumerate(self.centers)
        }

    def _per_class(self, confusion: np.ndarray) -> dict[str, GroupAccuracy]:
        totals, right = confusion.sum(1), np.diagonal(confusion)
        return {
            name: GroupAccuracy(float(right[code] / totals[code]) if totals[code] else None, int(totals[code]))
            for code, name in enumerate(self.classes)
        }

    def _demographics(self, confusion: np.ndarray) -> dict[str, DemographicGaps]:
        by_column = {}
        for column, (codes, names) in self.by_demographic.items():
            flat = _summed(confusion.reshape(len(confusion), -1), codes, self.once)[0]
            counts = flat.reshape(-1, *confusion.shape[1:])
            by_column[column] = DemographicGaps(
                _undefined(equal_opportunity_gap(counts, self.min_count)["value"]),
                _undefined(equalized_odds_gap(counts, self.min_count)["value"]),
                {name[0]: int(counts[code].sum()) for code, name in enumerate(names)},
            )
        return by_column


def _right_and_all(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # (U, C) each: correct predictions of a class, and all of its targets
    return np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2)


def _summed(counts: np.ndarray, group: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # (B, G, K): counts (U, K) of the units of each group, weighted by (B, U)
    result = np.zeros((len(weights), int(group.max(initial=-1)) + 1, counts.shape[1]))
    known = np.flatnonzero(group >= 0)
    for code, rows in enumerate(rows_by_group(group[known])):
        units = known[rows]
        result[:, code] = weights[:, units] @ counts[units]
    return result


def _recalls(right: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return right[targets > 0] / targets[targets > 0]


def _mean_over_groups(right: np.ndarray, targets: np.ndarray) -> float:
    # (G, C) each; groups with a single class are left out: a classifier that recognizes the group is always right there
    values = [_recalls(*counts).mean() for counts in zip(right, targets) if np.count_nonzero(counts[1]) > 1]
    return float(np.mean(values)) if values else math.nan


def _undefined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
