"""Estimate stain vectors of hematoxylin and eosin, and modify stain amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from skimage.color import rgb_from_hed

from medi_monai.utils.errors import InputError
from medi_monai.wsi.color import optical_density
from medi_monai.wsi.pixels import CpuPixels, select_pixels
from medi_monai.wsi.tissue import GLASS_DENSITY, TISSUE_DENSITY

__all__ = [
    "RUIFROK",
    "Stains",
    "check_patch",
    "full_basis",
    "jitter_stains",
    "macenko_stains",
    "stain_change",
    "tissue_weight",
]

#: optical density of red, green and blue per unit of hematoxylin, eosin and the rest (Ruifrok and Johnston 2001)
RUIFROK: np.ndarray = rgb_from_hed / np.linalg.norm(rgb_from_hed, axis=1, keepdims=True)
#: gray level of glass, which is below 255 in scanned slides; optical densities of stain are measured relative to it
GLASS_LEVEL = 240
#: optical density above glass, in any channel, from which a pixel counts as stained (Macenko et al. 2009: beta = 0.15)
STAINED = 0.15
#: fraction of pixels beyond the angle of each pure stain (Macenko et al. 2009: alpha = 1%)
BEYOND = 0.01
#: number of evenly spaced pixels from which stains are estimated; more take longer and hardly change the result
MAX_PIXELS = 1 << 14
#: angle between the stain vectors, in degrees, below which there is only one stain, with noise: it was at most 5.1 for
#: a single simulated stain, and at least 9.3 for real patches of 64 px
MIN_ANGLE = 7.0
#: minimum fraction of stained pixels, and minimum amount of either stain, for stains to be estimated
MIN_STAINED, MIN_AMOUNT = 0.05, 0.05
_GLASS = float(optical_density(np.array(GLASS_LEVEL)))


@dataclass(frozen=True)
class Stains:
    """Stains of a patch.

    Args:
        vectors: ``(2, 3)`` optical density of red, green and blue per unit of hematoxylin and eosin, of unit length.
        amounts: ``(2,)`` 99th percentiles of the amounts over stained pixels.
    """

    vectors: np.ndarray
    amounts: np.ndarray


def check_patch(image: Any) -> None:
    """Raise an :class:`InputError` unless ``image`` is ``(3, H, W)`` or ``(N, 3, H, W)`` uint8."""
    shape, dtype = tuple(getattr(image, "shape", ())), str(getattr(image, "dtype", type(image).__name__))
    if len(shape) not in (3, 4) or shape[-3] != 3 or not dtype.endswith("uint8") or 0 in shape:
        raise InputError(
            f"a patch of shape {shape} and type {dtype} cannot be transformed. Expected: uint8 RGB, channels first, "
            "(3, H, W) or a batch (N, 3, H, W)."
        )


def macenko_stains(image: Any, pixels: CpuPixels | None = None, max_pixels: int | None = MAX_PIXELS) -> Stains | None:
    """Estimate the stain vectors of a patch (Macenko et al. 2009); None if it does not show two stains.

    As in the paper, the plane is spanned by singular vectors of the optical densities themselves rather than of their
    covariance, so that it passes through the origin, as sums of stains do. On 90 real patches of 256 px, projection
    onto it changed gray values by 2.0 on average and 3.1 at most; cuCIM's ``stain_extraction_pca``, which centers the
    data, by 3.6 and 13.8. MONAI's ``ExtractHEStains`` does not fix the signs of the axes and drops pixels that lack
    red: it was off by 24 degrees where the true stains are known. Both raise an exception for a blank patch.

    Args:
        image: ``(3, H, W)`` uint8 array of the back end.
        pixels: arithmetic of the back end; by default that of the CPU.
        max_pixels: number of evenly spaced pixels to use; None for all.
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
    # small matrices are computed on the host, because the GPU takes longer for the transfer than for the computation
    moments = _on_host(stained @ stained.T).astype(float)
    axes = np.linalg.eigh(moments)[1][:, [2, 1]]
    # the first singular vector of non-negative numbers has components of the same sign
    axes[:, 0] = np.abs(axes[:, 0])
    along, across = xp.asarray(axes.T.astype(np.float32)) @ stained
    # tangents instead of angles; both have the same order, because values along the first axis are never negative
    tangents = _low_and_high(across / (along + 1e-6), xp)
    first, second = (axes @ (np.array([1.0, tangent]) / np.hypot(1.0, tangent)) for tangent in tangents)
    # hematoxylin absorbs red, eosin hardly any
    return np.stack([first, second] if first[0] > second[0] else [second, first])


