"""Estimate memory, disk space and time, and refuse settings that need more than the machine has."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch

from medi_monai.utils.errors import InputError

__all__ = ["check_addresses", "check_disk", "check_memory", "machine_memory", "size_text", "time_text"]

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

#: files with the memory limit of a container, in versions 2 and 1 of control groups
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
#: bytes of address space that a run needs beyond its imports; PyTorch's native code crashes if a thread gets none
LEAST_ADDRESSES = 1e9
SECONDS = {"years": 365.25 * 86400, "days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def size_text(num_bytes: float) -> str:
    """Format a number of bytes, such as ``3.2 GB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} EB" if num_bytes < 1000 else f"{num_bytes:,.0f} EB"


def time_text(seconds: float) -> str:
    """Format a number of seconds, such as ``3.2 days``."""
    unit, length = next(((unit, length) for unit, length in SECONDS.items() if seconds >= length), ("seconds", 1.0))
    count = seconds / length
    for word, power in (("billion ", 1e9), ("million ", 1e6)):
        if count >= 10 * power:
            return f"{count / power:,.0f} {word}{unit}" if count < 1e15 else f"{count:.0e} {unit}"
    return f"{count:,.0f} {unit}" if count >= 10 else f"{count:.2g} {unit}"


def machine_memory(device: str | torch.device = "cpu") -> float:
    """Return the most memory a run can use, in bytes: of the GPU, or of the machine within its limits."""
    device = torch.device(device)
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    limits = []
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text()))
    if resource is not None:
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [soft] if soft != resource.RLIM_INFINITY else []
    return float(min(limits, default=float("inf")))


def check_addresses() -> None:
    """Refuse to run if the limit of address space (``ulimit -v``) leaves too little.

    Raises:
        InputError: if the limit is too low; the message has the limit and what is needed.
    """
    pages = Path("/proc/self/statm")
    if resource is None or not pages.is_file():
        return
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY:
        return
    taken = int(pages.read_text().split()[0]) * resource.getpagesize()
    if soft - taken < LEAST_ADDRESSES:
        raise InputError(
            f"the limit of address space (ulimit -v) is {size_text(soft)}, of which Python and PyTorch take "
            f"{size_text(taken)}: allow at least {size_text(taken + LEAST_ADDRESSES)}"
        )


def check_memory(what: str, num_bytes: float, remedy: str, device: str | torch.device = "cpu") -> None:
    """Refuse settings that need more memory than there is, before it is allocated.

    Args:
        what: the settings and their values, as the subject of a sentence.
        num_bytes: lower bound of the memory that they need, in bytes.
        remedy: sentence that says what to change.
        device: device whose memory is needed.

    Raises:
        InputError: if there is too little memory; the message has both numbers.
    """
    available = machine_memory(device)
    if num_bytes > available:
        raise InputError(
            f"{what}: this takes at least {size_text(num_bytes)} of memory, and {device} has {size_text(available)}. "
            f"{remedy}"
        )


def check_disk(what: str, num_bytes: float, folder: str | os.PathLike, remedy: str) -> None:
    """Refuse settings that need more space than the disk of ``folder`` has, before anything is written.

    Args:
        what: the settings and their values, as the subject of a sentence.
        num_bytes: lower bound of the space that they need, in bytes.
        folder: folder to write to; it need not exist.
        remedy: sentence that says what to change.

    Raises:
        InputError: if there is too little space; the message has both numbers.
    """
    existing = Path(folder).absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return
    if num_bytes > free:
        raise InputError(
            f"{what}: this takes at least {size_text(num_bytes)} on disk, and {size_text(free)} are free in {folder}. "
            f"{remedy}"
        )
