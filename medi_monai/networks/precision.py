"""Choose the precision of a network's arithmetic: the number format that is fast on a device."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch

__all__ = [
    "PRECISIONS",
    "Hardware",
    "Precision",
    "choose_precision",
    "dtype_of",
    "fast_precision",
    "measured_gain",
    "probe",
]

#: number formats; ``float32`` means without autocast
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
#: CPU features, under their names in PyTorch, that compute matrix products in bfloat16
CPU_FEATURES = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
#: environment variables that prevent oneDNN from using instructions that the CPU has
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
#: lowest compute capabilities of NVIDIA GPUs with bfloat16, and with float16, in their tensor cores
BFLOAT16_SINCE, FLOAT16_SINCE = (8, 0), (7, 0)
#: if the speed of a format is measured, it has to be this many times as fast as float32
LEAST_GAIN = 1.2
#: side of the square matrices that are multiplied in this measurement
SIDE = 512


@dataclass(frozen=True)
class Precision:
    """A number format, and why it was chosen.

    Args:
        name: one of :data:`PRECISIONS`.
        reason: reason in words, without the name of the format.
    """

    name: str
    reason: str = ""


@dataclass(frozen=True)
class Hardware:
    """What is known about the arithmetic of a device.

    Args:
        kind: ``cpu``, ``cuda``, or another type of PyTorch device.
        features: CPU features by their names in PyTorch; empty if unknown.
        capability: compute capability of an NVIDIA GPU; None for other devices.
        doubt: why the features do not show which format is fast; None if they do.
    """

    kind: str
    features: Mapping[str, bool] = field(default_factory=dict)
    capability: tuple[int, int] | None = None
    doubt: str | None = None


def dtype_of(name: str) -> torch.dtype:
    """Return the PyTorch type of a format in :data:`PRECISIONS`."""
    return PRECISIONS[name]


def probe(device: str | torch.device) -> Hardware:
    """Return what PyTorch knows about a device."""
    device = torch.device(device)
    if device.type == "cuda":
        # the capability of an AMD GPU has a different meaning
        return Hardware("cuda", capability=None if torch.version.hip else torch.cuda.get_device_capability(device))
    if device.type != "cpu":
        return Hardware(device.type)
    limit = next((f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)), None)
    if sys.platform == "darwin":
        limit = "macOS"
    elif not torch.backends.mkldnn.is_available():
        limit = "no oneDNN"
    return Hardware("cpu", getattr(torch.cpu, "get_capabilities", dict)(), doubt=limit)


def choose_precision(hardware: Hardware, gain: Callable[[str], float | None], allow_float16: bool = True) -> Precision:
    """Return the format in which a network computes fastest, and why.

    This is bfloat16 if the hardware has it, float16 on older GPUs, otherwise float32. If the features do not show which
    is fast, each format is measured and has to be :data:`LEAST_GAIN` times as fast as float32.

    Args:
        hardware: what is known about the device.
        gain: function that returns, for the name of a format, how many times as fast as in float32 matrix products are;
            None if that cannot be measured.
        allow_float16: whether float16 may be chosen; training in it needs a scaled loss.
    """
    if hardware.capability is not None:
        name = f"compute capability {hardware.capability[0]}.{hardware.capability[1]}"
        if hardware.capability >= BFLOAT16_SINCE:
            return Precision("bfloat16", name)
        if hardware.capability >= FLOAT16_SINCE:
            why = f"{name} has no bfloat16"
            return Precision("float16", why) if allow_float16 else Precision("float32", f"{why}, and no float16 here")
        return _measured(("float16",) if allow_float16 else (), gain, f"{name} has no bfloat16")
    if hardware.kind == "cpu":
        known = [name for name in CPU_FEATURES if hardware.features.get(name)]
        if hardware.features and not known:
            return Precision("float32", "the CPU has no bfloat16 instructions")
        if known and hardware.doubt is None:
            return Precision("bfloat16", f"the CPU has {known[0]}")
        return _measured(("bfloat16",), gain, hardware.doubt)
    return _measured(("bfloat16", *(("float16",) if allow_float16 else ())), gain, hardware.doubt)


def _measured(names: tuple[str, ...], gain: Callable[[str], float | None], doubt: str | None) -> Precision:
    start = f"{doubt}; " if doubt else ""
    texts = []
    for name in names:
        ratio = gain(name)
        if ratio is None:
            texts.append(f"{name} was not measured")
            continue
        texts.append(f"{name} measured {ratio:.2g} times as fast as float32")
        if ratio >= LEAST_GAIN:
            return Precision(name, start + f"measured {ratio:.2g} times as fast as float32")
    return Precision("float32", start + ", ".join(texts) if texts else (doubt or "as given"))


@cache
def measured_gain(device: str, name: str) -> float | None:
    """Measure how many times as fast as in float32 a device multiplies matrices in a format; 0 if it cannot.

    The result is None in one of several processes of ``torchrun``, because their results could differ.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    try:
        return _seconds(device, torch.float32) / _seconds(device, dtype_of(name))
    except (RuntimeError, NotImplementedError, TypeError):
        return 0.0


def _seconds(device: str, dtype: torch.dtype) -> float:
    left = torch.ones(SIDE, SIDE, device=device).to(dtype)
    times = []
    # four products, because the first one also builds the kernel and is not counted
    for _ in range(4):
        start = time.perf_counter()
        # reading a number waits for the device
        float((left @ left)[0, 0])
        times.append(time.perf_counter() - start)
    return min(times[1:])


@cache
def fast_precision(device: str, allow_float16: bool = True) -> Precision:
    """Return the format in which a device, such as ``cpu`` or ``cuda:0``, computes fastest, and why."""
    return choose_precision(probe(device), lambda name: measured_gain(device, name), allow_float16)
