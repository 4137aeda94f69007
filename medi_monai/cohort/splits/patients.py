"""What all schemes share: no patient on two sides, and in-domain validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.utils.seeding import seed_from

__all__ = ["keep_apart", "observed_combinations", "quoted", "validation_patients"]

Combination = tuple[str, ...]


def keep_apart(units: pd.DataFrame, held: np.ndarray, uncertain: np.ndarray | None = None) -> pd.Series:
    """``holdout`` where ``held``; ``excluded`` for other rows of the same patients and where ``uncertain``; ``train``.

    Args:
        units: one row per patient and combination.
        held: ``(N,)`` bool.
        uncertain: ``(N,)`` bool: a value is missing, so that the row may belong to what is held out.
    """
    split = pd.Series("train", index=units.index)
    if uncertain is not None:
        split[uncertain] = "excluded"
    split[units["patient"].isin(units.loc[held, "patient"])] = "excluded"
    split[held] = "holdout"
    return split


def observed_combinations(rows: pd.DataFrame, columns: Sequence[str]) -> list[Combination]:
    """The combinations of values that rows have, sorted; a combination with a missing value is none."""
    distinct = rows[list(columns)].drop_duplicates()
    return sorted(key for key in distinct.itertuples(index=False, name=None) if "" not in key)


def validation_patients(units: pd.DataFrame, columns: Sequence[str], fraction: float, seed: int) -> set[str]:
    """The patients in training that become validation; no combination loses its last patient.

    Args:
        units: the rows in training, one per patient and combination; a missing value counts as a value here.
        columns: of a combination.
        fraction: of the patients of every combination that has three or more.
        seed: which of them.
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
    """Values with a count each, fewest first, for a message: ``'A' (1 center), 'B' (2 centers)``."""
    ranked = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    shown = [f"{value!r} ({count} {unit}{'' if count == 1 else 's'})" for value, count in ranked[:most]]
    return ", ".join(shown) + (f" and {len(ranked) - most} more" if len(ranked) > most else "")
