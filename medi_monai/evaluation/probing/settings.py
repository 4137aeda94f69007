"""The settings of the run ``probing``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medi_monai.utils.errors import InputError

__all__ = ["ProbeSettings"]


@dataclass(frozen=True)
class ProbeSettings:
    """How arms are compared.

    Args:
        num_repeats: draws of training patients; each is a paired comparison of all arms.
        num_replicates: bootstrap samples of the test patients within each repeat.
        ratio: synthetic images per real one.
        real_per_class: real training images per class, at most; all by default.
        sweep_repeats: repeats of each point of a sweep.
        sweep_ratios: sweep over the ratio.
        sweep_real_per_class: sweep over the number of real images.
        sweep_num_centers: sweep over the number of centers in training.
        sweep_correlations: sweep over the correlation of class and center.
        c_values: values of C to choose from.
        min_count: images that a group needs to be the worst.
        num_augmented: stain-augmented copies of every training image.
        stain_jitter: their strength, see :class:`medi_monai.wsi.transforms.RandStainJitterd`.
        normalization: method of the stain-normalized arm.
        seed: of all draws.
    """

    num_repeats: int = 12
    num_replicates: int = 200
    ratio: float = 0.5
    real_per_class: int | None = None
    sweep_repeats: int = 3
    sweep_ratios: Sequence[float] = (0.125, 0.25, 0.5)
    sweep_real_per_class: Sequence[int] = (25, 100, 400, 1600)
    sweep_num_centers: Sequence[int] = (2, 4, 6)
    sweep_correlations: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    c_values: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    min_count: int = 10
    num_augmented: int = 2
    stain_jitter: float = 0.2
    normalization: str = "macenko"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"num_repeats": 1, "num_replicates": 1, "min_count": 1, "num_augmented": 1, "sweep_repeats": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(f"{name} = {getattr(self, name)}: must be {lowest} or more")
        for name in (
            "ratio",
            "real_per_class",
            "c_values",
            "sweep_ratios",
            "sweep_real_per_class",
            "sweep_num_centers",
        ):
            values = np.atleast_1d([] if getattr(self, name) is None else getattr(self, name))
            if not ((values > 0) & (values < np.inf)).all():
                raise InputError(f"{name} = {getattr(self, name)}: must be above 0")
        if len(self.c_values) == 0:
            raise InputError("c_values is empty: give at least one value of C")
        if not all(0 <= level <= 1 for level in self.sweep_correlations):
            raise InputError(f"sweep_correlations = {list(self.sweep_correlations)}: must be between 0 and 1")
