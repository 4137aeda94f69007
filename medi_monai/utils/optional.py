"""Optional packages, probed here alone and only when they are needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from medi_monai.utils.errors import InputError

__all__ = ["EXTRAS", "is_installed", "require"]

#: extra of ``pip install "medi_monai[extra]"`` that brings each optional package
EXTRAS = {
    "cucim": "cucim",
    "generative": "generative",
    "timm": "encoders",
    "torch_fidelity": "encoders",
    "transformers": "text",
    "peft": "text",
    "mlflow": "mlflow",
}


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported; nothing is imported to find out."""
    return find_spec(package) is not None


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: import name, a key of :data:`EXTRAS`.
        purpose: what it is needed for, as the end of the sentence "X is needed …".

    Raises:
        InputError: if the package is not installed; the message names the ``pip install`` that brings it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        extra = EXTRAS.get(package)
        remedy = f'pip install "medi_monai[{extra}]"' if extra else f"pip install {package}"
        raise InputError(
            f"{package} is needed {purpose}, and cannot be imported ({error}). Remedy: {remedy}"
        ) from error
