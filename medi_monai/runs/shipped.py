"""What comes with the package besides code: bundles, overlays and constraints, in a checkout or an installed wheel.

``setup.py`` copies them into the wheel, to ``medi_monai/shipped``. In a checkout, they are next to the package.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from medi_monai.utils.errors import InputError

__all__ = ["PATHOLOGY_BUNDLE", "copy_shipped", "find_bundle", "shipped_dir"]

PATHOLOGY_BUNDLE = "pathology_medi_diffusion"
PACKAGE = Path(__file__).resolve().parents[1]
#: folders and files that are shipped, as in setup.py
SHIPPED = ("bundles", "configs", "constraints.txt", "constraints-cucim.txt")
#: what runs write into bundles
WRITTEN = shutil.ignore_patterns("output", "__pycache__", "*.pyc")


def shipped_dir() -> Path:
    """Return the folder of ``bundles``, ``configs`` and the constraints.

    Raises:
        InputError: if the package was installed without them.
    """
    places = (PACKAGE / "shipped", PACKAGE.parent)
    for place in places:
        if (place / "bundles").is_dir():
            return place
    raise InputError(
        f"medi_monai in {PACKAGE} was installed without its bundles; install the wheel, or "
        "`pip install .` in the repository"
    )


def find_bundle(name: str) -> Path:
    """Return the folder of a bundle: ``bundles/<name>`` in the working directory, else the one that is shipped."""
    here = Path("bundles") / name
    return here if here.is_dir() else shipped_dir() / "bundles" / name


def copy_shipped(folder: Path) -> list[Path]:
    """Copy the bundles, overlays and constraints to a folder, which is created if necessary.

    Returns:
        the copies.

    Raises:
        InputError: if one of them exists already, or cannot be written; then nothing is copied.
    """
    source = shipped_dir()
    copies = {source / name: folder / name for name in SHIPPED if (source / name).exists()}
    taken = [str(copy) for copy in copies.values() if copy.exists() or copy.is_symlink()]
    if taken:
        raise InputError(f"{taken[0]} exists and is not overwritten: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, copy in copies.items():
            shutil.copytree(path, copy, ignore=WRITTEN) if path.is_dir() else shutil.copy(path, copy)
    except OSError as error:
        for copy in copies.values():
            with suppress(OSError):
                shutil.rmtree(copy) if copy.is_dir() else copy.unlink(missing_ok=True)
        raise InputError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder") from None
    return list(copies.values())
