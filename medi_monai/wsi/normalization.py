"""Stain normalization: match the color statistics of a patch to those of a target."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import read_json, write_json
from medi_monai.wsi.pixels import CpuPixels, select_pixels
from medi_monai.wsi.stain import (
    MAX_PIXELS,
    MIN_STAINED,
    Stains,
    check_patch,
    macenko_stains,
    restain,
    stain_change,
    thinned,
    tissue_weight,
)

__all__ = ["NORMALIZATIONS", "MacenkoTarget", "ReinhardTarget", "StainTarget", "fit_target", "load_target"]

#: standard deviation of a CIELAB channel below which a patch has a single flat color
MIN_SPREAD = 0.1


class StainTarget:
    """Target statistics of a stain normalization, which may be part of a config; see :func:`load_target`."""

    method: ClassVar[str]

    @classmethod
    def fit(cls, image: np.ndarray) -> StainTarget:
        """Return the statistics of a ``(3, H, W)`` uint8 patch; use :func:`fit_target` for several patches."""
        raise NotImplementedError

    def normalize(self, image: Any, pixels: CpuPixels | None = None) -> Any:
        """Normalize a patch to the target; None if the patch's own statistics cannot be estimated.

        Args:
            image: ``(3, H, W)`` uint8 array of the back end.
            pixels: arithmetic of the back end; by default that of the CPU.
        """
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Return the JSON form."""
        return {"format": 1, "method": self.method, **asdict(self)}  # type: ignore[call-overload]

    def save(self, path: str | os.PathLike) -> None:
        """Write the JSON form."""
        write_json(path, self.to_dict())


@dataclass(frozen=True)
class MacenkoTarget(StainTarget):
    """Stain vectors and amounts (Macenko et al. 2009).

    Args:
        vectors: two vectors of unit length, the optical density of red, green and blue per unit of hematoxylin and of
            eosin.
        amounts: 99th percentile of the amounts of hematoxylin and eosin over stained pixels.

    The default is the reference shared by the authors' program, MONAI and cuCIM (there in natural logarithms).
    """

    vectors: tuple[tuple[float, ...], ...] = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
    amounts: tuple[float, ...] = (0.8558, 0.4477)
    method: ClassVar[str] = "macenko"

    def __post_init__(self) -> None:
        _check_numbers(self, "vectors", (2, 3))
        _check_numbers(self, "amounts", (2,))
        if np.linalg.matrix_rank(np.array(self.vectors)) < 2 or min(self.amounts) <= 0:
            raise InputError(f"a Macenko target needs two different stain vectors and positive amounts, not {self}")

    @classmethod
    def fit(cls, image: np.ndarray) -> MacenkoTarget:
        stains = macenko_stains(image, max_pixels=None)
        if stains is None:
            raise InputError(
                "the target patches do not show two stains; use patches with tissue, hematoxylin and eosin"
            )
        return cls(tuple(map(tuple, stains.vectors.tolist())), tuple(stains.amounts.tolist()))

    def normalize(self, image: Any, pixels: CpuPixels | None = None) -> Any:
        pixels = pixels or select_pixels("cpu")
        stains = macenko_stains(image, pixels)
        if stains is None:
            return None
        matrix = stain_change(stains, Stains(np.array(self.vectors), np.array(self.amounts)))
        density = pixels.density(image).reshape(3, -1)
        return pixels.from_density(restain(density, matrix, pixels.xp)).reshape(image.shape)


