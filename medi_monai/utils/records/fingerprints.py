"""Cached fingerprints of many files, so that results depend on content, not names; unchanged files are read once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG

import pandas as pd

from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import atomic_path, cache_dir, file_fingerprint, json_digest
from medi_monai.utils.progress import progress
from medi_monai.utils.tables import read_parquet

__all__ = ["fingerprints"]

#: columns of the cache: the stat of a file when it was read, and its fingerprint
STAT = ("size", "mtime", "ctime")
THREADS = 8
#: in nanoseconds: a file changed this shortly before it was read may change again with the same time stamp
TICK = 2 * 10**9
#: number of files below which neither a cache nor a progress bar is worthwhile
LEAST_RECORDED, LEAST_SHOWN = 64, 5000


def fingerprints(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Return the :func:`~medi_monai.utils.files.file_fingerprint` of each file; the empty string if it is unreadable.

    Fingerprints are cached (``$MEDI_CACHE``) by size and times of change; a replaced file has another ctime, which
    copying tools cannot set. Without a cache, all files are read.

    Args:
        paths: files, which need not exist.
    """
    names = [os.path.abspath(path) for path in paths]
    if not names:
        return []
    record = _record_of(names)
    known = _read(record)
    # the file of a slide is checked once, however many patches it has
    stats = {name: stat for name in dict.fromkeys(names) if (stat := _stat(name)) is not None}
    read = {name: known[name][3] for name, stat in stats.items() if known.get(name, ())[:3] == stat}
    wanted = [name for name in stats if name not in read]
    if wanted:
        with ThreadPoolExecutor(THREADS) as pool:
            results: Iterable[str] = pool.map(_fingerprint, wanted)
            if len(wanted) >= LEAST_SHOWN:
                results = progress(results, len(wanted), "checking images", "file")
            read |= dict(zip(wanted, results))
        if len(stats) >= LEAST_RECORDED:
            settled = time.time_ns() - TICK
            rows = {name: (*stat, read[name]) for name, stat in stats.items() if stat[2] < settled}
            _write(record, known | rows)
    return [read.get(name, "") for name in names]


def _record_of(names: Sequence[str]) -> Path:
    folder = os.path.commonpath([os.path.dirname(name) for name in names])
    return cache_dir() / "fingerprints" / f"{json_digest(folder)[:16]}.parquet"


def _stat(name: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(name)
    except (OSError, ValueError):
        return None
    # opening a pipe would block
    return None if not S_ISREG(stat.st_mode) else (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _fingerprint(name: str) -> str:
    try:
        return file_fingerprint(name)
    except OSError:
        return ""


def _read(record: Path) -> dict[str, tuple[int, int, int, str]]:
    try:
        table = read_parquet(record)
        rows = zip(*(table[name].tolist() for name in (*STAT, "fingerprint")))
        return dict(zip(table["path"].tolist(), rows))
    except (OSError, ValueError, KeyError):
        # no cache yet, or an unusable one: it is created again
        return {}


def _write(record: Path, rows: dict[str, tuple[int, int, int, str]]) -> None:
    table = pd.DataFrame([(name, *row) for name, row in rows.items()], columns=["path", *STAT, "fingerprint"])
    try:
        with atomic_path(record) as path:
            table.to_parquet(path, index=False)
    except (OSError, InputError, RunStopped):
        # without a writable cache, the run is only slower
        return
