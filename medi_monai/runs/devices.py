"""Check the device of a run, and describe its device, precision and threads in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from medi_monai.networks.precision import PRECISIONS, Precision, fast_precision
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json
from medi_monai.utils.settings import Words

__all__ = ["Device", "device_line", "precision_of", "threads_text"]

#: environment variables that determine how many threads PyTorch uses
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def _is_device(value: Any) -> Any:
    try:
        torch.empty(1, device=value).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        known = "cuda (or cuda:0, …) and cpu" if torch.cuda.is_available() else "cpu; PyTorch finds no GPU"
        raise InputError(f"device {str(value)!r} is not available: {known}") from error
    return value


Device = Annotated[Any, AfterValidator(_is_device), Words("cpu, cuda, or a GPU such as cuda:0")]


def device_line(groups: Mapping[str, Any]) -> str | None:
    """Describe what a run computes with, and why.

    Args:
        groups: checked settings of the run by group.

    Returns:
        A line such as ``device cpu (PyTorch finds no GPU), float32 (amp false), 2 threads (of 8 cores)``; None if the
        run has no device.
    """
    values = _values(groups)
    if values.get("device") is None:
        return None
    device = torch.device(values["device"])
    parts = [f"device {device} ({_why(device)})"]
    if "amp" in values:
        precision = precision_of(values["amp"], groups)
        parts.append(f"{precision.name} ({precision.reason})")
    if device.type == "cpu":
        parts.append(threads_text())
    return ", ".join(parts)


def _values(groups: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for group in groups.values() for name, value in dict(group).items()}


def _why(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return "although there is a GPU" if torch.cuda.is_available() else "PyTorch finds no GPU"
    return "as given"


def precision_of(
    amp: bool | str, groups: Mapping[str, Any], fastest: Callable[[str, bool], Precision] = fast_precision
) -> Precision:
    """Return the precision of a run's network according to its setting ``amp``, with the reason.

    With ``amp: auto``, resumed training keeps the precision recorded in ``model.json``.

    Args:
        amp: value of the setting: ``auto``, true or false.
        groups: checked settings of the run by group.
        fastest: function that returns the precision in which a device computes fastest; its second argument allows
            float16.
    """
    values = _values(groups)
    device = torch.device(values["device"])
    if amp == "auto":
        unscaled = any(getattr(group, "unscaled_gradients", False) for group in groups.values())
        if values.get("resume") and not unscaled:
            earlier = _recorded(values["ckpt_dir"])
            if earlier is not None:
                return Precision(earlier, "amp auto: as before in this training")
        chosen = fastest(str(device), not unscaled)
        return Precision(chosen.name, f"amp auto: {chosen.reason}")
    if not amp:
        return Precision("float32", "amp false")
    name = {"cpu": "CPU", "cuda": "GPU"}.get(device.type, "device")
    chosen = fastest(str(device), True)
    slow = f"; this {name} is not fast in it: {chosen.reason}; --amp auto takes {chosen.name}"
    return Precision("bfloat16", "amp true" + (slow if chosen.name != "bfloat16" else ""))


def _recorded(ckpt_dir: str) -> str | None:
    try:
        name = read_json(Path(ckpt_dir) / "model.json").get("precision")
    except (InputError, OSError, AttributeError):
        # an unusable folder is reported when the training is resumed
        return None
    return name if name in PRECISIONS else None


def threads_text() -> str:
    """Return the number of threads that PyTorch uses on the CPU, and why."""
    count = torch.get_num_threads()
    variable = next((f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name)), None)
    return f"{count} thread{'s' * (count > 1)} ({variable or f'of {os.cpu_count()} cores'})"
