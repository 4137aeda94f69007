"""Results files: JSON with the number of its format, written and read here, with a schema in the package."""

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

#: raised where a key of a results file changes its name or its meaning
FORMAT = 2
#: results files with a schema
SCHEMAS = ("metrics", "probe", "experiment")


class RunResults(Protocol):
    """What a run writes: results with the settings and the digests that they were made with."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """As resolved."""

    @property
    def digests(self) -> Mapping[str, str]:
        """Of what they were made from."""


T = TypeVar("T")
R = TypeVar("R", bound=RunResults)


def write_results(path: str | os.PathLike, results: T) -> T:
    """Write results, a dataclass of this package, atomically; the number of the format comes first.

    Returns:
        The results as :func:`read_results` gives them: what pages are drawn from.
    """
    content = plain(results)
    checked = typed(type(results), content)
    write_json(path, {"format": FORMAT, **content})
    return checked


def read_results(path: str | os.PathLike, cls: type[T]) -> T:
    """The content of a results file.

    Args:
        path: of the file.
        cls: dataclass of what it holds.

    Raises:
        InputError: where it is missing, no JSON, of another format, or holds something else.
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
    """The JSON schema of a results file.

    Args:
        name: of the file without its ending: one of :data:`SCHEMAS`.

    Raises:
        InputError: for another name.
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
    """Write all that a run leaves: results, tables, arrays, ``report.html`` and ``summary.json``, in this order.

    Args:
        run: its id.
        output_dir: what an earlier run left there moves to ``earlier-<n>``.
        name: of the results file without its ending.
        results: a dataclass of this package.
        files: names of additional files to a table or to named arrays.
        write_page: draws the page.
        made: counts for the summary.
        figures: for the summary.

    Returns:
        The results as :func:`read_results` gives them.
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