def _low_and_high(values: Any, xp: Any) -> tuple[float, float]:
    # 1st and 99th percentile by rank: sorting in single precision is four times as fast as numpy.percentile
    ordered = xp.sort(values)
    rank = round(BEYOND * (len(ordered) - 1))
    return float(ordered[rank]), float(ordered[-1 - rank])


def thinned(image: Any, max_pixels: int | None) -> Any:
    """Return ``(3, P)`` pixels of a ``(3, H, W)`` image: all of them, or at most ``max_pixels`` evenly spaced ones."""
    flat = image.reshape(3, -1)
    return flat if max_pixels is None else flat[:, :: -(-flat.shape[1] // max_pixels)]


def _on_host(values: Any) -> np.ndarray:
    return values.get() if hasattr(values, "get") else np.asarray(values)


def full_basis(vectors: np.ndarray) -> np.ndarray:
    """Return a ``(3, 3)`` basis: two stain vectors, and the direction orthogonal to both for the residual."""
    across = np.cross(vectors[0], vectors[1])
    return np.stack([vectors[0], vectors[1], across / np.linalg.norm(across)])


def stain_change(source: Stains, target: Stains) -> np.ndarray:
    """Return the ``(3, 3)`` matrix that maps optical densities of ``source`` to those of ``target``.

    It replaces the stain vectors and scales the amounts of both stains; the residual outside their plane is lost.
    """
    return target.vectors.T @ np.diag(target.amounts / source.amounts) @ np.linalg.pinv(source.vectors.T)


def tissue_weight(density: Any, xp: Any) -> Any:
    """Return ``(P,)`` weights from ``(3, P)`` optical densities: 0 on glass, 1 on tissue, with a ramp in between."""
    return xp.clip((density.mean(axis=0) - GLASS_DENSITY) / (TISSUE_DENSITY - GLASS_DENSITY), 0, 1)


def jitter_stains(
    image: Any,
    scale: np.ndarray,
    shift: np.ndarray,
    basis: np.ndarray = RUIFROK,
    pixels: CpuPixels | None = None,
) -> Any:
    """Change the stain amounts ``c`` of a patch to ``scale * c + shift`` (Tellez et al. 2018).

    Only tissue is changed (:func:`tissue_weight`), because the shift would color glass. Negative amounts are kept,
    unlike in ``skimage.color.rgb2hed``, so that scale 1 and shift 0 leave the patch unchanged.

    Args:
        image: ``(3, H, W)`` uint8 array of the back end.
        scale: ``(3,)`` factor for each row of ``basis``.
        shift: ``(3,)`` optical density to add for each row of ``basis``, of the order of 0.1.
        basis: ``(3, 3)`` optical density of red, green and blue per unit of each stain.
        pixels: arithmetic of the back end; by default that of the CPU.
    """
    pixels = pixels or select_pixels("cpu")
    xp = pixels.xp
    density = pixels.density(image).reshape(3, -1)
    # computed as a change of density, so that rounding does not affect unchanged pixels
    matrix = basis.T @ np.diag(np.asarray(scale) - 1) @ np.linalg.inv(basis.T)
    change = xp.asarray(matrix.astype(np.float32)) @ density
    change += xp.asarray((basis.T @ shift).astype(np.float32))[:, None]
    change *= tissue_weight(density, xp)
    change += density
    return pixels.from_density(change).reshape(image.shape)


def restain(density: Any, matrix: np.ndarray, xp: Any) -> Any:
    """Apply a ``(3, 3)`` matrix to the optical density above glass; pixels brighter than glass are unchanged.

    Args:
        density: ``(3, P)`` optical densities.
        matrix: ``(3, 3)`` matrix that maps optical densities to optical densities.
        xp: NumPy or CuPy.
    """
    below = xp.minimum(density, _GLASS)
    return xp.asarray(matrix.astype(np.float32)) @ (density - below) + below
