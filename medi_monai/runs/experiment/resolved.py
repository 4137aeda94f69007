"""Stages with all of their options, as plain data that any scheduler can run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from medi_monai.runs.configs.files import read_config_file
from medi_monai.runs.workflow import read_configs
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest

__all__ = ["DEFAULT", "ResolvedStage", "Stage", "check_resources", "check_stages_of", "resolve_stages"]

#: key of the resources of all stages
DEFAULT = "default"
#: runs whose work torchrun divides among processes, each with the overlay that it then needs
DIVIDED = {"preparing": None, "training": "multi_gpu_train.json", "sampling": None, "embedding": None}


@dataclass(frozen=True)
class Stage:
    """One run of the bundle.

    Attributes:
        name: name of the stage.
        run_id: id of the run, such as ``training``.
        configs: names of its config files.
        result: last file that it writes.
        options: options of this stage only.
        needs: names of the stages whose results it reads.
        kind: kind of stage for ``stage_options``; by default the run id.
        idle_until: names of the stages that do what this stage would do, unless it is already done; not empty for a
            stage that only uses idle time.
    """

    name: str
    run_id: str
    configs: Sequence[str]
    result: Path
    options: Mapping[str, Any]
    needs: Sequence[str] = ()
    kind: str = ""
    idle_until: Sequence[str] = ()


@dataclass(frozen=True)
class ResolvedStage:
    """A stage with the values of all options that it gets; all attributes can be written to JSON.

    Attributes:
        name: name of the stage.
        run_id: id of the run, such as ``training``.
        configs: paths of its config files.
        settings: values by id, for an overlay after these files.
        result: path of the last file that it writes.
        needs: names of the stages whose results it reads.
        idle_until: names of the stages that do what this stage would do; see :class:`Stage`.
        digest: SHA-256 of everything that the result depends on: the settings, and the digests of the stages it needs.
        resources: what it is given, by name: ``processes`` for ``torchrun``, and what a scheduler of jobs knows.
    """

    name: str
    run_id: str
    configs: Sequence[str]
    settings: Mapping[str, Any]
    result: str
    needs: Sequence[str]
    idle_until: Sequence[str]
    digest: str
    resources: Mapping[str, Any] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Number of processes of ``torchrun``; 1 to run without it."""
        return int(self.resources.get("processes", 1))

    @property
    def file_name(self) -> str:
        """Name of the stage in file names."""
        return self.name.replace(" ", "_")


def resolve_stages(
    bundle: Path,
    output: Path,
    stages: Sequence[Stage],
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    digests: Mapping[str, str] | None = None,
    resources: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[ResolvedStage]:
    """Return stages with their options, in the same order.

    Args:
        bundle: folder of the bundle.
        output: folder of the experiment.
        stages: stages, which may need each other or those in ``digests``.
        options: options by id; each stage gets those that are ids of its config.
        stage_options: options by kind of stage.
        digests: digests of earlier stages by name.
        resources: resources by name of a stage, run id or :data:`DEFAULT`; the former take precedence.

    Raises:
        ValueError: if a stage needs one that does not exist.
    """
    known, by_name = dict(digests or {}), {stage.name: stage for stage in stages}
    for stage in stages:
        if not {*stage.needs} <= {*known, *by_name}:
            raise ValueError(f"the stage {stage.name!r} needs one that does not exist: {stage.needs}")
    resolved = {}
    for name in TopologicalSorter({stage.name: stage.needs for stage in stages}).static_order():
        if name in by_name:
            before = [known[needed] for needed in by_name[name].needs]
            given = _resources_of(by_name[name], resources or {})
            resolved[name] = _resolve(bundle, output, by_name[name], options, stage_options, before, given)
            known[name] = resolved[name].digest
    return [resolved[stage.name] for stage in stages]


def _resolve(
    bundle: Path,
    output: Path,
    stage: Stage,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    before: Sequence[str],
    resources: Mapping[str, Any],
) -> ResolvedStage:
    processes = resources.get("processes", 1)
    overlay = DIVIDED.get(stage.run_id) if processes > 1 else None
    files = [bundle / "configs" / name for name in (*stage.configs, *([overlay] if overlay else []))]
    known = read_configs(files, bundle / "configs")
    # options do not override settings in the overlay of an arm
    fixed = {name for file in files[1:] for name in read_config_file(file)}
    given = {name: value for name, value in options.items() if name in known and name not in fixed}
    own = {name: str(value) if isinstance(value, Path) else value for name, value in stage.options.items()}
    settings = {**given, **stage_options.get(stage.kind or stage.run_id, {}), **own}
    # the digest does not depend on where the folder of the experiment is
    content: dict[str, Any] = {"settings": _seen_from(output, settings), "before": list(before)}
    if overlay:
        # processes that train together have a larger batch; those of other runs make the same files
        content["processes"] = processes
    return ResolvedStage(
        stage.name,
        stage.run_id,
        [str(file) for file in files],
        settings,
        str(stage.result),
        list(stage.needs),
        list(stage.idle_until),
        json_digest(content),
        resources,
    )


def _seen_from(output: Path, value: Any) -> Any:
    """Return settings in which paths inside the folder of the experiment are made relative to it."""
    if isinstance(value, Mapping):
        return {name: _seen_from(output, option) for name, option in value.items()}
    if isinstance(value, (list, tuple)):
        return [_seen_from(output, item) for item in value]
    inside = isinstance(value, str) and Path(value).is_relative_to(output)
    return f"output:{Path(value).relative_to(output)}" if inside else value


def _resources_of(stage: Stage, resources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key in (DEFAULT, stage.run_id, stage.name):
        merged.update(resources.get(key, {}))
    if stage.run_id not in DIVIDED:
        merged.pop("processes", None)
    return merged


def check_resources(resources: Mapping[str, Any]) -> None:
    """Check the values of resources that the user gave; see :func:`resolve_stages`.

    Raises:
        InputError: for a resource that is not a number or a text.
    """
    for key, of_stage in resources.items():
        if not isinstance(of_stage, Mapping):
            raise InputError(f"resources of {key!r} = {of_stage!r}: give names with values, such as {{threads: 4}}")
        for name, value in of_stage.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not re.fullmatch(r"[a-z_]\w*", str(name)) or not (whole or isinstance(value, str)):
                raise InputError(
                    f"resources of {key!r}: {name!r} = {value!r}; a resource has a name such as mem_mb, and a whole "
                    "number or a text as its value"
                )
            if name in ("threads", "processes") and not (whole and 1 <= value <= 1000):
                raise InputError(f"{name} of {key!r} = {value!r}: it has to be a whole number from 1 to 1000")


def check_stages_of(
    resources: Mapping[str, Mapping[str, Any]], stages: Iterable[ResolvedStage], more: Iterable[str]
) -> None:
    """Check the stages for which the user gave resources.

    Args:
        resources: see :func:`resolve_stages`.
        stages: stages of the experiment.
        more: further names that are allowed, such as ids of runs.

    Raises:
        InputError: for an unknown stage, or processes of a run that cannot be divided among them.
    """
    runs = {stage.name: stage.run_id for stage in stages}
    known = dict.fromkeys([DEFAULT, *runs, *more])
    for key, of_stage in resources.items():
        if key not in known:
            raise unknown_value("stage", key, known)
        if of_stage.get("processes", 1) > 1 and key != DEFAULT and runs.get(key, key) not in DIVIDED:
            raise InputError(
                f"processes of {key!r} = {of_stage['processes']}: {runs.get(key, key)} runs in one process; torchrun "
                f"divides {', '.join(DIVIDED)}"
            )