@dataclass(frozen=True)
class ReinhardTarget(StainTarget):
    """Mean and standard deviation of the tissue's color in CIELAB (Reinhard et al. 2001).

    Glass is excluded from the statistics and keeps its color; otherwise, it would be tinted, and the color of the
    tissue would depend on the share of glass in a patch.

    Args:
        mean: means of L*, a*, b* over tissue.
        std: standard deviations of L*, a*, b* over tissue.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: ClassVar[str] = "reinhard"

    def __post_init__(self) -> None:
        _check_numbers(self, "mean", (3,))
        _check_numbers(self, "std", (3,))
        if min(self.std) <= 0:
            raise InputError(f"a Reinhard target needs positive standard deviations, not {self.std}")

    @classmethod
    def fit(cls, image: np.ndarray) -> ReinhardTarget:
        moments = _lab_moments(image, select_pixels("cpu"))
        if moments is None:
            raise InputError("the target patches contain no tissue or a single flat color; use patches with tissue")
        _, _, mean, std = moments
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def normalize(self, image: Any, pixels: CpuPixels | None = None) -> Any:
        pixels = pixels or select_pixels("cpu")
        xp = pixels.xp
        moments = _lab_moments(image, pixels)
        if moments is None:
            return None
        lab, weight, mean, std = moments
        factor = np.array(self.std) / std
        slope, start = (
            xp.asarray(values.astype(np.float32))[:, None] for values in (factor, np.array(self.mean) - factor * mean)
        )
        lab += weight * (slope * lab + start - lab)
        # keep Z non-negative despite rounding, because the conversion would print a warning
        lab[0] = xp.clip(lab[0], 0, 100)
        lab[2] = xp.minimum(lab[2], (lab[0] + 16) * (200 / 116) - 0.01)
        return pixels.from_lab(lab.reshape(image.shape))


NORMALIZATIONS: dict[str, type[StainTarget]] = {kind.method: kind for kind in (MacenkoTarget, ReinhardTarget)}


def _lab_moments(image: Any, pixels: CpuPixels) -> tuple[Any, Any, np.ndarray, np.ndarray] | None:
    # CIELAB (3, P), weight (P,), and mean and spread over tissue; None without enough tissue or spread
    xp = pixels.xp
    weight = tissue_weight(pixels.density(image).reshape(3, -1), xp)
    lab = pixels.lab(image).reshape(3, -1)
    tissue = xp.compress(weight >= 1, lab, axis=1)
    if tissue.shape[1] < max(2, MIN_STAINED * lab.shape[1]):
        return None
    center, spread = xp.stack([tissue.mean(axis=1, dtype=float), tissue.std(axis=1, dtype=float)]).tolist()
    mean, std = np.array(center), np.array(spread)
    return (lab, weight, mean, std) if std.min() >= MIN_SPREAD else None


def fit_target(images: Iterable[np.ndarray], method: str = "macenko") -> StainTarget:
    """Fit a target to the pooled pixels of several patches.

    Args:
        images: ``(3, H, W)`` uint8 patches of the slide or center that serves as the reference. Up to 16,384 evenly
            spaced pixels of each are used.
        method: ``macenko`` or ``reinhard``.

    Raises:
        InputError: for an unknown method, no patches, or patches without tissue.
    """
    if method not in NORMALIZATIONS:
        raise unknown_value("stain normalization", method, NORMALIZATIONS)
    samples = []
    for image in images:
        check_patch(image)
        samples.append(thinned(np.moveaxis(np.asarray(image), -3, 0), MAX_PIXELS))
    if not samples:
        raise InputError("no patches were given to fit a target; give at least one")
    return NORMALIZATIONS[method].fit(np.concatenate(samples, axis=1)[:, :, None])


def load_target(source: StainTarget | Mapping | str | os.PathLike | None, method: str | None = None) -> StainTarget:
    """Load a target from a config.

    Args:
        source: a target, its JSON form, the path of a JSON file, or None for Macenko's standard reference.
        method: required normalization method, if any.

    Raises:
        InputError: for a missing or malformed target, or one for another method.
    """
    if method is not None and method not in NORMALIZATIONS:
        raise unknown_value("stain normalization", method, NORMALIZATIONS)
    if source is None:
        if method in (None, "macenko"):
            return MacenkoTarget()
        raise InputError(f"the normalization {method!r} needs a target: fit one with medi_monai.wsi.fit_target")
    content = read_json(source) if isinstance(source, (str, os.PathLike)) else source
    target = content if isinstance(content, StainTarget) else _from_dict(content)
    if method is not None and target.method != method:
        raise InputError(f"the target is for the normalization {target.method!r}, not for {method!r}")
    return target


def _from_dict(content: Any) -> StainTarget:
    if not isinstance(content, Mapping) or content.get("format") != 1:
        raise InputError("not a stain target: expected 'format' 1, 'method' and the statistics of the method")
    if content.get("method") not in NORMALIZATIONS:
        raise unknown_value("stain normalization", content.get("method"), NORMALIZATIONS)
    values = {key: value for key, value in content.items() if key not in ("format", "method")}
    try:
        return NORMALIZATIONS[content["method"]](**values)
    except TypeError as error:
        raise InputError(f"the target for {content['method']!r} is malformed: {error}") from error


def _check_numbers(target: Any, name: str, shape: tuple[int, ...]) -> None:
    # convert the lists of JSON to tuples, so that targets can be compared and hashed
    try:
        values = np.array(getattr(target, name), float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != shape or not np.isfinite(values).all():
        raise InputError(f"{name} of a stain target must be numbers of shape {shape}, not {getattr(target, name)!r}")
    plain = values.tolist()
    object.__setattr__(target, name, tuple(map(tuple, plain)) if values.ndim == 2 else tuple(plain))
