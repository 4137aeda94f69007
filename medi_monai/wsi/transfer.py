"""Stain transfer: recolor patches of one center to the stain of another, from statistics of patches of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medi_monai.wsi.color import from_optical_density, optical_density
from medi_monai.wsi.stain import MIN_STAINED, Stains, macenko_stains, restain, stain_change, tissue_weight

__all__ = ["TRANSFERS", "DensityMoments", "StainTransfer", "density_moments", "match_moments", "match_stains"]

#: smallest standard deviation of the optical density over tissue; below it, a channel has a single value
MIN_SPREAD = 0.005


@dataclass(frozen=True)
class DensityMoments:
    """Mean and standard deviation of the optical density of red, green and blue over tissue, ``(3,)`` each."""

    mean: np.ndarray
    std: np.ndarray


def density_moments(image: np.ndarray) -> DensityMoments | None:
    """Return the moments of a ``(3, H, W)`` uint8 patch; None if it has too little tissue, or a single flat color."""
    density = optical_density(image.reshape(3, -1))
    tissue = density[:, tissue_weight(density, np) >= 1]
    if tissue.shape[1] < max(2, MIN_STAINED * density.shape[1]):
        return None
    mean, std = tissue.mean(axis=1, dtype=float), tissue.std(axis=1, dtype=float)
    return DensityMoments(mean, std) if std.min() >= MIN_SPREAD else None


def match_moments(image: np.ndarray, source: DensityMoments, target: DensityMoments) -> np.ndarray:
    """Recolor a patch as Reinhard et al. (2001) do, but in optical density, in which amounts of stain are additive.

    Each channel is shifted and scaled, so that its moments change from those of ``source`` to those of ``target``.
    Glass keeps its color.

    Args:
        image: ``(3, H, W)`` uint8 patch.
        source: moments of the patch, or of its center.
        target: moments to reach.
    """
    density = optical_density(image.reshape(3, -1))
    factor = target.std / source.std
    change = (factor - 1)[:, None] * density + (target.mean - factor * source.mean)[:, None]
    change = density + tissue_weight(density, np) * change
    return from_optical_density(change.astype(np.float32)).reshape(image.shape)


def match_stains(image: np.ndarray, source: Stains, target: Stains) -> np.ndarray:
    """Replace the stain vectors of a patch and scale the amounts of both stains (Macenko et al. 2009).

    Args:
        image: ``(3, H, W)`` uint8 patch.
        source: stains of the patch, or of its center.
        target: stains to reach.
    """
    density = restain(optical_density(image.reshape(3, -1)), stain_change(source, target), np)
    return from_optical_density(density).reshape(image.shape)


@dataclass(frozen=True)
class StainTransfer:
    """A way to transfer stain.

    Args:
        estimate: statistics of a ``(3, H, W)`` uint8 image; None if it does not show them.
        change: ``(image, source, target)``: the image with its statistics changed from ``source`` to ``target``.
    """

    estimate: Callable[[np.ndarray], Any]
    change: Callable[[np.ndarray, Any, Any], np.ndarray]


#: ways to transfer stain: by the moments of the optical density, and by Macenko's stain vectors
TRANSFERS = {
    "moments": StainTransfer(density_moments, match_moments),
    "macenko": StainTransfer(macenko_stains, match_stains),
}
