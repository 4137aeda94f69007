"""Holding out whole centers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medi_monai.cohort.splits.patients import keep_apart, quoted
from medi_monai.cohort.splits.scheme import SplitScheme
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import seed_from

__all__ = ["site_holdout", "split_by_site"]

#: number of random orders of the centers to try; the best choice overall is a set cover problem, which is hard: with
#: this number, one in six hundred small tables had a better choice
ATTEMPTS = 32


def split_by_site(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """``site_holdout``: no row of a held-out center is in training, and every class keeps training patients.

    A row without a center is excluded, because its center may be held out or not.

    Args:
        units: one row per patient and combination.
        scheme: columns (label, center), and either a fraction and seed, or values.

    Raises:
        InputError: as :func:`site_holdout`.
    """
    held = site_holdout(units, scheme)
    centers = units[scheme.columns[1]]
    return keep_apart(units, centers.isin(held).to_numpy(), (centers == "").to_numpy() & bool(held))


def site_holdout(rows: pd.DataFrame, scheme: SplitScheme) -> set[str]:
    """Select the centers to hold out: ``values``, or a fraction such that every class keeps a training patient.

    Centers are drawn at random; those that add a class to the holdout come first. Of several draws, the one with the
    most classes in the holdout is used. A class that occurs at only one center stays in training.

    Args:
        rows: rows with ``patient`` and the scheme's columns.
        scheme: columns (label, center), and a fraction (at least one center; 0 holds nothing out) and seed, or values.

    Raises:
        InputError: for an unknown center, or if classes would lose all training patients; the message names them.
    """
    label, center = scheme.columns[:2]
    if not scheme.values and scheme.fraction == 0:
        return set()
    incidence = _Incidence(rows, label, center)
    unplaced = incidence.lost(np.zeros(len(incidence.centers), bool))
    if unplaced.any():
        raise InputError(
            f"no row with a value of {center!r} is there of {incidence.named(unplaced)}, and site_holdout excludes "
            "the others, which may be from anywhere. Fill in their centers, or remove these classes."
        )
    if scheme.values:
        for value in scheme.values:
            if value not in incidence.centers:
                raise unknown_value(
                    center, value, incidence.centers, "Centers to hold out must be values of that column."
                )
        held = np.isin(incidence.centers, list(scheme.values))
        lost = incidence.lost(held)
        if lost.any():
            raise InputError(
                f"holding out {sorted(set(scheme.values))} leaves no patient in training of {incidence.named(lost)}. "
                "Name fewer centers, or remove these classes."
            )
    else:
        held = _draw(incidence, max(1, round(scheme.fraction * len(incidence.centers))), scheme.seed)
    return set(incidence.centers[held].tolist())


class _Incidence:
    """The patients of each class at each center."""

    def __init__(self, rows: pd.DataFrame, label: str, center: str) -> None:
        triples = rows[["patient", label, center]].drop_duplicates()
        self.labels = np.array(sorted(set(triples[label])), dtype=object)
        self.total = triples.drop_duplicates(["patient", label])[label].value_counts()
        triples = triples[triples[center] != ""]
        self.centers = np.array(sorted(set(triples[center])), dtype=object)
        self.patient, patients = pd.factorize(triples["patient"])
        self.label = pd.Index(self.labels).get_indexer(triples[label])
        self.center = pd.Index(self.centers).get_indexer(triples[center])
        self.num_patients = len(patients)
        #: (centers, classes) bool
        self.has = np.zeros((len(self.centers), len(self.labels)), bool)
        self.has[self.center, self.label] = True

    def lost(self, held: np.ndarray) -> np.ndarray:
        """``(L,)`` bool: classes that lose all training patients if centers ``held``, ``(C,)`` bool, are held out."""
        out = np.zeros(self.num_patients, bool)
        out[self.patient[held[self.center]]] = True
        stays = ~out[self.patient]
        return np.bincount(self.label[stays], minlength=len(self.labels)) == 0

    def can_be_shown(self) -> np.ndarray:
        """``(L,)`` bool: classes with a center that could be held out on its own."""
        spare = np.array([not self.lost(center).any() for center in np.eye(len(self.centers), dtype=bool)])
        return np.asarray(self.has[spare].any(axis=0))

    def named(self, lost: np.ndarray) -> str:
        return quoted({label: int(self.total[label]) for label in self.labels[lost]}, "patient")


def _draw(incidence: _Incidence, wanted: int, seed: int) -> np.ndarray:
    best, best_score = np.zeros(len(incidence.centers), bool), (-1, -1)
    too_small = np.zeros(len(incidence.labels), bool)
    can_be_shown = incidence.can_be_shown()
    for attempt in range(ATTEMPTS):
        order = np.random.default_rng(seed_from("site holdout", seed, attempt)).permutation(len(incidence.centers))
        held, refused = _spare(incidence, order, wanted)
        shown = incidence.has[held].any(axis=0)
        score = (int(held.sum()), int(shown.sum()))
        if score > best_score:
            best, best_score, too_small = held, score, refused
        if score[0] == wanted and shown[can_be_shown].all():
            break
    if best_score[0] < wanted:
        at = {label: int(count) for label, count in zip(incidence.labels, incidence.has.sum(axis=0))}
        raise InputError(
            f"{best_score[0]} of {wanted} centers can be held out while every class keeps a patient in "
            f"training; one more would remove the last of "
            f"{quoted({label: at[label] for label in incidence.labels[too_small]}, 'center')}. "
            "Lower the split's fraction, or remove these classes."
        )
    return best


def _spare(incidence: _Incidence, order: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Centers to hold out in a given order, ``(C,)`` bool, and classes that prevented others, ``(L,)`` bool."""
    held = np.zeros(len(incidence.centers), bool)
    refused = np.zeros(len(incidence.labels), bool)
    left = order
    while held.sum() < wanted and len(left):
        lacking = ~incidence.has[held].any(axis=0)
        index = int(np.argmax(incidence.has[left][:, lacking].any(axis=1)))
        candidate, left = left[index], np.delete(left, index)
        held[candidate] = True
        lost = incidence.lost(held)
        if lost.any():
            # holding out more centers never restores a class: this center stays rejected
            held[candidate] = False
            refused |= lost
    return held, refused
