"""Show progress: a live bar on a terminal, occasional lines in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

__all__ = ["progress", "bar_settings"]

Item = TypeVar("Item")


def bar_settings() -> dict:
    """Return the settings of a tqdm bar: ten updates per second on a terminal, one every ten seconds in a log file."""
    live = sys.stderr.isatty()
    return {"mininterval": 0.1 if live else 10.0, "dynamic_ncols": live, "ascii": None if live else " #"}


def progress(items: Iterable[Item], total: int, task: str, unit: str) -> Iterable[Item]:
    """Pass ``items`` through and show how many of ``total`` are done.

    Args:
        items: items to process.
        total: number of items.
        task: description of the task, such as "writing the demo slides".
        unit: name of an item, singular.
    """
    return tqdm(items, total=total, desc=task, unit=unit, **bar_settings())
