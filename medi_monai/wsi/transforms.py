"""Dictionary transforms for patches on the CPU or the GPU: symmetries, stain jitter, and stain normalization."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, RandomizableTransform

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import seed_from
from medi_monai.wsi.normalization import NORMALIZATIONS, StainTarget, load_target
from medi_monai.wsi.pixels import CpuPixels, check_backend, select_pixels
from medi_monai.wsi.stain import RUIFROK, check_patch, full_basis, jitter_stains, macenko_stains

__all__ = ["BASES", "RandStainJitterd", "RandSymmetryd", "StainNormalized", "patch_transforms"]

BASES = ("ruifrok", "macenko")


class _RandPatchTransform(RandomizableTransform, MapTransform):
    # parameters are drawn image by image on the host, so a batch of N images gives the same result as N items on any
    # back end

    def __init__(self, keys: KeysCollection, prob: float, backend: str, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        _check_number("prob", prob, "it must be a probability in [0, 1]")
        RandomizableTransform.__init__(self, prob)
        check_backend(backend)
        self.pixel_backend = backend
        self.drawn: list[Any] = []

    def draw(self) -> Any:
        """Draw the parameters of one image."""
        raise NotImplementedError

    def change(self, image: Any, drawn: Any, pixels: CpuPixels) -> Any:
        """Transform one ``(3, H, W)`` image with the parameters ``drawn``."""
        raise NotImplementedError

    def randomize(self, data: int) -> None:
        """Draw the parameters of ``data`` images; None for images that are not changed."""
        self.drawn = [self.draw() if self.R.rand() < self.prob else None for _ in range(data)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        present = list(self.key_iterator(result))
        for key in present:
            check_patch(result[key])
        counts = {_count(result[key]) for key in present}
        if len(counts) > 1:
            raise InputError(f"the items {present} contain different numbers of images, {sorted(counts)}")
        if not counts:
            return result
        self.randomize(counts.pop())
        pixels = select_pixels(self.pixel_backend)
        for key in present:
            if all(drawn is None for drawn in self.drawn):
                continue
            images = _images(result[key], pixels)
            changed = [
                image if drawn is None else self.change(image, drawn, pixels)
                for image, drawn in zip(images, self.drawn)
            ]
            result[key] = _give(changed, result[key], pixels)
        return result


class RandSymmetryd(_RandPatchTransform):
    """Apply one of the eight symmetries of the square (flips and right-angle rotations) with equal probability.

    Args:
        keys: keys of ``(3, H, W)`` uint8 patches, or batches ``(N, 3, H, W)`` with independent draws for each image;
            arrays and tensors keep their type and device. All keys of an item get the same symmetry.
        prob: probability that an image is transformed; one of the eight symmetries is the identity.
        backend: ``auto``, ``cpu`` or ``gpu``; see :func:`medi_monai.wsi.pixels.select_pixels`.
        allow_missing_keys: whether an item may lack a key.

    Raises:
        InputError: for invalid settings or patches, or a batch of patches that are not square.
    """

    def __init__(
        self, keys: KeysCollection, prob: float = 1.0, backend: str = "auto", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, prob, backend, allow_missing_keys)

    def draw(self) -> int:
        return int(self.R.randint(8))

    def change(self, image: Any, drawn: int, pixels: CpuPixels) -> Any:
        return pixels.turned(image, drawn % 4, drawn >= 4)


class RandStainJitterd(_RandPatchTransform):
    """Jitter stains: each stain amount ``c`` becomes ``a * c + b`` (Tellez et al. 2018, 2019).

    ``a`` is uniform in [1 - scale, 1 + scale] and ``b`` in [-shift, shift], independently for each stain. In the
    Ruifrok basis, the residual third channel is jittered like hematoxylin and eosin, as in the papers; in the Macenko
    basis, which is estimated from each patch, it is noise and is not changed. If the Macenko basis cannot be estimated,
    the Ruifrok basis is used.

    Args:
        keys: keys of the patches; see :class:`RandSymmetryd`.
        scale: half width of the range of ``a``, in [0, 1].
        shift: half width of the range of ``b``, in optical density (log10) along a stain vector of unit length; by
            default a quarter of ``scale``. The papers use one number for both, in units other than optical density: as
            an optical density, 0.2 would bleach stroma, whose amounts are about 0.3, to white.
        basis: ``ruifrok`` or ``macenko``.
        prob: probability that an image is jittered.
        backend: ``auto``, ``cpu`` or ``gpu``; see :class:`RandSymmetryd`.
        allow_missing_keys: whether an item may lack a key.

    Raises:
        InputError: for invalid settings or patches.
    """

    def __init__(
        self,
        keys: KeysCollection,
        scale: float = 0.05,
        shift: float | None = None,
        basis: str = "ruifrok",
        prob: float = 1.0,
        backend: str = "auto",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, prob, backend, allow_missing_keys)
        _check_number("scale", scale, "stain amounts are multiplied by 1 - scale to 1 + scale; scale must be in [0, 1]")
        shift = scale / 4 if shift is None else shift
        _check_number("shift", shift, "it must be an optical density in [0, 1]")
        if basis not in BASES:
            raise unknown_value("stain basis", basis, BASES)
        self.scale, self.shift, self.basis = scale, shift, basis

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        return self.R.uniform(1 - self.scale, 1 + self.scale, 3), self.R.uniform(-self.shift, self.shift, 3)

    def change(self, image: Any, drawn: tuple[np.ndarray, np.ndarray], pixels: CpuPixels) -> Any:
        scale, shift = drawn
        stains = macenko_stains(image, pixels) if self.basis == "macenko" else None
        if stains is None:
            return jitter_stains(image, scale, shift, RUIFROK, pixels)
        scale, shift = np.append(scale[:2], 1), np.append(shift[:2], 0)
        return jitter_stains(image, scale, shift, full_basis(stains.vectors), pixels)


class StainNormalized(MapTransform):
    """Normalize the stains of patches to a target (Macenko et al. 2009, Reinhard et al. 2001).

    Patches whose statistics cannot be estimated (glass, one stain, one flat color) are unchanged. Each item records
    which patches were normalized, so that they can be counted across the worker processes of a data loader.

    Args:
        keys: keys of the patches; see :class:`RandSymmetryd`.
        target: a :class:`StainTarget`, its JSON form or the path of a JSON file; None for Macenko's standard reference.
        method: ``macenko`` or ``reinhard``, which the target's method must equal; None for any method.
        flag_postfix: postfix of the key, ``<key><flag_postfix>``, that records whether a patch was normalized; ``(N,)``
            for a batch.
        backend: ``auto``, ``cpu`` or ``gpu``; see :class:`RandSymmetryd`.
        allow_missing_keys: whether an item may lack a key.

    Raises:
        InputError: for invalid settings, targets or patches.
    """

    def __init__(
        self,
        keys: KeysCollection,
        target: StainTarget | Mapping | str | os.PathLike | None = None,
        method: str | None = None,
        flag_postfix: str = "_normalized",
        backend: str = "auto",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_backend(backend)
        self.target, self.flag_postfix, self.pixel_backend = load_target(target, method), flag_postfix, backend

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            check_patch(result[key])
            pixels = select_pixels(self.pixel_backend)
            images = _images(result[key], pixels)
            normalized = [self.target.normalize(image, pixels) for image in images]
            is_normalized = np.array([image is not None for image in normalized])
            if is_normalized.any():
                changed = [old if new is None else new for old, new in zip(images, normalized)]
                result[key] = _give(changed, result[key], pixels)
            result[f"{key}{self.flag_postfix}"] = is_normalized if data[key].ndim == 4 else bool(is_normalized[0])
        return result


def patch_transforms(
    keys: KeysCollection = ("image",),
    geometry: bool = True,
    stain_jitter: float = 0.0,
    stain_basis: str = "ruifrok",
    normalize: str | None = None,
    target: StainTarget | Mapping | str | os.PathLike | None = None,
    backend: str = "auto",
    seed: int | None = None,
) -> Compose:
    """Return the transforms that are selected, in this order: normalization, stain jitter, symmetry.

    Args:
        keys: keys of the patches in an item.
        geometry: whether to apply a random symmetry of the square.
        stain_jitter: ``scale`` of :class:`RandStainJitterd`; 0.05 is light, 0.2 strong, 0 none.
        stain_basis: ``ruifrok`` or ``macenko``.
        normalize: ``macenko``, ``reinhard`` or None.
        target: target of the normalization; see :class:`StainNormalized`.
        backend: ``auto``, ``cpu`` or ``gpu``.
        seed: seed of all draws; None uses MONAI's global state (``monai.utils.set_determinism``).

    Raises:
        InputError: for invalid settings.
    """
    if normalize is not None and normalize not in NORMALIZATIONS:
        raise unknown_value("stain normalization", normalize, NORMALIZATIONS)
    if normalize is None and target is not None:
        raise InputError(f"a target needs a normalization: set `normalize` to one of {sorted(NORMALIZATIONS)}")
    jitter = RandStainJitterd(keys, stain_jitter, basis=stain_basis, backend=backend)
    chosen: list[Any] = []
    if normalize is not None:
        chosen.append(StainNormalized(keys, target, normalize, backend=backend))
    if stain_jitter > 0:
        chosen.append(jitter)
    if geometry:
        chosen.append(RandSymmetryd(keys, backend=backend))
    transforms = Compose(chosen)
    if seed is not None:
        transforms.set_random_state(seed=seed_from("patch transforms", seed))
    return transforms


def _check_number(name: str, value: Any, meaning: str) -> None:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise InputError(f"{name} = {value!r}: {meaning}")


def _count(image: Any) -> int:
    return 1 if image.ndim == 3 else len(image)


def _images(item: Any, pixels: CpuPixels) -> list[Any]:
    taken = pixels.take(item.as_tensor() if isinstance(item, MetaTensor) else item)
    return [taken] if taken.ndim == 3 else list(taken)


def _give(changed: list[Any], like: Any, pixels: CpuPixels) -> Any:
    shapes = {image.shape for image in changed}
    if len(shapes) > 1:
        raise InputError(
            f"patches in a batch must be square to be rotated; the rotated patches have the shapes {sorted(shapes)}"
        )
    images = pixels.give(changed[0] if like.ndim == 3 else pixels.xp.stack(changed), like)
    return MetaTensor(images).copy_meta_from(like) if isinstance(like, MetaTensor) else images
