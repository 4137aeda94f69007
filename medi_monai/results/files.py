"""Write and read results files: JSON with a format number, described by a schema in this package."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from medi_monai.results.typed import plain, typed
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, read_json, write_json, write_table
from medi_monai.utils.records import check_unchanged, claim_results
from medi_monai.utils.run_dir import SUMMARY, finish_run, set_aside
from medi_monai.utils.tables import for_spreadsheet

__all__ = ["FORMAT", "SCHEMAS", "RunResults", "read_results", "read_schema", "write_results", "write_run"]

#: number of the format; increased when a key of a results file changes its name or meaning
FORMAT = 2
#: results files with a schema
SCHEMAS = ("metrics", "probe", "shortcuts", "experiment")


class RunResults(Protocol):
    """Results of a run, with its settings and the digests of its inputs."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Resolved settings of the run."""

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of the inputs that the results were computed from."""


T = TypeVar("T")
R = TypeVar("R", bound=RunResults)


def write_results(path: str | os.PathLike, results: T) -> T:
    """Write results, a dataclass of this package, to a JSON file atomically, with the format number first.

    Returns:
        The results as :func:`read_results` would return them; pages are rendered from these.
    """
    content = plain(results)
    checked = typed(type(results), content)
    write_json(path, {"format": FORMAT, **content})
    return checked


def read_results(path: str | os.PathLike, cls: type[T]) -> T:
    """Read a results file.

    Args:
        path: path of the file.
        cls: dataclass of its content.

    Raises:
        InputError: for a file that is missing, is not JSON, has another format number, does not match ``cls``, or has
            changed since it was written.
    """
    content = read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "update medi_monai" if newer else "repeat the run that wrote it"
        raise InputError(
            f"{path} has the format {version}, but this version of medi_monai reads format {FORMAT}: {remedy}"
        )
    results = typed(cls, {name: value for name, value in content.items() if name != "format"}, str(path))
    check_unchanged(path)
    return results


def read_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of a results file.

    Args:
        name: name of the file without its extension, one of :data:`SCHEMAS`.

    Raises:
        InputError: for an unknown name.
    """
    if name not in SCHEMAS:
        raise unknown_value("results file", name, SCHEMAS)
    schema: dict[str, Any] = read_json(Path(str(resources.files(__package__) / "schemas" / f"{name}.schema.json")))
    return schema


def write_run(
    run: str,
    output_dir: str | os.PathLike,
    name: str,
    results: R,
    files: Mapping[str, Any],
    write_page: Callable[[R, Path], Any],
    made: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> R:
    """Write the output of a run: results, tables, arrays, ``report.html`` and ``summary.json``, in this order.

    Args:
        run: id of the run.
        output_dir: output folder; the files of an earlier run are moved to ``earlier-<n>``.
        name: name of the results file without its extension.
        results: results, a dataclass of this package.
        files: content of additional files by name: a table, or a mapping of names to arrays.
        write_page: function that renders the results as a page at the given path.
        made: counts for the summary.
        figures: main figures for the summary.

    Returns:
        The results as :func:`read_results` would return them.
    """
    output = Path(output_dir)
    page = output / "report.html"
    claim_results(output, run)
    set_aside(output, [output / f"{name}.json", *(output / file for file in files), page, output / SUMMARY])
    written = write_results(output / f"{name}.json", results)
    for file, data in files.items():
        if isinstance(data, pd.DataFrame):
            write_table(output / file, for_spreadsheet(data))
        else:
            with atomic_path(output / file) as path:
                np.savez_compressed(path, **data)
    write_page(written, page)
    finish_run(run, output, made, plain(figures), plain(written.settings), written.digests, page)
    return written
