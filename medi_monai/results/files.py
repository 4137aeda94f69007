"""Results files: JSON with the number of its format, written and read here, with a schema in the package."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, read_json, write_json, write_table
from medi_monai.utils.run_dir import SUMMARY, finish_run, set_aside

__all__ = ["FORMAT", "SCHEMAS", "plain", "read_results", "read_schema", "write_results", "write_run"]

#: raised where a key of a results file changes its name or its meaning
FORMAT = 1
#: results files with a schema
SCHEMAS = ("metrics", "probe", "experiment")


def plain(value: Any) -> Any:
    """A value as JSON holds it: dataclasses and mappings as dictionaries, sequences and arrays as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def write_results(path: str | os.PathLike, results: Any) -> dict[str, Any]:
    """Write results, a dataclass or a mapping, atomically.

    Returns:
        The content of the file, the number of its format first: what pages are drawn from.
    """
    content = {"format": FORMAT, **plain(results)}
    write_json(path, content)
    return content


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a results file.

    Raises:
        InputError: where it is missing, no JSON, or of another format.
    """
    content = read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise InputError(
            f"{path} has the format {version}, but this version of medi_monai reads format {FORMAT}: repeat the "
            "run that "
            "wrote it"
        )
    return content


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
    results: Any,
    files: Mapping[str, Any],
    write_page: Callable[[dict[str, Any], Path], Any],
    made: Mapping[str, Any],
    figures: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> dict[str, Any]:
    """Write all that a run leaves: results, tables, arrays, ``report.html`` and ``summary.json``, in this order.

    Args:
        run: its id.
        output_dir: what an earlier run left there moves to ``earlier-<n>``.
        name: of the results file without its ending.
        results: as for :func:`write_results`, with ``settings`` and ``digests``.
        files: names of further files to a table or to named arrays.
        write_page: draws the page of the content of the results file.
        made: counts for the summary.
        figures: of the content, those for the summary.

    Returns:
        The content of the results file.
    """
    output = Path(output_dir)
    page = output / "report.html"
    set_aside(output, [output / f"{name}.json", *(output / file for file in files), page, output / SUMMARY])
    content = write_results(output / f"{name}.json", results)
    for file, data in files.items():
        if isinstance(data, pd.DataFrame):
            write_table(output / file, data)
        else:
            with atomic_path(output / file) as path:
                np.savez_compressed(path, **data)
    write_page(content, page)
    finish_run(run, output, made, figures(content), content["settings"], content["digests"], page)
    return content
