"""Whose the files in a run's folder are: a run replaces and moves only what a run of this package wrote there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, read_json, write_json
from medi_monai.utils.records.documents import Document, read_document, sealed

__all__ = ["MARKER", "RESULTS", "SUMMARY", "check_results", "claim_results", "result_digests"]

SUMMARY = "summary.json"
#: in each folder of a run: the names that its runs have taken there
MARKER = ".medi_run.json"
#: by run id, what it writes into its folder and, where it has a second one, into that of its model
RESULTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "preparing": ((SUMMARY,),),
    "auditing": (("audit.json", "audit.html", SUMMARY),),
    "training": (("samples", SUMMARY), ("model.pt", "model.json", "schema.json")),
    "aligning": (("samples", "alignment.json", SUMMARY), ("model.pt", "model.json", "schema.json", "adapter.pt")),
    "classifying": (("classifier.pt", "classifier.json", "confusion.csv", SUMMARY),),
    "sampling": (("images", "manifest.csv", "grid.png", "sampling.json", SUMMARY),),
    "resampling": (("images", "manifest.csv", SUMMARY),),
    "evaluation": (("metrics.json", "metrics.csv", "closest.npz", "report.html", SUMMARY),),
    "probing": (("probe.json", "probe.csv", "repeats", "report.html", SUMMARY),),
    "experiment": (("experiment.json", "report.html", "stages", SUMMARY),),
}
MODEL = RESULTS["aligning"][1]
#: keys that each of our summaries has
SUMMARY_KEYS = {"run", "made", "figures", "settings", "digests", "versions"}
#: a table of these names makes a folder that of a cohort
COHORT_TABLES = ("cohort.csv", "cohort.parquet")
HOLDERS = ("preparing", "experiment")


class Marker(Document):
    """The JSON of a marker."""

    TITLE = "the marker of a run's folder"
    names: list[str]
    digest: str


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
    summary, taken = _own_summary(folder), _taken(folder)
    recorded = summary.get("files", {})
    recorded = recorded if isinstance(recorded, dict) else {}
    for name in _names(run, number):
        path = folder / name
        if path.is_symlink():
            raise InputError(
                f"{path} is a symbolic link, and {run} would replace it or write through it: remove the link, or "
                "choose another folder"
            )
        if not path.exists():
            continue
        if name not in taken or (name == SUMMARY and not summary):
            raise InputError(
                f"{path} was not written by medi_monai, and {run} would take its place: move or rename it, or choose "
                "another folder"
            )
        if name in recorded and path.is_file() and file_digest(path) != recorded[name]:
            raise InputError(
                f"{path} was changed after {summary['run']} wrote it, and {run} would take its place: move or rename "
                "it, or choose another folder"
            )


def claim_results(folder: str | os.PathLike, run: str, number: int = 0) -> None:
    """:func:`check_results`, and mark the names as those of runs from now on, so that a stopped run can go on."""
    check_results(folder, run, number)
    folder, taken = Path(folder), _taken(Path(folder))
    names = taken | set(_names(run, number))
    if names != taken or not (folder / MARKER).is_file():
        write_json(folder / MARKER, sealed({"format": Marker.FORMAT, "names": sorted(names)}))


def result_digests(folder: Path, run: str) -> dict[str, str]:
    """SHA-256 of the files that a run left beside its summary, but for those that the next run writes anew in place."""
    if run in HOLDERS:
        return {}
    return {
        name: file_digest(folder / name)
        for name in _names(run, 0)
        if name not in (SUMMARY, "sampling.json") and (folder / name).is_file() and not (folder / name).is_symlink()
    }


def _names(run: str, number: int) -> tuple[str, ...]:
    folders = RESULTS.get(run, ((SUMMARY,),))
    return folders[number] if number < len(folders) else ()


def _own_summary(folder: Path) -> dict[str, Any]:
    try:
        content = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    except InputError:
        return {}
    return content if isinstance(content, dict) and content.keys() >= SUMMARY_KEYS else {}


def _taken(folder: Path) -> set[str]:
    """Names that belong to runs: by the marker; in a folder of an earlier version, by what its files hold."""
    if (folder / MARKER).is_file():
        return set(read_document(folder / MARKER, Marker).names)
    taken: set[str] = set()
    summary = _own_summary(folder)
    if summary:
        taken.update(_names(str(summary["run"]), 0))
    if _holds_keys(folder / "model.json", {"schema", "seed", "objective", "weights_sha256"}):
        taken.update(MODEL)
    if _holds_keys(folder / "sampling.json", {"num_timesteps"}):
        taken.update(_names("sampling", 0))
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


def _check_place(folder: Path, run: str, data: Sequence[str | os.PathLike | None]) -> None:
    try:
        resolved = folder.resolve()
    except (RuntimeError, OSError) as error:
        # Python 3.11 and 3.12 raise a RuntimeError of a loop of links
        raise InputError(f"cannot write to {folder}: {error}. Choose another folder.") from None
    for source in data:
        if source is not None and Path(source).expanduser().resolve() == resolved:
            raise InputError(f"{folder} is the folder of the data (dataset_dir): choose another folder for the results")
    if run not in HOLDERS and any((folder / name).is_file() for name in COHORT_TABLES):
        raise InputError(f"{folder} holds a cohort, and {run} would write among its files: choose another folder")
    for outer in resolved.parents:
        first = resolved.relative_to(outer).parts[0]
        marked = (outer / MARKER).is_file() or (outer / SUMMARY).is_file()
        if marked and (first in _taken(outer) or (first.startswith("earlier-") and _taken(outer))):
            raise InputError(
                f"{folder} lies within the results of another run, {outer / first}, which that run may replace or "
                "move: choose another folder"
            )
