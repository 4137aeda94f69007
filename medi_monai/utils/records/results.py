"""Whose the files in a run's folder are: a run replaces and moves only what a run of this package wrote there."""

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
#: by run id, what it writes into its folder and, where it has a second one, into that of its model
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
    "evaluation": (("metrics.json", "metrics.csv", "closest.npz", "report.html", SUMMARY),),
    "probing": (("probe.json", "probe.csv", "repeats", "report.html", SUMMARY),),
    "experiment": (("experiment.json", "report.html", "samples.png", "stages", SUMMARY),),
}  # fmt: skip
ALL_NAMES = {name for folders in RESULTS.values() for names in folders for name in names}
#: files that runs may write in those of the results that are folders; others there are left alone
IN_FOLDERS = {
    "samples": re.compile(r"step_\d+\.png|before_and_after\.png"),
    "images": re.compile(r"[^/]+/\d{5,}\.png"),
    "tars": re.compile(r"\d{5,}-[0-9a-f]{8}\.tar"),
    "repeats": re.compile(r"[0-9a-f]{8}/[^/]+\.json"),
    "values": re.compile(r"[^/]+\.pt"),
    "stages": re.compile(r"[^/]+\.json"),
}
MODEL = RESULTS["aligning"][1]
#: keys that each of our summaries has
SUMMARY_KEYS = {"run", "made", "figures", "settings", "digests", "versions"}
#: a table of these names makes a folder that of a cohort
COHORT_TABLES = ("cohort.csv", "cohort.parquet")
HOLDERS = ("preparing", "experiment")


def check_results(
    folder: str | os.PathLike, run: str, number: int = 0, data: Sequence[str | os.PathLike | None] = ()
) -> None:
    """Refuse a folder in which a run would replace or move what is not its own; nothing is written.

    Args:
        folder: of the run; it need not exist.
        run: its id, a key of :data:`RESULTS`.
        number: 0 for the folder of its summary, 1 for that of its model.
        data: folders that it reads.

    Raises:
        InputError: for results that no run wrote, that were changed since or are symbolic links; for a folder that
            holds data or lies within the results of another run.
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
    """Whether a file that a run wrote has other content now; False for one that no list names."""
    return Path(path).is_file() and differs_from_list(path, partial(file_fingerprint, path))


def check_unchanged(path: str | os.PathLike) -> None:
    """Refuse a record that was changed after a run wrote it.

    Raises:
        InputError: with its path.
    """
    if was_changed(path):
        raise InputError(
            f"{path} was changed after a run wrote it, and what it says is not believed: restore it, or repeat the run "
            "that wrote it, in another folder"
        )


def check_apart(folders: Sequence[str | os.PathLike], run: str) -> None:
    """Refuse a folder of a run that lies within the results of another of its folders.

    Args:
        folders: in the order of :data:`RESULTS`.
        run: id of the run.
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
    """Files and links that no run wrote, or that were changed since, in the results of a folder that has a list.

    Args:
        folder: of runs.
        name: of a file or a folder in it. Files in it that are being written are passed over.
    """
    path = folder / name
    # a list of many images takes long to read
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
    """:func:`check_results`, and list what is written into the folder from now on, so that a stopped run can go on."""
    check_results(folder, run, number)
    folder = Path(folder)
    if read_written(folder) is not None:
        return
    # of an earlier version
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
    """Names that belong to runs in a folder without a list, as earlier versions left it: by what its files hold."""
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
        # none yet; one that cannot be read is refused when it is written to
        return False


def _check_place(folder: Path, run: str, data: Sequence[str | os.PathLike | None]) -> None:
    try:
        resolved = folder.resolve()
    except (RuntimeError, OSError) as error:
        # Python 3.11 and 3.12 raise a RuntimeError of a loop of links
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
        # files in folders of runs without a list, such as those of a text model, are listed as well
        taken = _known_by_content(outer) | ALL_NAMES & {name.partition("/")[0] for name in written or ()}
        if first in taken or (first.startswith("earlier-") and taken):
            raise InputError(
                f"{folder} lies within the results of another run, {outer / first}, which that run may replace or "
                "move: choose another folder"
            )
