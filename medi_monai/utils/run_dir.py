"""Folders of runs: lock them during the run, write a summary at the end, and move earlier results aside."""

from __future__ import annotations

import atexit
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from medi_monai import __version__
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import cache_dir, read_json, writable_dir, write_json
from medi_monai.utils.records import RESULTS, check_apart, check_results, foreign_files
from medi_monai.utils.records.results import SUMMARY
from medi_monai.utils.text import listed
from medi_monai.utils.workers import LOCK_FILES, claim_folders, follow_launcher, release_locks, remove_temporaries
from medi_monai.utils.written import FILE_LIST

__all__ = [
    "PACKAGES",
    "SUMMARY",
    "begin_run",
    "finish_run",
    "is_command_line",
    "package_versions",
    "set_aside",
    "undivided",
]


def is_command_line(arguments: Sequence[str]) -> bool:
    """Return whether these are the arguments of ``python -m monai.bundle``, whose process ends with its run."""
    return Path(arguments[0]).parts[-2:] == ("bundle", "__main__.py")


DAY = 86400.0
#: runs whose work cannot be divided among the processes of torchrun
UNDIVIDED = ("auditing", "autoencoding", "classifying", "aligning", "resampling", "experiment", "adapting", "shortcuts")
#: the reason, for runs that are not just short
WHY_UNDIVIDED = {
    "aligning": "its loss compares the subgroups of a whole batch with the target, so that the gradients of parts of a "
    "batch do not average to its gradient, and "
}
PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "pandas", "openslide-python")


def begin_run(
    *folders: str | os.PathLike, seed: int = 0, run: str | None = None, data: str | os.PathLike | None = None
) -> None:
    """Create the folders of a run, check that they are writable, and seed the initial weights of the network.

    All other randomness is seeded by name (:mod:`medi_monai.utils.seeding`). A run started from the command line locks
    its folders until :func:`finish_run` or the end of its process, removes half-written files of a killed run from
    them, and at its end removes folders that it created but in which it wrote nothing.

    Args:
        folders: folders of the run, starting with that of its summary.
        seed: seed of the initial weights.
        run: run id, as in the summary; None to skip the checks of earlier results.
        data: folder of the data set, if there is one.

    Raises:
        InputError: for a folder that is not writable, is in use by another run, or contains data, results of another
            kind of run, or files of the user with the names of results; also for several processes of torchrun if the
            run cannot be divided among them.
    """
    _check_processes(run)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        follow_launcher()
    if run is not None:
        _check_kind(Path(folders[0]), run)
        for number, folder in enumerate(folders):
            check_results(folder, run, number, [data])
        check_apart(folders, run)
    absent = {level for folder in folders for level in (Path(folder), *Path(folder).parents) if not level.exists()}
    writable = [writable_dir(folder) for folder in folders]
    # among processes of torchrun, only the first one writes to these folders
    if is_command_line(sys.argv) and os.environ.get("RANK", "0") == "0":
        locked = claim_folders(writable)
        # the cache has no lock, and nothing in it takes a day to write
        remove_temporaries(cache_dir(), depth=2, min_age=DAY)
        for folder, names in zip(writable, RESULTS.get(run or "", ())):
            if folder.resolve() in locked:
                remove_temporaries(folder)
                for name in names:
                    # for files in images/<combination>/
                    remove_temporaries(folder / name, depth=1)
        atexit.register(_remove_unused, sorted(map(Path.absolute, absent), reverse=True))
    torch.manual_seed(seed)


def _remove_unused(folders: Iterable[Path]) -> None:
    # a run that is refused because of its input leaves no empty folders; the lock is held until the process has ended
    for folder in folders:
        with suppress(OSError):
            if {path.name for path in folder.iterdir()} <= {*LOCK_FILES, FILE_LIST}:
                for name in (*LOCK_FILES, FILE_LIST):
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()


def _check_processes(run: str | None) -> None:
    count = os.environ.get("WORLD_SIZE", "1")
    if run in UNDIVIDED and count != "1":
        raise undivided(run, count)


def undivided(run: str, count: str | int) -> InputError:
    """Return an :class:`InputError` for a run that cannot be divided among several processes of ``torchrun``."""
    return InputError(
        f"{run} runs in one process, and torchrun started {count}: {WHY_UNDIVIDED.get(run, '')}each would repeat the "
        "whole run in the same folders. Start it without torchrun"
    )


def _check_kind(folder: Path, run: str) -> None:
    path = folder / SUMMARY
    try:
        summary = read_json(path) if path.is_file() else {}
    except InputError:
        # an invalid file is reported by `check_results`
        return
    except PermissionError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}. Choose another folder.") from None
    other = summary.get("run", run) if isinstance(summary, dict) else run
    if other != run:
        raise InputError(f"{folder} contains the results of a {other!r} run; choose another folder")


def finish_run(
    run: str,
    output_dir: str | os.PathLike,
    made: Mapping[str, Any],
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    digests: Mapping[str, str],
    where: str | os.PathLike,
) -> None:
    """Write ``summary.json`` and print one line with the path of the results.

    Args:
        run: run id.
        output_dir: folder of the run.
        made: what was written, with counts.
        figures: measured figures; ``None`` if undefined.
        settings: resolved settings.
        digests: SHA-256 of models, schemas and tables.
        where: path of the results to print.
    """
    content = {
        "run": run,
        "made": dict(made),
        "figures": dict(figures),
        "settings": dict(settings),
        "digests": dict(digests),
        "versions": {"medi_monai": __version__, "python": platform.python_version(), **package_versions()},
    }
    write_json(Path(output_dir) / SUMMARY, content)
    release_locks()
    print(f"{run}: done. Results: {where}", flush=True)


def set_aside(folder: str | os.PathLike, paths: Iterable[Path]) -> None:
    """Move the results of an earlier run to ``earlier-<n>`` in the same folder, so that nothing is lost.

    Files that no run wrote, in results that are folders, are left in place.

    Args:
        folder: folder of the run.
        paths: results to move, if they exist.
    """
    existing = [path for path in paths if path.exists()]
    if not existing:
        return
    number = 1
    while (target := Path(folder) / f"earlier-{number}").exists():
        number += 1
    target.mkdir()
    left = [foreign for path in existing for foreign in _move(path, target / path.name, Path(folder))]
    print(f"moved earlier results to {target}", flush=True)
    if left:
        print(f"left in place what no run wrote: {listed(map(str, left))}", flush=True)


def _move(path: Path, target: Path, folder: Path) -> list[Path]:
    """Move a result, and return the files that are left in place because no run wrote them."""
    foreign = foreign_files(folder, path.name) if path.is_dir() and path.parent == folder else []
    if not foreign:
        path.rename(target)
        return []
    stays = set(foreign)
    for outer, folders, names in os.walk(path, topdown=False):
        for name in names:
            if (inside := Path(outer) / name) not in stays:
                moved = target / inside.relative_to(path)
                moved.parent.mkdir(parents=True, exist_ok=True)
                inside.rename(moved)
        for name in folders:
            # a folder in which files are left cannot be removed
            with suppress(OSError):
                (Path(outer) / name).rmdir()
    return foreign


def package_versions() -> dict[str, str]:
    """Return the versions of :data:`PACKAGES` that are installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
