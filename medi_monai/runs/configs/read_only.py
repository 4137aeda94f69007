"""Handle bundles installed by an administrator: the models and output of users go to a folder in their home."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medi_monai.utils.files import writable_dir

__all__ = ["own_root", "redirected"]

#: folders of a bundle that runs write to; and settings whose folders only a training writes to
WRITTEN, READ = ("models", "output"), ("ckpt_dir", "classifier_dir")
ROOT, OWN_ROOT = "@bundle_root", "own_root"


def own_root(root: Path, name: str) -> Path | None:
    """Return a folder of the user to write to in place of a bundle that cannot be written; None if the bundle can.

    Args:
        root: folder of the bundle.
        name: name of the bundle, which becomes that of the folder.

    Returns:
        ``~/medi_monai/<name>``, or ``medi_monai/<name>`` in the current folder if there is no home folder or it cannot
        be written.

    Raises:
        InputError: if that folder cannot be written either.
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
    """Return a config whose models and output are in ``own`` instead of the bundle.

    If the bundle contains models and the user has none, all runs except ``training`` read those of the bundle.

    Args:
        config: merged config.
        root: folder of the bundle.
        own: folder of the user.
        run_id: id of the run.
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
    # the functions of experiments need the folder of the bundle itself, because its configs are there
    if not isinstance(value, str) or "_run(@bundle_root" in value:
        return value
    return value.replace(ROOT, f"@{OWN_ROOT}")
