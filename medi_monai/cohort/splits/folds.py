"""Folds of patients, stratified by label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.cohort.splits.patients import keep_apart, quoted
from medi_monai.cohort.splits.scheme import SplitScheme
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["split_by_fold"]


def split_by_fold(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Split by ``patient_kfold``: the patients of one fold are held out; over all folds, each patient is held out once.

    Every class is in every fold. If each patient has one label, the numbers of patients per fold differ by at most one.

    Args:
        units: one row per patient and combination.
        scheme: columns (only the label is used), number of folds, fold and seed.

    Raises:
        InputError: for a class with fewer patients than there are folds, or one that is not in every fold because its
            patients have several labels.
    """
    patient, patients = pd.factorize(units["patient"], sort=True)
    label, labels = pd.factorize(units[scheme.columns[0]], sort=True)
    has_label = np.zeros((len(patients), len(labels)), bool)
    has_label[patient, label] = True
    small = {name: int(size) for name, size in zip(labels, has_label.sum(axis=0)) if size < scheme.num_folds}
    if small:
        raise InputError(
            f"num_folds = {scheme.num_folds}, but every fold must contain every class, and these are too small: "
            f"{quoted(small, 'patient')}. Use fewer folds, or remove these classes."
        )
    fold = _folds(has_label, labels, scheme)
    complete = np.all([has_label[fold == number].any(axis=0) for number in range(scheme.num_folds)], axis=0)
    if not complete.all():
        raise InputError(
            f"class {labels[~complete][0]!r} is not in every fold, because its patients have other labels too. "
            "Use fewer folds, or another seed."
        )
    return keep_apart(units, fold[patient] == scheme.fold)


def _folds(has_label: np.ndarray, labels: Sequence[str], scheme: SplitScheme) -> np.ndarray:
    """Return the ``(P,)`` fold of each patient: patients are dealt class by class, those with several labels last.

    Args:
        has_label: ``(P, L)`` bool, the labels of each patient.
        labels: names of the labels, which seed the order of their patients.
        scheme: number of folds and seed.
    """
    fold = np.full(len(has_label), -1)
    several = has_label.sum(axis=1) > 1
    for number, name in enumerate(labels):
        patients = np.flatnonzero(has_label[:, number] & ~several)
        rng = np.random.default_rng(seed_from("patient folds", scheme.seed, name))
        # each class continues with the fold after the last one used, which keeps the folds equal in size
        fold[rng.permutation(patients)] = (np.arange(len(patients)) + (fold >= 0).sum()) % scheme.num_folds
    counts = np.array([has_label[fold == number].sum(axis=0) for number in range(scheme.num_folds)])
    sizes = np.bincount(fold[~several], minlength=scheme.num_folds)
    rng = np.random.default_rng(seed_from("patient folds", scheme.seed))
    for patient in rng.permutation(np.flatnonzero(several)):
        counts_of_patient = counts[:, has_label[patient]]
        best = np.lexsort((sizes, counts_of_patient.sum(axis=1), -(counts_of_patient == 0).sum(axis=1)))[0]
        fold[patient] = best
        counts[best] += has_label[patient]
        sizes[best] += 1
    return fold
