"""A bundle that an administrator has installed: models and output of its users go to a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medi_monai.utils.files import writable_dir

__all__ = ["own_root", "redirected"]

#: folders of a bundle that runs write to; settings with folders that only a training writes to
WRITTEN, READ = ("models", "output"), ("ckpt_dir", "classifier_dir")
ROOT, OWN_ROOT = "@bundle_root", "own_root"


def own_root(root: Path, name: str) -> Path | None:
    """A folder of the user in place of a bundle that cannot be written; None for a bundle that can.

    Args:
        root: folder of the bundle.
        name: of the bundle, which that of the folder becomes.

    Returns:
        ``~/medi_monai/<name>``, or ``medi_monai/<name>`` in the current folder where there is no home.

    Raises:
        InputError: where that cannot be written either.
    """
    writable = [path for path in (root, *(root / name for name in WRITTEN)) if os.access(path, os.W_OK)]
    if writable or not root.is_dir():
        return None
    try:
        home = Path.home()
    except RuntimeError:
        home = Path.cwd()
    if not home.is_dir() or not os.access(home, os.W_OK):
        home = Path.cwd()
    return writable_dir(home / "medi_monai" / name)


def redirected(config: Mapping[str, Any], root: Path, own: Path, run_id: str | None) -> dict[str, Any]:
    """A config whose models and output are in ``own`` instead of the bundle; its configs stay where they are.

    Models that the bundle brings are read there, as long as the user has none.

    Args:
        config: merged.
        root: folder of the bundle.
        own: folder of the user.
        run_id: the run; a training writes what others read.
    """
    brought = run_id != "training" and (root / "models").is_dir() and not (own / "models").is_dir()
    kept = READ if brought else ()
    changed = {name: value if name in kept else _with_own_root(value) for name, value in config.items()}
    return {**changed, OWN_ROOT: f"${ascii(str(own))}"}


def _with_own_root(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_own_root(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_own_root(item) for item in value]
    # an experiment starts its stages from the configs of the bundle
    if not isinstance(value, str) or "_run(@bundle_root" in value:
        return value
    return value.replace(ROOT, f"@{OWN_ROOT}")
