"""Version of this code, with the commit if it runs from a repository."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from medi_monai import __version__

__all__ = ["code_version"]

ROOT = Path(__file__).resolve().parents[2]
GIT = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]


@functools.cache
def code_version() -> str:
    """Return the version, such as ``0.1.0 (commit 1a2b3c4)``, with ``-dirty`` if files changed since the commit."""
    if not (ROOT / ".git").exists():
        return __version__
    try:
        done = subprocess.run(GIT, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} (commit {done.stdout.strip()})"
