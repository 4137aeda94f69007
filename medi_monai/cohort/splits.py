"""Splits over patients, never over patches; deterministic in a seed and independent of the order of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["SplitScheme", "assign_splits", "combination_holdout"]

#: combinations in training that every class and every attribute value keeps: of one alone, the two cannot be told apart
MIN_PARTNERS = 2


@dataclass(frozen=True)
class SplitScheme:
    """Combination holdout: every class and every attribute value is in training, some of their pairs are not.

    Every value keeps at least two combinations in training.

    Args:
        columns: label first, then the attributes whose combinations are held out; just the label holds out nothing.
        fraction: of the observed combinations to hold out, in [0, 1).
        val_fraction: of the patients of each combination in training that become in-domain validation, in [0, 1);
            a combination with fewer than three patients keeps them all in training.
        seed: which combinations and patients.
    """

    columns: Sequence[str]
    fraction: float = 0.3
    val_fraction: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("fraction", "val_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: it lies in [0, 1)")


def assign_splits(rows: pd.DataFrame, scheme: SplitScheme) -> pd.Series:
    """The split of every row: ``train``, ``val``, ``holdout`` or ``excluded``.

    Args:
        rows: one row per slide or patch with ``patient`` and the scheme's columns.
        scheme: what is held out.

    Returns:
        A series with the index of ``rows``. A row is ``excluded`` where its combination is in training but its
        patient also has a combination that is held out.

    Raises:
        InputError: if so many combinations cannot be held out while every value stays in training.
    """
    keys = rows[list(scheme.columns)].agg(tuple, axis=1)
    held_out = combination_holdout(rows, scheme)
    held_patients = set(rows.loc[keys.isin(held_out), "patient"])
    split = pd.Series("train", index=rows.index)
    split[rows["patient"].isin(held_patients)] = "excluded"
    split[keys.isin(held_out)] = "holdout"
    if held_out:
        _check_partners(rows, split, scheme)
    split[(split == "train") & rows["patient"].isin(_validation_patients(rows[split == "train"], scheme))] = "val"
    return split


def combination_holdout(rows: pd.DataFrame, scheme: SplitScheme) -> set[tuple[str, ...]]:
    """The combinations held out: spread over the classes in turn, so that each class keeps about as many.

    Raises:
        InputError: as :func:`assign_splits`.
    """
    combinations = sorted(set(rows[list(scheme.columns)].itertuples(index=False, name=None)))
    wanted = round(scheme.fraction * len(combinations)) if len(scheme.columns) > 1 else 0
    order = np.random.default_rng(seed_from("combination holdout", scheme.seed)).permutation(len(combinations))
    queues: dict[str, list[tuple[str, ...]]] = {}
    for place in order:
        queues.setdefault(combinations[place][0], []).append(combinations[place])
    kept = set(combinations)
    held: set[tuple[str, ...]] = set()
    while len(held) < wanted:
        moved = False
        for queue in queues.values():
            candidate = next((item for item in queue if _is_spare(item, kept)), None)
            if candidate is not None and len(held) < wanted:
                queue.remove(candidate)
                kept.remove(candidate)
                held.add(candidate)
                moved = True
        if not moved:
            raise InputError(
                f"{len(held)} of {wanted} combinations of {list(scheme.columns)} were found to hold out while every "
                f"value keeps {MIN_PARTNERS} combinations in training; the cohort has {len(combinations)} of them. "
                "Lower the split's fraction."
            )
    return held


def _is_spare(candidate: tuple[str, ...], kept: set[tuple[str, ...]]) -> bool:
    return all(sum(other[place] == value for other in kept) > MIN_PARTNERS for place, value in enumerate(candidate))


def _validation_patients(rows: pd.DataFrame, scheme: SplitScheme) -> set[str]:
    # a patient may have several combinations: none of them may lose its last patient in training
    keys = rows[list(scheme.columns)].agg(tuple, axis=1)
    in_training = {key: set(group) for key, group in rows["patient"].groupby(keys)}
    of_patient = {patient: set(group) for patient, group in keys.groupby(rows["patient"])}
    chosen: set[str] = set()
    for key in sorted(in_training):
        patients = sorted(set(rows.loc[keys == key, "patient"]))
        if len(patients) < 3 or scheme.val_fraction == 0:
            continue
        rng = np.random.default_rng(seed_from("validation patients", scheme.seed, list(key)))
        wanted = max(1, round(scheme.val_fraction * len(patients))) - len(chosen & set(patients))
        for patient in rng.permutation(patients):
            if wanted <= 0:
                break
            if patient not in chosen and all(len(in_training[other]) > 1 for other in of_patient[patient]):
                chosen.add(str(patient))
                for other in of_patient[patient]:
                    in_training[other].discard(str(patient))
                wanted -= 1
    return chosen


def _check_partners(rows: pd.DataFrame, split: pd.Series, scheme: SplitScheme) -> None:
    # patients of held-out combinations leave training with all they have, which the choice could not foresee
    left = rows.loc[split == "train", list(scheme.columns)].drop_duplicates()
    for column in scheme.columns:
        counts = left[column].value_counts()
        poor = [value for value in sorted(set(rows[column])) if counts.get(value, 0) < MIN_PARTNERS]
        if poor:
            raise InputError(
                f"patients of held-out combinations have others too, and without them {column} {poor[0]!r} keeps fewer "
                f"than {MIN_PARTNERS} combinations in training. Lower the split's fraction, or change its seed."
            )
