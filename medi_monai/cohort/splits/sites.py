"""Hold out whole centers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medi_monai.cohort.splits.patients import keep_apart, quoted
from medi_monai.cohort.splits.scheme import SplitScheme
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import seed_from

__all__ = ["site_holdout", "split_by_site"]

#: number of random orders of the centers to try; finding the best choice is a set cover problem, which is hard; with
#: this number, a better choice existed for one in six hundred small tables
ATTEMPTS = 32


def split_by_site(units: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """Split by ``site_holdout``: no row of a held-out center is in training, and every class keeps training patients.

    Rows without a center are excluded, because their center may be one that is held out.

    Args:
        units: one row per patient and combination.
        scheme: columns (label, center), and either a fraction and seed, or values.

    Raises:
        InputError: see :func:`site_holdout`.
    """
    held = site_holdout(units, scheme)
    centers = units[scheme.columns[1]]
    return keep_apart(units, centers.isin(held).to_numpy(), (centers == "").to_numpy() & bool(held))


def site_holdout(rows: pd.DataFrame, scheme: SplitScheme) -> set[str]:
    """Select the centers to hold out: those in ``values``, or a fraction, so that every class keeps a training patient.

    Centers are drawn at random; those that add a class to the holdout come first. Of several draws, the one with the
    most classes in the holdout is used. A class that occurs at only one center stays in training.

    Args:
        rows: rows with ``patient`` and the scheme's columns.
        scheme: columns (label, center), and either values, or a fraction (at least one center; 0 holds out nothing) and
            seed.

    Raises:
        InputError: for an unknown center, if too few centers can be held out, or if classes would have no training
            patients; the message names them.
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
    """Which classes have patients at which centers."""

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
        #: ``(C, L)`` bool: whether a center has patients of a class
        self.has = np.zeros((len(self.centers), len(self.labels)), bool)
        self.has[self.center, self.label] = True

    def lost(self, held: np.ndarray) -> np.ndarray:
        """Return ``(L,)`` bool: classes without training patients if ``held`` centers, ``(C,)`` bool, are held out."""
        out = np.zeros(self.num_patients, bool)
        out[self.patient[held[self.center]]] = True
        stays = ~out[self.patient]
        return np.bincount(self.label[stays], minlength=len(self.labels)) == 0

    def can_be_shown(self) -> np.ndarray:
        """Return ``(L,)`` bool: classes that occur at a center which could be held out alone."""
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
    """Go through the centers in a given order and hold out up to ``wanted`` of them.

    Returns:
        ``(C,)`` bool, the centers to hold out; and ``(L,)`` bool, the classes that prevented other centers.
    """
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
            # reject this center for good, as holding out more centers never restores a class
            held[candidate] = False
            refused |= lost
    return held, refused
