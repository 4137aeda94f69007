"""The arms of a comparison: what a linear probe is trained on besides, or instead of, the real images as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.probing.blocks import release
from medi_monai.probing.store import FeatureStore
from medi_monai.utils.errors import InputError

__all__ = [
    "AUGMENTED",
    "BASELINES",
    "NORMALIZED",
    "Arm",
    "ImageSet",
    "arm_named",
    "codes_of",
    "gathered",
    "group_weights",
    "oversampled_counts",
    "spread_rows",
    "stable_order",
]

AUGMENTED, NORMALIZED = "stain_augmented", "stain_normalised"


@dataclass(frozen=True)
class Arm:
    """What one arm does with the real training images.

    Args:
        added: the image set that is added to them; of synthetic ones a number, of stain-augmented copies all.
        view: the image set that stands for the real images, in training and in testing.
        weighting: ``class``: every class weighs alike; ``group``: every combination does; empty: every image does.
        oversampled: images of every combination are repeated until it is as large as the largest.
    """

    added: str = ""
    view: str = "real"
    weighting: str = ""
    oversampled: bool = False


#: what reviewers ask for; ``reweighted`` and ``oversampled`` act on combinations of label and attributes
BASELINES = {
    "real": Arm(),
    "class_reweighted": Arm(weighting="class"),
    "reweighted": Arm(weighting="group"),
    "oversampled": Arm(oversampled=True),
    AUGMENTED: Arm(added=AUGMENTED),
    NORMALIZED: Arm(view=NORMALIZED),
}


def arm_named(name: str) -> Arm:
    """A baseline, or *real + name* for a synthetic image set."""
    return BASELINES.get(name, Arm(added=name))


class ImageSet:
    """Features of images and what is known of each; a set on disk goes to other processes by its folder alone.

    Args:
        features: ``(N, D)``, or the folder of a :class:`FeatureStore`.
        table: one row per image with label and attributes.

    Raises:
        InputError: where there are not as many rows as features.
    """

    def __init__(self, features: np.ndarray | Path, table: pd.DataFrame) -> None:
        self.folder = features if isinstance(features, Path) else None
        self._features = FeatureStore.open(features).features if isinstance(features, Path) else features
        self.table = table
        if len(self.features) != len(table):
            raise InputError(f"{len(self.features)} features do not belong to the {len(table)} rows of a table")

    @property
    def features(self) -> np.ndarray:
        """``(N, D)``."""
        return self._features

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "table": self.table, "_features": None if self.folder else self._features}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.folder is not None:
            self._features = FeatureStore.open(self.folder).features


def group_weights(groups: np.ndarray) -> np.ndarray:
    """``(N,)`` weights of mean 1 under which every group has the same sum.

    Args:
        groups: ``(N,)`` integer codes.
    """
    sizes = np.bincount(groups)
    return len(groups) / (sizes[groups] * np.count_nonzero(sizes))


def oversampled_counts(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(N,)`` how often each row occurs where every group is as large as the largest: once, and some again.

    A row that counts k times in a fit is k copies of it; to make the copies could take hundreds of times the memory.

    Args:
        groups: ``(N,)`` integer codes.
        rng: source of the draw.
    """
    sizes = np.bincount(groups)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    counts = np.ones(len(groups), np.int64)
    for rows in members:
        if len(rows):
            counts[rows] += np.bincount(rng.integers(len(rows), size=sizes.max() - len(rows)), minlength=len(rows))
    return counts


def spread_rows(groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` row numbers without repetition, spread as evenly over the groups as their sizes allow; all if fewer."""
    order = rng.permutation(len(groups))
    # the place of each row within its group, in random order: taking low places first fills groups evenly
    place = pd.Series(groups[order]).groupby(groups[order]).cumcount().to_numpy()
    turn = rng.permutation(int(groups.max(initial=0)) + 1)[groups[order]]
    return np.sort(order[np.lexsort((turn, place))[:count]])


def gathered(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], folder: str | None = None, name: str = "features"
) -> np.ndarray:
    """Rows of several arrays one below the other, float32; in a file of ``folder`` where they are too large to hold.

    Args:
        parts: arrays ``(N, D)`` with the row numbers to take from each.
        folder: for a file that is deleted with it.
        name: of the file.
    """
    count, dim = sum(len(rows) for _, rows in parts), parts[0][0].shape[1]
    if folder is None:
        result = np.empty((count, dim), np.float32)
    else:
        result = np.lib.format.open_memmap(f"{folder}/{name}.npy", mode="w+", dtype=np.float32, shape=(count, dim))
    start = 0
    for features, rows in parts:
        if features.shape[1] != dim:
            raise InputError(f"features of {features.shape[1]} and of {dim} dimensions: use one encoder for all")
        for block in range(0, len(rows), 8192):
            some = rows[block : block + 8192]
            result[start : start + len(some)] = np.asarray(features[some])
            start += len(some)
            release(features)
            release(result)
    return result


def codes_of(
    table: pd.DataFrame, columns: Sequence[str], names: Sequence[tuple] | None = None
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Integer codes ``(N,)`` of the combinations of ``columns`` in the rows of a table, and the combinations.

    Args:
        table: with the columns; a missing cell is the value ``""``.
        columns: label and attributes.
        names: combinations that come first; others follow in sorted order.
    """
    found: list[tuple[str, ...]] = list(names or ())
    if not columns:
        return np.zeros(len(table), np.int64), found or [()]
    keys = table[list(columns)].astype(str).fillna("")
    numbers = keys.groupby(list(columns), sort=False).ngroup().to_numpy()
    # one row of each combination: a million rows have few
    first = np.unique(numbers, return_index=True)[1]
    own = list(keys.iloc[first].itertuples(index=False, name=None))
    found += sorted(set(own) - set(found))
    place = {key: code for code, key in enumerate(found)}
    return np.array([place[key] for key in own], np.int64)[numbers], found


def stable_order(table: pd.DataFrame) -> np.ndarray:
    """Row numbers in the order of the images' names, so that a draw does not depend on the order of the rows.

    Patches that are read from one slide share its name, and go by ``y`` and ``x``.
    """
    if "image" not in table:
        return np.arange(len(table))
    order = np.argsort(table["image"].to_numpy(dtype=str), kind="stable")
    if not {"x", "y"} <= set(table.columns) or not table["image"].duplicated().any():
        return order
    numbers = pd.factorize(table["image"])[0]
    rank = np.empty(int(numbers.max()) + 1, np.int64)
    rank[numbers[order][::-1]] = np.arange(len(order))[::-1]
    return np.lexsort((*(pd.to_numeric(table[name], errors="coerce").to_numpy() for name in "xy"), rank[numbers]))
