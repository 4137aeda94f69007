"""Hematoxylin and eosin: stain vectors, and changes of the amounts of stain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from skimage.color import rgb_from_hed

from medi_monai.utils.errors import InputError
from medi_monai.wsi.color import optical_density
from medi_monai.wsi.pixels import CpuPixels, select_pixels
from medi_monai.wsi.tissue import GLASS_DENSITY, TISSUE_DENSITY

__all__ = ["RUIFROK", "Stains", "check_patch", "full_basis", "jitter_stains", "macenko_stains", "tissue_weight"]

#: optical density of red, green and blue per unit of hematoxylin, eosin and the rest (Ruifrok and Johnston 2001)
RUIFROK: np.ndarray = rgb_from_hed / np.linalg.norm(rgb_from_hed, axis=1, keepdims=True)
#: glass of a scanned slide is not 255; stain is counted from this gray level on
GLASS_LEVEL = 240
#: optical density in any channel, above glass, of a pixel that counts as stained (Macenko et al. 2009: beta = 0.15)
STAINED = 0.15
#: part of the pixels beyond the angles that stand for the pure stains (Macenko et al. 2009: alpha = 1 %)
BEYOND = 0.01
#: pixels, evenly spaced, from which the stains of a patch are estimated: more take time and hardly change them
MAX_PIXELS = 1 << 14
#: degrees between the stain vectors below which there is one stain and noise: one drawn stain gave at most 5.1,
#: real patches of 64 px at least 9.3
MIN_ANGLE = 7.0
#: least fraction of stained pixels, and least amount of either stain, from which stains are estimated
MIN_STAINED, MIN_AMOUNT = 0.05, 0.05
_GLASS = float(optical_density(np.array(GLASS_LEVEL)))


@dataclass(frozen=True)
class Stains:
    """What a patch is stained with.

    Args:
        vectors: ``(2, 3)`` optical density of red, green and blue per unit of hematoxylin and eosin, of length 1.
        amounts: ``(2,)`` 99th percentile of the amounts over stained pixels.
    """

    vectors: np.ndarray
    amounts: np.ndarray


def check_patch(image: Any) -> None:
    """Raise an :class:`InputError` for anything but ``(3, H, W)`` or ``(N, 3, H, W)`` uint8."""
    shape, dtype = tuple(getattr(image, "shape", ())), str(getattr(image, "dtype", type(image).__name__))
    if len(shape) not in (3, 4) or shape[-3] != 3 or not dtype.endswith("uint8") or 0 in shape:
        raise InputError(
            f"a patch of shape {shape} and type {dtype} cannot be transformed. Expected: uint8 RGB, channels first, "
            "(3, H, W) or a batch (N, 3, H, W)."
        )


def macenko_stains(image: Any, pixels: CpuPixels | None = None, max_pixels: int | None = MAX_PIXELS) -> Stains | None:
    """Stain vectors of one patch (Macenko et al. 2009), or None where it does not show two stains.

    The plane is that of the singular vectors of the optical densities themselves, as in the paper, and not of their
    covariance: it passes through the origin, as sums of stains do. On 90 real patches of 256 px, projecting on it
    changed a gray value by 2.0 on average and 3.1 at most; cuCIM's ``stain_extraction_pca``, which centers, by 3.6 and
    13.8. MONAI's ``ExtractHEStains`` does not fix the signs of the axes and drops pixels that lack red: it was 24
    degrees off where the truth is known, and both stop with an exception at a blank patch.

    Args:
        image: ``(3, H, W)`` uint8, an array of the back end.
        pixels: the back end's arithmetic; by default the CPU's.
        max_pixels: how many pixels to look at, evenly spaced; None for all.
    """
    pixels = pixels or select_pixels("cpu")
    xp = pixels.xp
    sample = thinned(image, max_pixels)
    density = xp.maximum(pixels.density(sample) - _GLASS, 0)
    stained = xp.compress((density > STAINED).any(axis=0), density, axis=1)
    if stained.shape[1] < max(2, MIN_STAINED * density.shape[1]):
        return None
    vectors = _extreme_vectors(stained, xp)
    if np.degrees(np.arccos(min(1.0, float(vectors[0] @ vectors[1])))) < MIN_ANGLE:
        return None
    unmix = np.linalg.pinv(vectors.T).astype(np.float32)
    amounts = np.array([_low_and_high(row, xp)[1] for row in xp.asarray(unmix) @ stained])
    return Stains(vectors, amounts) if amounts.min() >= MIN_AMOUNT else None


def _extreme_vectors(stained: Any, xp: Any) -> np.ndarray:
    # small matrices are the host's: a GPU waits longer for them than it computes
    moments = _on_host(stained @ stained.T).astype(float)
    axes = np.linalg.eigh(moments)[1][:, [2, 1]]
    # the first singular vector of numbers that are not negative has components of one sign
    axes[:, 0] = np.abs(axes[:, 0])
    along, across = xp.asarray(axes.T.astype(np.float32)) @ stained
    # tangents stand for angles: the first axis is never negative, and the order is the same
    tangents = _low_and_high(across / (along + 1e-6), xp)
    first, second = (axes @ (np.array([1.0, tangent]) / np.hypot(1.0, tangent)) for tangent in tangents)
    # hematoxylin absorbs red, eosin hardly
    return np.stack([first, second] if first[0] > second[0] else [second, first])


def _low_and_high(values: Any, xp: Any) -> tuple[float, float]:
    # the 1st and 99th percentile by rank: sorting single precision is four times as fast as numpy.percentile
    ordered = xp.sort(values)
    rank = round(BEYOND * (len(ordered) - 1))
    return float(ordered[rank]), float(ordered[-1 - rank])


def thinned(image: Any, max_pixels: int | None) -> Any:
    """``(3, P)``: the pixels of a ``(3, H, W)`` image, or evenly spaced ones, at most ``max_pixels``."""
    flat = image.reshape(3, -1)
    return flat if max_pixels is None else flat[:, :: -(-flat.shape[1] // max_pixels)]


def _on_host(values: Any) -> np.ndarray:
    return values.get() if hasattr(values, "get") else np.asarray(values)


def full_basis(vectors: np.ndarray) -> np.ndarray:
    """``(3, 3)``: two stain vectors, and the direction across both for what is neither."""
    across = np.cross(vectors[0], vectors[1])
    return np.stack([vectors[0], vectors[1], across / np.linalg.norm(across)])


def tissue_weight(density: Any, xp: Any) -> Any:
    """0 on glass, 1 on tissue and a ramp between, by the mean optical density: ``(3, P)`` to ``(P,)``."""
    return xp.clip((density.mean(axis=0) - GLASS_DENSITY) / (TISSUE_DENSITY - GLASS_DENSITY), 0, 1)


def jitter_stains(
    image: Any,
    scale: np.ndarray,
    shift: np.ndarray,
    basis: np.ndarray = RUIFROK,
    pixels: CpuPixels | None = None,
) -> Any:
    """Change the amounts of stain ``c`` of a patch to ``scale * c + shift`` (Tellez et al. 2018).

    Glass stays as it is: the shift would color it, so tissue alone is changed (:func:`tissue_weight`). Negative
    amounts are kept, unlike in ``skimage.color.rgb2hed``, so that scale 1 and shift 0 give the patch back.

    Args:
        image: ``(3, H, W)`` uint8, an array of the back end.
        scale: ``(3,)`` factor of each row of ``basis``.
        shift: ``(3,)`` optical density to add of each, of the order of 0.1.
        basis: ``(3, 3)`` optical density of red, green and blue per unit of each stain.
        pixels: the back end's arithmetic; by default the CPU's.
    """
    pixels = pixels or select_pixels("cpu")
    xp = pixels.xp
    density = pixels.density(image).reshape(3, -1)
    # the change of the density, not the density: its rounding then does not touch what stays
    matrix = basis.T @ np.diag(np.asarray(scale) - 1) @ np.linalg.inv(basis.T)
    change = xp.asarray(matrix.astype(np.float32)) @ density
    change += xp.asarray((basis.T @ shift).astype(np.float32))[:, None]
    change *= tissue_weight(density, xp)
    change += density
    return pixels.from_density(change).reshape(image.shape)


def restain(density: Any, matrix: np.ndarray, xp: Any) -> Any:
    """Apply a ``(3, 3)`` matrix to the optical density above glass; what is brighter than glass stays.

    Args:
        density: ``(3, P)``.
        matrix: maps optical densities to optical densities.
        xp: NumPy or CuPy.
    """
    below = xp.minimum(density, _GLASS)
    return xp.asarray(matrix.astype(np.float32)) @ (density - below) + below
