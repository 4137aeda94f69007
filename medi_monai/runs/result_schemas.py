"""Generate the JSON schemas of results files from dataclasses: ``python -m medi_monai.runs.result_schemas``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

from pydantic import TypeAdapter

import medi_monai.results
from medi_monai.results import FORMAT
from medi_monai.results.alignment import AlignmentMetrics
from medi_monai.results.experiment import ExperimentResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.results.shortcuts import ShortcutResults
from medi_monai.utils.files import write_json

__all__ = ["RESULTS", "main", "result_schema"]

#: results files by name, with a title and the dataclasses that they may contain
RESULTS: dict[str, tuple[str, tuple[type, ...]]] = {
    "metrics": ("metrics.json of the run evaluation", (ArmsMetrics, AlignmentMetrics)),
    "probe": ("probe.json of the run probing", (ProbeResults,)),
    "shortcuts": ("shortcuts.json of the run shortcuts", (ShortcutResults,)),
    "experiment": ("experiment.json of the run experiment", (ExperimentResults,)),
}


def result_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of a results file.

    Args:
        name: a key of :data:`RESULTS`.
    """
    title, kinds = RESULTS[name]
    kind: Any = Union[kinds]  # noqa: UP007 - of several or one
    schema = _tidied(TypeAdapter(kind).json_schema(mode="serialization"))
    roots = [schema] if len(kinds) == 1 else [schema["$defs"][kind.__name__] for kind in kinds]
    for root in roots:
        root["properties"] = {"format": {"const": FORMAT}, **root["properties"]}
        root["required"] = list(root["properties"])
    if "anyOf" in schema:
        schema["oneOf"] = schema.pop("anyOf")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _tidied(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without titles and defaults, and with all fields required, because all of them are written."""
    tidied: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            tidied[key] = {name: _tidied(inner) for name, inner in value.items()}
        elif key in ("anyOf", "prefixItems"):
            tidied[key] = [_tidied(inner) for inner in value]
        elif key == "description":
            tidied[key] = " ".join(value.partition("\n\n")[0].split())
        elif key not in ("title", "default"):
            tidied[key] = _tidied(value) if isinstance(value, dict) else value
    if "properties" in tidied:
        tidied["required"] = list(tidied["properties"])
    return tidied


def main() -> None:
    """Write all schemas to the folder ``schemas`` of ``medi_monai.results``."""
    folder = Path(medi_monai.results.__file__).parent / "schemas"
    for name in RESULTS:
        path = folder / f"{name}.schema.json"
        write_json(path, result_schema(name))
        print(f"schema: {path}")


if __name__ == "__main__":
    main()
