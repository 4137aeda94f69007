"""Compute fingerprints of many files, with a cache, so that unchanged files are read only once."""

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

#: columns of the cache with the status of a file when it was read, in addition to its fingerprint
STAT = ("size", "mtime", "ctime")
THREADS = 8
#: time in nanoseconds; a file that changed this shortly before it was read may change again with the same time stamp
TICK = 2 * 10**9
#: minimum numbers of files for which the cache is written, and for which a progress bar is shown
LEAST_RECORDED, LEAST_SHOWN = 64, 5000


def fingerprints(paths: Sequence[str | os.PathLike]) -> list[str]:
    """Return the :func:`~medi_monai.utils.files.file_fingerprint` of each file; the empty string if it is unreadable.

    Fingerprints are cached (``$MEDI_CACHE``) with the size and times of change of a file; a replaced file has a
    different ctime, which copying tools cannot set. If the cache cannot be used, all files are read.

    Args:
        paths: files, which need not exist.
    """
    names = [os.path.abspath(path) for path in paths]
    if not names:
        return []
    record = _record_of(names)
    known = _read(record)
    # each file is checked once, as a slide may be listed for many patches
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
    # only regular files, because opening a pipe would block
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
        # the cache does not exist or is unusable: it is created again
        return {}


def _write(record: Path, rows: dict[str, tuple[int, int, int, str]]) -> None:
    table = pd.DataFrame([(name, *row) for name, row in rows.items()], columns=["path", *STAT, "fingerprint"])
    try:
        with atomic_path(record) as path:
            table.to_parquet(path, index=False)
    except (OSError, InputError, RunStopped):
        # if the cache cannot be written, runs are only slower
        return
