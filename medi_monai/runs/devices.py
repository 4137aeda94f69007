"""The device of a run, its precision and its threads: checked, and said in one line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import Words

__all__ = ["Device", "device_line"]

#: variables that decide how many threads PyTorch takes
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
    """What a run computes with and why, as ``device cpu (PyTorch finds no GPU), float32 (amp false), 2 threads``.

    Args:
        groups: the groups of settings of the run, checked.

    Returns:
        None where the run has no device.
    """
    values = {name: value for group in groups.values() for name, value in dict(group).items()}
    if values.get("device") is None:
        return None
    device = torch.device(values["device"])
    parts = [f"device {device} ({_why(device)})"]
    if "amp" in values:
        parts.append(_precision(device, values["amp"]))
    if device.type == "cpu":
        parts.append(_threads())
    return ", ".join(parts)


def _why(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return "although there is a GPU" if torch.cuda.is_available() else "PyTorch finds no GPU"
    return "as given"


def _precision(device: torch.device, amp: bool) -> str:
    if not amp:
        return "float32 (amp false)"
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16 (amp true)" if native else "bfloat16, which this GPU emulates (--amp false may be faster)"
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities and not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")):
        return "bfloat16, for which this CPU has no instructions (--amp false may be faster)"
    return "bfloat16 (amp true)"


def _threads() -> str:
    count = torch.get_num_threads()
    variable = next((f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name)), None)
    return f"{count} thread{'s' * (count > 1)} ({variable or f'of {os.cpu_count()} cores'})"
