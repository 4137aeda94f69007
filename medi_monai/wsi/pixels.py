"""Arithmetic for the patch transforms: NumPy and scikit-image on the CPU, CuPy and cuCIM on the GPU."""

from __future__ import annotations

import functools
import math
import os
from importlib import import_module
from typing import Any

import numpy as np
import torch
from skimage.color import lab2rgb, rgb2lab

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.optional import is_installed, quiet_stderr
from medi_monai.wsi.color import from_optical_density, optical_density

__all__ = ["BACKENDS", "CpuPixels", "GpuPixels", "check_backend", "gpu_obstacle", "select_pixels"]

BACKENDS = ("auto", "cpu", "gpu")
_LN10 = math.log(10)
_DENSITY = optical_density(np.arange(256, dtype=np.uint8))


class CpuPixels:
    """Pixels as NumPy arrays; all images are ``(3, H, W)``."""

    name = "cpu"
    xp: Any = np

    def take(self, image: Any) -> Any:
        """Return a NumPy array or CPU tensor as an array, without copying."""
        if isinstance(image, torch.Tensor):
            return image.detach().cpu().numpy()
        if isinstance(image, np.ndarray):
            return np.asarray(image)
        raise InputError(f"a patch of type {type(image).__name__} needs the back end 'gpu'")

    def give(self, pixels: Any, like: Any) -> Any:
        """Return ``pixels`` in the type and on the device of ``like``."""
        return torch.from_numpy(pixels).to(like.device) if isinstance(like, torch.Tensor) else pixels

    def density(self, pixels: Any) -> Any:
        """Return the float32 optical density of uint8 pixels, from a table of the 256 values."""
        return np.take(_DENSITY, pixels)

    def from_density(self, density: Any) -> Any:
        """Return the uint8 pixels of an optical density."""
        return from_optical_density(density)

    def lab(self, pixels: Any) -> Any:
        """Convert uint8 sRGB pixels to float32 CIELAB (D65)."""
        return np.ascontiguousarray(rgb2lab(pixels.astype(np.float32) / 255, channel_axis=0))

    def from_lab(self, lab: Any) -> Any:
        """Convert CIELAB values to uint8 sRGB pixels; colors outside the gamut are clipped."""
        return np.rint(lab2rgb(lab, channel_axis=0) * 255).astype(np.uint8)

    def turned(self, pixels: Any, turns: int, mirrored: bool) -> Any:
        """Mirror images left to right if ``mirrored``, then rotate them counterclockwise by ``turns`` right angles."""
        pixels = pixels[..., ::-1] if mirrored else pixels
        return np.ascontiguousarray(np.rot90(pixels, turns, axes=(1, 2)))


class GpuPixels(CpuPixels):
    """Pixels as CuPy arrays, processed by cuCIM; CUDA tensors are passed in and out without copies.

    The random operations of cuCIM, and therefore MONAI's ``RandCuCIMd``, use a generator that cannot be seeded. The
    transforms therefore draw their parameters on the host and use only deterministic operations of cuCIM.
    """

    name = "gpu"

    def __init__(self) -> None:
        with quiet_stderr():
            self.xp = import_module("cupy")
            self._color = import_module("cucim.core.operations.color")
            self._spatial = import_module("cucim.core.operations.spatial")
            self._spaces = import_module("cucim.skimage.color")

    def take(self, image: Any) -> Any:
        if not isinstance(image, torch.Tensor):
            return self.xp.asarray(image)
        image = image.detach()
        return self.xp.from_dlpack(image) if image.is_cuda else self.xp.asarray(image.numpy())

    def give(self, pixels: Any, like: Any) -> Any:
        if isinstance(like, torch.Tensor) and like.is_cuda:
            return torch.from_dlpack(pixels)
        if isinstance(like, (torch.Tensor, np.ndarray)):
            return super().give(self.xp.asnumpy(pixels), like)
        return pixels

    def density(self, pixels: Any) -> Any:
        # (I + 1) / 256, as on the CPU: with this, cuCIM's clipping changes only black, by 0.4% of one level
        return self._color.image_to_absorbance(pixels.astype(np.float32) + 1, source_intensity=256.0) / _LN10

    def from_density(self, density: Any) -> Any:
        light = self._color.absorbance_to_image(density * _LN10, source_intensity=256.0, dtype=np.float32) - 1
        return self.xp.clip(self.xp.rint(light), 0, 255).astype(np.uint8)

    def lab(self, pixels: Any) -> Any:
        return self._spaces.rgb2lab(pixels.astype(np.float32) / 255, channel_axis=0)

    def from_lab(self, lab: Any) -> Any:
        return self.xp.rint(self._spaces.lab2rgb(lab, channel_axis=0) * 255).astype(np.uint8)

    def turned(self, pixels: Any, turns: int, mirrored: bool) -> Any:
        pixels = self._spatial.image_flip(pixels, (2,)) if mirrored else pixels
        return self.xp.ascontiguousarray(self._spatial.image_rotate_90(pixels, turns, (1, 2)))


def check_backend(backend: str) -> None:
    """Check a back end as :func:`select_pixels` does, but access the GPU only if it is requested by name."""
    if backend not in BACKENDS:
        raise unknown_value("back end of the transforms", backend, BACKENDS)
    if backend == "gpu":
        select_pixels(backend)


def select_pixels(backend: str) -> CpuPixels:
    """Return the arithmetic of a back end.

    Args:
        backend: ``cpu``; ``gpu``; or ``auto``, which uses the GPU if CuPy, cuCIM and a CUDA device are available, and
            the CPU in the worker processes of a data loader, which cannot use CUDA once they are forked.

    Raises:
        InputError: for an unknown choice, or ``gpu`` if it is not available; the message says why.
    """
    if backend not in BACKENDS:
        raise unknown_value("back end of the transforms", backend, BACKENDS)
    if backend == "cpu" or (backend == "auto" and torch.utils.data.get_worker_info() is not None):
        return _cpu()
    obstacle = gpu_obstacle()
    if obstacle and backend == "gpu":
        raise InputError(
            f"the back end 'gpu' cannot be used: {obstacle}. It needs a CUDA device, cuCIM and CuPy (pip install "
            '"medi_monai[cucim]" installs both), and a process that was not forked (a loader with num_workers=0). '
            "Or choose the back end 'auto' or 'cpu'."
        )
    return _cpu() if obstacle else _gpu(os.getpid())


def gpu_obstacle() -> str:
    """Return why the GPU cannot be used in this process; empty if it can."""
    return _obstacle(os.getpid())


@functools.cache
def _obstacle(process: int) -> str:
    # checked once per process, because a forked process inherits the result of its parent but not the device
    missing = [name for name in ("cupy", "cucim") if not is_installed(name)]
    if missing:
        return f"{' and '.join(missing)} not installed"
    try:
        with quiet_stderr():
            cupy = import_module("cupy")
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "no CUDA device is available"
        cupy.zeros(1)
        _gpu(process)
    except Exception as error:  # CuPy raises errors of several libraries, and ImportError for a missing one
        return f"CUDA cannot be initialized in this process ({type(error).__name__}: {str(error).splitlines()[0]})"
    return ""


@functools.cache
def _cpu() -> CpuPixels:
    return CpuPixels()


@functools.cache
def _gpu(process: int) -> GpuPixels:
    return GpuPixels()
