"""The arithmetic of the patch transforms: NumPy and scikit-image on the CPU, CuPy and cuCIM on the GPU."""

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
        """The array behind a NumPy array or torch tensor; what is on the host is not copied."""
        if isinstance(image, torch.Tensor):
            return image.detach().cpu().numpy()
        if isinstance(image, np.ndarray):
            return np.asarray(image)
        raise InputError(f"a patch of type {type(image).__name__} needs the back end 'gpu'")

    def give(self, pixels: Any, like: Any) -> Any:
        """``pixels`` in the type and on the device of ``like``."""
        return torch.from_numpy(pixels).to(like.device) if isinstance(like, torch.Tensor) else pixels

    def density(self, pixels: Any) -> Any:
        """float32 optical density of uint8 pixels, by a table of the 256 values."""
        return np.take(_DENSITY, pixels)

    def from_density(self, density: Any) -> Any:
        """uint8 pixels of an optical density."""
        return from_optical_density(density)

    def lab(self, pixels: Any) -> Any:
        """float32 CIELAB (D65) of uint8 sRGB pixels."""
        return np.ascontiguousarray(rgb2lab(pixels.astype(np.float32) / 255, channel_axis=0))

    def from_lab(self, lab: Any) -> Any:
        """uint8 sRGB pixels of CIELAB values; what lies outside the gamut is clipped."""
        return np.rint(lab2rgb(lab, channel_axis=0) * 255).astype(np.uint8)

    def turned(self, pixels: Any, turns: int, mirrored: bool) -> Any:
        """Mirrored left to right, or not, then turned by ``turns`` right angles counterclockwise."""
        pixels = pixels[..., ::-1] if mirrored else pixels
        return np.ascontiguousarray(np.rot90(pixels, turns, axes=(1, 2)))


class GpuPixels(CpuPixels):
    """Pixels as CuPy arrays, through cuCIM; a CUDA tensor comes and goes without a copy.

    The random operations of cuCIM, and so MONAI's ``RandCuCIMd``, draw from a generator of their own that no seed
    reaches. So the transforms draw, on the host, and cuCIM's operations without chance do the work.
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
        # I + 1 of 256, as on the CPU: cuCIM's own clipping then changes black alone, by 0.4 % of one level
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
    """Raise what :func:`select_pixels` would, but leave the device alone where it is not asked for by name."""
    if backend not in BACKENDS:
        raise unknown_value("back end of the transforms", backend, BACKENDS)
    if backend == "gpu":
        select_pixels(backend)


def select_pixels(backend: str) -> CpuPixels:
    """The arithmetic for a choice of back end.

    Args:
        backend: ``cpu``; ``gpu``; or ``auto``, which takes the GPU where CuPy, cuCIM and a CUDA device are there, and
            the CPU in the worker processes of a loader, to which a CUDA device is closed once they are forked.

    Raises:
        InputError: for an unknown choice, or ``gpu`` where something lacks; the message says what.
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
    """Why the GPU cannot be used in this process; empty where it can."""
    return _obstacle(os.getpid())


@functools.cache
def _obstacle(process: int) -> str:
    # asked once in every process, for a forked one inherits the answer of its parent but not the device
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
