"""Check that a run replaces and moves only files that runs of this package wrote to its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_fingerprint, is_temporary, read_json
from medi_monai.utils.records.fingerprints import fingerprints
from medi_monai.utils.written import NOT_LISTED, differs_from_list, enter_written, read_written, start_list

__all__ = [
    "RESULTS",
    "SUMMARY",
    "check_apart",
    "check_results",
    "check_unchanged",
    "was_changed",
    "claim_results",
    "foreign_files",
]

SUMMARY = "summary.json"
#: for each run id, the names of what it writes to its output folder and, if it has one, to the folder of its model
RESULTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "preparing": (
        (
            "cohort.csv", "cohort.parquet", "rejected.csv", "quality.parquet", "slides.csv", "audit.json", "audit.html",
            "quality.html", "preparation.json", SUMMARY,
        ),
    ),
    "auditing": (("audit.json", "audit.html", SUMMARY),),
    "training": (("samples", SUMMARY), ("model.pt", "model.json", "schema.json")),
    "aligning": (("samples", "alignment.json", SUMMARY), ("model.pt", "model.json", "schema.json", "adapter.pt")),
    "adapting": (("value.png", "plan.csv", SUMMARY), ("values",)),
    "classifying": (("classifier.pt", "classifier.json", "confusion.csv", SUMMARY),),
    "autoencoding": (("autoencoder.pt", "autoencoder.json", "reconstructions.png", SUMMARY),),
    "sampling": (("images", "tars", "manifest.csv", "grid.png", "sampling.json", SUMMARY),),
    "resampling": (("images", "manifest.csv", SUMMARY),),
    "embedding": ((SUMMARY,),),
    "evaluation": (("metrics.json", "metrics.csv", "closest.npz", "report.html", SUMMARY),),
    "probing": (("probe.json", "probe.csv", "repeats", "report.html", SUMMARY),),
    "shortcuts": (
        ("shortcuts.json", "shortcuts.csv", "audit.json", "audit.html", "repeats", "report.html", SUMMARY),
    ),
    "experiment": (("experiment.json", "report.html", "samples.png", "stages", SUMMARY),),
}  # fmt: skip
ALL_NAMES = {name for folders in RESULTS.values() for names in folders for name in names}
#: for results that are folders, patterns of the files that runs write in them; other files there are left alone
IN_FOLDERS = {
    "samples": re.compile(r"step_\d+\.png|before_and_after\.png"),
    "images": re.compile(r"[^/]+/\d{5,}\.png"),
    "tars": re.compile(r"\d{5,}-[0-9a-f]{8}\.tar"),
    "repeats": re.compile(r"[0-9a-f]{8}/[^/]+\.json"),
    "values": re.compile(r"[^/]+\.pt"),
    "stages": re.compile(r"[^/]+\.json"),
}
MODEL = RESULTS["aligning"][1]
#: keys that every ``summary.json`` of this package has
SUMMARY_KEYS = {"run", "made", "figures", "settings", "digests", "versions"}
#: a folder that contains one of these files is that of a cohort
COHORT_TABLES = ("cohort.csv", "cohort.parquet")
HOLDERS = ("preparing", "experiment")


def check_results(
    folder: str | os.PathLike, run: str, number: int = 0, data: Sequence[str | os.PathLike | None] = ()
) -> None:
    """Refuse a folder in which a run would replace or move files that no run wrote; write nothing.

    Args:
        folder: folder of the run; it need not exist.
        run: run id, a key of :data:`RESULTS`.
        number: 0 for the output folder, 1 for the folder of the model.
        data: folders of data that the run reads; None entries are ignored.

    Raises:
        InputError: if results of this run exist that no run wrote, that have changed since, or that are symbolic links;
            or if the folder contains data or is within the results of another run.
    """
    folder = Path(folder)
    _check_place(folder, run, data)
    if not folder.is_dir():
        return
    written, known = read_written(folder), _known_by_content(folder)
    for name in _names(run, number):
        path = folder / name
        if path.is_symlink():
            raise _in_the_way(path, run, "is a symbolic link")
        if written is None and path.exists() and name not in known:
            raise _in_the_way(path, run, "was not written by medi_monai")
        for foreign in foreign_files(folder, name):
            inside = foreign.relative_to(folder / name).as_posix()
            if foreign.is_symlink() or path == foreign or IN_FOLDERS[name].fullmatch(inside):
                was = (written or {}).keys() & {foreign.relative_to(folder).as_posix()}
                how = "was changed after a run wrote it" if was else "was not written by medi_monai"
                raise _in_the_way(foreign, run, "is a symbolic link" if foreign.is_symlink() else how)


def was_changed(path: str | os.PathLike) -> bool:
    """Return whether a file has changed since a run wrote it; False for a file that no list has."""
    return Path(path).is_file() and differs_from_list(path, partial(file_fingerprint, path))


def check_unchanged(path: str | os.PathLike) -> None:
    """Refuse a record that has changed since a run wrote it.

    Raises:
        InputError: if it has changed.
    """
    if was_changed(path):
        raise InputError(
            f"{path} was changed after a run wrote it, and what it says is not believed: restore it, or repeat the run "
            "that wrote it, in another folder"
        )


def check_apart(folders: Sequence[str | os.PathLike], run: str) -> None:
    """Refuse folders of a run of which one is within the results in another.

    Args:
        folders: folders of the run, in the order of :data:`RESULTS`.
        run: run id.

    Raises:
        InputError: if there are such folders.
    """
    for number, outer in enumerate(folders):
        for inner in folders:
            for name in _names(run, number):
                if Path(inner).resolve().is_relative_to(Path(outer).resolve() / name):
                    raise InputError(
                        f"{inner} lies within {Path(outer) / name}, which {run} writes and moves as its results: choose"
                        " another folder"
                    )


def foreign_files(folder: Path, name: str) -> list[Path]:
    """Return the files and links in a result that no run wrote, or that have changed since.

    Args:
        folder: folder of runs; if it has no list of written files, nothing is returned.
        name: name of the result, a file or a folder in ``folder``. Temporary files in it are ignored.
    """
    path = folder / name
    # reading the list of many images takes long, so it is not read without need
    written = read_written(folder) if path.exists() else None
    if written is None:
        return []
    files, foreign = [path], []
    if path.is_dir():
        files = []
        for outer, folders, names in os.walk(path):
            inside = [Path(outer) / entry for entry in sorted([*folders, *names]) if not is_temporary(entry)]
            foreign += [entry for entry in inside if entry.is_symlink()]
            files += [entry for entry in inside if not entry.is_symlink() and not entry.is_dir()]
    now = dict(zip(files, fingerprints(files)))
    return foreign + [file for file in files if now[file] not in written.get(file.relative_to(folder).as_posix(), ())]


def _in_the_way(path: Path, run: str, how: str) -> InputError:
    remedy = "remove the link" if "link" in how else "move or rename it"
    through = " or write through it" if "link" in how else ""
    return InputError(f"{path} {how}, and {run} would take its place{through}: {remedy}, or choose another folder")


def claim_results(folder: str | os.PathLike, run: str, number: int = 0) -> None:
    """Call :func:`check_results`, and start the list of written files, so that a stopped run can be resumed."""
    check_results(folder, run, number)
    folder = Path(folder)
    if read_written(folder) is not None:
        return
    # results of an earlier version, which had no list
    ours = [path for name in _known_by_content(folder) for path in (folder / name, *(folder / name).rglob("*"))]
    start_list(folder)
    for path in ours:
        if path.is_file() and not path.is_symlink():
            enter_written(path, partial(file_fingerprint, path))


def _names(run: str, number: int) -> tuple[str, ...]:
    folders = RESULTS.get(run, ((SUMMARY,),))
    return folders[number] if number < len(folders) else ()


def _own_summary(folder: Path) -> dict[str, Any]:
    try:
        content = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    except InputError:
        return {}
    return content if isinstance(content, dict) and content.keys() >= SUMMARY_KEYS else {}


def _known_by_content(folder: Path) -> set[str]:
    """Return the names of results in a folder without a list, from an earlier version, recognized by file contents."""
    taken: set[str] = set()
    summary = _own_summary(folder)
    if summary:
        taken.update(_names(str(summary["run"]), 0))
    if _holds_keys(folder / "model.json", {"schema", "seed", "objective", "weights_sha256"}):
        taken.update(MODEL)
    if _holds_keys(folder / "sampling.json", {"num_timesteps"}):
        taken.update(_names("sampling", 0))
    if _holds_keys(folder / "preparation.json", {"source", "cutting"}):
        taken.update(_names("preparing", 0))
    grids = list((folder / "samples").glob("*"))
    if grids and all(path.name.startswith("step_") for path in grids):
        taken.add("samples")
    return taken


def _holds_keys(path: Path, known: set[str]) -> bool:
    try:
        content = read_json(path) if path.is_file() else None
    except InputError:
        return False
    return isinstance(content, dict) and bool(known & content.keys())


def _holds_files(folder: Path) -> bool:
    try:
        return any(not (path.name.startswith(".") and path.is_file()) for path in folder.iterdir())
    except OSError:
        # the folder does not exist, or cannot be read, which is reported when it is written to
        return False


def _check_place(folder: Path, run: str, data: Sequence[str | os.PathLike | None]) -> None:
    try:
        resolved = folder.resolve()
    except (RuntimeError, OSError) as error:
        # for a loop of links, Python 3.11 and 3.12 raise a RuntimeError
        raise InputError(f"cannot write to {folder}: {error}. Choose another folder.") from None
    sources = [Path(os.path.expanduser(source)).resolve() for source in data if source is not None]
    if resolved in sources:
        raise InputError(f"{folder} is the folder of the data (dataset_dir): choose another folder for the results")
    if run not in HOLDERS and any((folder / name).is_file() for name in COHORT_TABLES):
        raise InputError(f"{folder} holds a cohort, and {run} would write among its files: choose another folder")
    ours = read_written(folder) is not None or bool(_known_by_content(folder))
    for outer in resolved.parents:
        first = resolved.relative_to(outer).parts[0]
        holds_cohort = any((outer / name).is_file() for name in COHORT_TABLES)
        if holds_cohort and first in NOT_LISTED:
            raise InputError(f"{folder} lies among the files of the cohort in {outer}: choose another folder")
        if (outer in sources or holds_cohort) and not ours and _holds_files(resolved):
            raise InputError(
                f"{folder} lies within the folder of the data, {outer}, and holds files that no run wrote: choose a new"
                " or empty folder for the results"
            )
        written = read_written(outer)
        if written is None and not (outer / SUMMARY).is_file():
            continue
        # the list may also have files in subfolders that have no list, such as that of a text model
        taken = _known_by_content(outer) | ALL_NAMES & {name.partition("/")[0] for name in written or ()}
        if first in taken or (first.startswith("earlier-") and taken):
            raise InputError(
                f"{folder} lies within the results of another run, {outer / first}, which that run may replace or "
                "move: choose another folder"
            )
