"""Rules that all schemes share: no patient in two splits, and in-domain validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.utils.seeding import seed_from

__all__ = ["keep_apart", "observed_combinations", "quoted", "validation_patients"]

Combination = tuple[str, ...]


def keep_apart(units: pd.DataFrame, held: np.ndarray, uncertain: np.ndarray | None = None) -> pd.Series:
    """Return the split of each row: ``holdout``, ``excluded`` if uncertain or from a held-out patient, else ``train``.

    Args:
        units: one row per patient and combination.
        held: ``(N,)`` bool, the rows to hold out.
        uncertain: ``(N,)`` bool, rows that may belong to what is held out because a value is missing; None for no such
            rows.
    """
    split = pd.Series("train", index=units.index)
    if uncertain is not None:
        split[uncertain] = "excluded"
    split[units["patient"].isin(units.loc[held, "patient"])] = "excluded"
    split[held] = "holdout"
    return split


def observed_combinations(rows: pd.DataFrame, columns: Sequence[str]) -> list[Combination]:
    """Return the distinct combinations of values in the rows, sorted, without those that have a missing value."""
    distinct = rows[list(columns)].drop_duplicates()
    return sorted(key for key in distinct.itertuples(index=False, name=None) if "" not in key)


def validation_patients(units: pd.DataFrame, columns: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Select the training patients to move to validation; no combination loses its last training patient.

    Args:
        units: training rows, one per patient and combination; a missing value counts as a value here.
        columns: columns that make up a combination.
        fraction: fraction of the patients to select, and at least one, in each combination with at least three
            patients; 0 selects none.
        seed: random seed.
    """
    if fraction == 0:
        return set()
    patients_of: dict[Combination, list[str]] = {}
    keys_of: dict[str, list[Combination]] = {}
    for patient, *values in units[["patient", *columns]].itertuples(index=False, name=None):
        patients_of.setdefault(tuple(values), []).append(patient)
        keys_of.setdefault(patient, []).append(tuple(values))
    left = {key: len(patients) for key, patients in patients_of.items()}
    chosen: set[str] = set()
    for key in sorted(patients_of):
        patients = sorted(patients_of[key])
        if len(patients) < 3:
            continue
        wanted = max(1, round(fraction * len(patients))) - len(chosen & set(patients))
        rng = np.random.default_rng(seed_from("validation patients", seed, list(key)))
        for patient in map(str, rng.permutation(patients)):
            if wanted <= 0:
                break
            if patient not in chosen and all(left[other] > 1 for other in keys_of[patient]):
                chosen.add(patient)
                for other in keys_of[patient]:
                    left[other] -= 1
                wanted -= 1
    return chosen


def quoted(counts: dict[str, int], unit: str, most: int = 8) -> str:
    """Format values with their counts for a message, smallest first: ``'A' (1 center), 'B' (2 centers)``.

    Args:
        counts: count of each value.
        unit: singular noun for what is counted.
        most: maximum number of values to list.
    """
    ranked = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    shown = [f"{value!r} ({count} {unit}{'' if count == 1 else 's'})" for value, count in ranked[:most]]
    return ", ".join(shown) + (f" and {len(ranked) - most} more" if len(ranked) > most else "")
