"""Arms of a comparison: training data of linear probes, added to the real images or used in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import rows_by_group
from medi_monai.evaluation.probes.blocks import release
from medi_monai.evaluation.probing.store import FeatureStore
from medi_monai.results.probing import CEILING
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import listed

__all__ = [
    "AUGMENTED",
    "Arm",
    "BASELINES",
    "DEFAULT_BASELINES",
    "ImageSet",
    "NORMALIZED",
    "RECOLORED",
    "RESERVED_NAMES",
    "SWEEPS",
    "VARIANTS",
    "arm_named",
    "check_classes",
    "gathered",
    "oversampled_counts",
    "variants_of",
]

AUGMENTED, NORMALIZED = "stain_augmented", "stain_normalized"
#: arms of real images recolored to the stains of other centers, each with its way to transfer stain
RECOLORED = {"stain_transfer": "moments", "stain_transfer_macenko": "macenko"}


@dataclass(frozen=True)
class Arm:
    """Use of the real training images in one arm.

    Args:
        added: image set added to them: a given number of synthetic or recolored images, or all stain-augmented copies.
        view: image set used in place of the real images, in training and in testing.
        weighting: unit that gets equal weight: ``class``, ``group`` (combination), or, if empty, the image.
        oversampled: whether images of every combination are repeated up to the size of the largest one.
        aligned: how features of centers are aligned, in training and in testing: ``combat``, ``combat_without_class``
            or ``coral``.
        head: how the probe is fitted to combinations: ``subsets`` (deep feature reweighting) or ``group_dro``.
        filtered: whether only those images are added whose class is predicted by a probe of the real training images.
        seen: whether only images of combinations with real training images are added.
        ceiling: whether real images of the tested combinations are added, of other patients than those who are tested.

    ``aligned`` and ``head`` are for arms that add no images.
    """

    added: str = ""
    view: str = "real"
    weighting: str = ""
    oversampled: bool = False
    aligned: str = ""
    head: str = ""
    filtered: bool = False
    seen: bool = False
    ceiling: bool = False


#: standard baselines; ``reweighted`` and ``oversampled`` act on combinations of label and attributes
BASELINES = {
    "real": Arm(),
    "class_reweighted": Arm(weighting="class"),
    "reweighted": Arm(weighting="group"),
    "oversampled": Arm(oversampled=True),
    AUGMENTED: Arm(added=AUGMENTED),
    NORMALIZED: Arm(view=NORMALIZED),
    **{name: Arm(added=name) for name in RECOLORED},
    "combat": Arm(aligned="combat"),
    "combat_without_class": Arm(aligned="combat_without_class"),
    "coral": Arm(aligned="coral"),
    "deep_feature_reweighting": Arm(head="subsets"),
    "group_dro": Arm(head="group_dro"),
    CEILING: Arm(ceiling=True),
}

#: baselines that are compared by default; the others take more time, or are variants
DEFAULT_BASELINES = tuple(
    name for name in BASELINES if name not in ("real", "combat_without_class", "deep_feature_reweighting", "group_dro")
)

#: further arms with the generated images of an arm: normalized like the real ones, filtered by a probe of these, or
#: those of combinations in training alone
VARIANTS = ("normalized", "filtered", "seen")

#: comparisons over a setting, and over the correlation of class and center
SWEEPS = ("ratio", "real_per_class", "num_centers", "correlation")

#: names that arms cannot have: those of figures of real images, and of arms without synthetic images
RESERVED_NAMES = ("floor", "held_out", "reference", *BASELINES)


def arm_named(name: str) -> Arm:
    """Return the baseline of this name, or the arm *real + name* for a synthetic image set."""
    return BASELINES.get(name, Arm(added=name))


def variants_of(name: str, kinds: Sequence[str]) -> dict[str, Arm]:
    """Return further arms with the synthetic images of one arm, ``<name>_<kind>``.

    Args:
        name: name of the arm.
        kinds: of :data:`VARIANTS`; ``normalized`` needs the view and an image set ``<name>_normalized``.
    """
    arms = {
        "normalized": Arm(added=f"{name}_normalized", view=NORMALIZED),
        "filtered": Arm(added=name, filtered=True),
        "seen": Arm(added=name, seen=True),
    }
    return {f"{name}_{kind}": arms[kind] for kind in kinds}


class ImageSet:
    """Features of images with their metadata; for a set on disk, only its folder is sent to other processes.

    Args:
        features: ``(N, D)`` features, or the folder of a :class:`FeatureStore`.
        table: one row per image with label and attributes.

    Raises:
        InputError: if the number of rows differs from that of features.
    """

    def __init__(self, features: np.ndarray | Path, table: pd.DataFrame) -> None:
        self.folder = features if isinstance(features, Path) else None
        self._features = FeatureStore.open(features).features if isinstance(features, Path) else features
        self.table = table
        if len(self.features) != len(table):
            raise InputError(f"{len(self.features)} features do not match the {len(table)} rows of the table")

    @property
    def features(self) -> np.ndarray:
        """``(N, D)`` features."""
        return self._features

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "table": self.table, "_features": None if self.folder else self._features}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.folder is not None:
            self._features = FeatureStore.open(self.folder).features


def check_classes(real: Cohort, sampled: Mapping[str, Cohort], label: str) -> None:
    """Check that every arm has images of each class in training.

    Args:
        real: real images with their split.
        sampled: images by arm.
        label: column of the class.

    Raises:
        InputError: for an arm without images of a class; as every arm adds the same number of images of each class,
            no arm would then add any.
    """
    classes = sorted(set(real.split("train").table[label].astype(str)))
    for name, images in sampled.items():
        present = set(images.table[label].astype(str))
        lacking = [repr(value) for value in classes if value not in present]
        if lacking:
            raise InputError(
                f"the arm {name!r} has no image of {label} {listed(lacking)}. Every arm adds the same number of images "
                "of each class, so no arm would add any: sample all classes, for example with --plan all, or leave the "
                "arm out of --arms"
            )


def oversampled_counts(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``(N,)`` counts of each row, at least one, that oversample every group to the size of the largest.

    A weight of k in a fit is equivalent to k copies of a row; actual copies could need hundreds of times the memory.

    Args:
        groups: ``(N,)`` integer codes of the groups.
        rng: random generator of the draw.
    """
    sizes = np.bincount(groups)
    counts = np.ones(len(groups), np.int64)
    for rows in rows_by_group(groups):
        if len(rows):
            counts[rows] += np.bincount(rng.integers(len(rows), size=sizes.max() - len(rows)), minlength=len(rows))
    return counts


def gathered(
    sources: Sequence[tuple[np.ndarray, np.ndarray]], folder: str | None = None, name: str = "features"
) -> np.ndarray:
    """Stack rows of several arrays as float32, in a file in ``folder`` if they are too large for memory.

    Args:
        sources: ``(N, D)`` arrays, each with the row numbers to take.
        folder: temporary folder for the file.
        name: name of the file.
    """
    count, dim = sum(len(rows) for _, rows in sources), sources[0][0].shape[1]
    if folder is None:
        result = np.empty((count, dim), np.float32)
    else:
        result = np.lib.format.open_memmap(f"{folder}/{name}.npy", mode="w+", dtype=np.float32, shape=(count, dim))
    start = 0
    for features, rows in sources:
        if features.shape[1] != dim:
            raise InputError(f"features of {features.shape[1]} and of {dim} dimensions: use the same encoder for all")
        for begin in range(0, len(rows), 8192):
            block = rows[begin : begin + 8192]
            result[start : start + len(block)] = np.asarray(features[block])
            start += len(block)
            release(features)
            release(result)
    return result
