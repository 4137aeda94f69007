"""The command ``medi-monai doctor``: what is installed, what this machine computes with, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from medi_monai import __version__
from medi_monai.networks.encoders.build import ENCODERS, PACKAGES
from medi_monai.networks.encoders.timm_models import TIMM_MODELS, has_cached_weights
from medi_monai.networks.precision import fast_precision
from medi_monai.runs.devices import threads_text
from medi_monai.runs.shipped import shipped_dir
from medi_monai.utils.errors import InputError, one_line
from medi_monai.utils.optional import EXTRAS, GIVES, extra_command, is_installed
from medi_monai.utils.run_dir import package_versions
from medi_monai.utils.sizes import machine_memory, size_text
from medi_monai.utils.text import listed
from medi_monai.wsi.readers import cucim_version, openslide_version

__all__ = ["Line", "diagnose", "print_diagnosis"]

#: free space in bytes below which there is a warning: what the demo and its report take
LEAST_FREE = 2e9
#: encoders whose weights are downloaded, unless their path is given
DOWNLOADED = (*TIMM_MODELS, "inception")

State: TypeAlias = Literal["ok", "missing", "problem"]
MARKS: dict[State, str] = {"ok": "", "missing": "-", "problem": "!"}


@dataclass(frozen=True)
class Line:
    """One line of the diagnosis.

    Args:
        topic: what the line is about.
        text: what was found and, if something is wrong, the remedy.
        state: ``missing`` is optional, ``problem`` is not.
    """

    topic: str
    text: str
    state: State = "ok"


def print_diagnosis() -> bool:
    """Print the diagnosis, and return whether everything that is necessary works."""
    topic, lines = "", diagnose()
    for line in lines:
        shown = line.topic if line.topic != topic else ""
        topic = line.topic
        print(f"{shown:<11}{MARKS[line.state]:<2}{line.text}")
    problems = [line for line in lines if line.state == "problem"]
    print("\nAll that is necessary works." if not problems else "\nLines with ! need your attention.")
    return not problems


def diagnose() -> list[Line]:
    """Look at the packages, the device, the disk and the optional parts; what cannot be found out is a problem."""
    lines: list[Line] = []
    for topic, look in TOPICS.items():
        try:
            lines += [Line(topic, text, state) for text, state in look()]
        except Exception as error:  # a diagnosis that fails is one
            lines.append(Line(topic, f"cannot be examined: {one_line(error)}", "problem"))
    return lines


Found: TypeAlias = Iterator[tuple[str, State]]


def _versions() -> Found:
    yield f"medi_monai {__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}", "ok"
    yield listed([f"{package} {number}" for package, number in package_versions().items()]), "ok"
    yield f"bundles and overlays: {shipped_dir()}", "ok"


def _device() -> Found:
    yield f"CPU: {threads_text()}, {size_text(machine_memory())} of memory", "ok"
    for number in range(torch.cuda.device_count()):
        memory = size_text(machine_memory(f"cuda:{number}"))
        yield f"cuda:{number}: {torch.cuda.get_device_name(number)}, {memory}", "ok"
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            yield "no GPU", "missing"
        elif torch.version.cuda is None:
            yield f"PyTorch {torch.__version__} is a build without CUDA: see https://pytorch.org/get-started", "problem"
        else:
            yield f"PyTorch for CUDA {torch.version.cuda} finds no GPU: compare with nvidia-smi", "problem"


def _precision() -> Found:
    for device in ("cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))):
        precision = fast_precision(device)
        yield f"{device}: {precision.name} ({precision.reason})", "ok"


def _slides() -> Found:
    yield f"OpenSlide {openslide_version()}", "ok"
    if is_installed("cucim"):
        try:
            yield f"cuCIM {cucim_version()}", "ok"
        except InputError as error:
            yield one_line(error), "problem"


def _encoders() -> Found:
    installed = [name for name in ENCODERS if name not in PACKAGES or is_installed(PACKAGES[name])]
    ready = [name for name in installed if name not in DOWNLOADED or name in TIMM_MODELS and has_cached_weights(name)]
    yield f"ready: {listed(ready)}", "ok"
    absent = [name for name in installed if name not in ready]
    if absent:
        yield f"without weights, which the first use downloads: {listed(absent)}", "missing"


def _disk() -> Found:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    writable = os.access(here, os.W_OK)
    text = f"{size_text(free)} free in {here}"
    if not writable:
        yield f"{text}, which is not writable: runs write where output_dir says", "problem"
    else:
        yield text, "ok" if free >= LEAST_FREE else "problem"


def _extras() -> Found:
    needed = {extra: [package for package, of in EXTRAS.items() if of == extra] for extra in GIVES}
    absent = [extra for extra, packages in needed.items() if not all(map(is_installed, packages))]
    installed = [extra for extra in GIVES if extra not in absent]
    if installed:
        yield f"installed: {listed(installed)}", "ok"
    for extra in absent:
        yield f"{extra}: {GIVES[extra]}. Install: {extra_command(extra)}", "missing"


#: topics of the diagnosis, in order
TOPICS: dict[str, Callable[[], Found]] = {
    "versions": _versions,
    "device": _device,
    "precision": _precision,
    "slides": _slides,
    "encoders": _encoders,
    "disk": _disk,
    "extras": _extras,
}
