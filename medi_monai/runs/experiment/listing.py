"""List the stages of an experiment for a scheduler of jobs, such as Snakemake, and run one of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from io import StringIO
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medi_monai.runs.experiment.resolved import DEFAULT, ResolvedStage, check_resources, check_stages_of, resolve_stages
from medi_monai.runs.experiment.run import Experiment, RunContext, check_experiment, run_experiment
from medi_monai.runs.experiment.schedule import can_only_run_alone
from medi_monai.runs.experiment.settings import WorkflowSettings
from medi_monai.runs.experiment.stages import StageRun
from medi_monai.runs.shipped import find_bundle, shipped_dir
from medi_monai.runs.workflow import read_configs, run_ids
from medi_monai.utils.console import stop_like_ctrl_c
from medi_monai.utils.errors import InputError, RunStopped, unknown_value
from medi_monai.utils.files import read_json, write_json

__all__ = ["EXPERIMENT", "list_stages", "run_stage"]

#: name of the last job, which writes the results and the page of the experiment
EXPERIMENT = "experiment"
#: key of the config that has :class:`WorkflowSettings`; all others are options of the experiment
WORKFLOW = "workflow"
#: runs that compute with the device
ON_DEVICE = ("training", "sampling", "embedding", "evaluation", "probing", "classifying", "aligning")


@dataclass(frozen=True)
class _Given:
    """An experiment, and what the config says about it."""

    experiment: Experiment[Any]
    bundle: Path
    output: Path
    options: dict[str, Any]
    stage_options: dict[str, dict[str, Any]]
    max_parallel_stages: int | None
    resources: dict[str, Any]


def list_stages(config: Mapping[str, Any]) -> Path:
    """Write the stages of an experiment, with what each needs and the command that runs it, as JSON.

    Stages that are known only from results of others are missing until these are done. The file has an entry for each
    of ``stages``, with the attributes of :class:`ResolvedStage`, and one for the last job, :data:`EXPERIMENT`. All have
    ``command``, ``needs``, ``done`` (path of an empty file that a scheduler makes once the command has succeeded),
    ``rule`` (a name without spaces), ``resources``, and ``alone`` (whether no other stage can run in parallel); stages
    also have ``log``.

    Args:
        config: options of the run ``experiment`` by id, and settings of :data:`WORKFLOW`.

    Returns:
        ``stages/workflow.json`` in the folder of the experiment.

    Raises:
        InputError: for an option that the experiment or one of its stages would refuse.
    """
    given = _read(config)
    bundle, output, options = check_experiment(
        given.experiment, given.bundle, given.output, given.options, given.stage_options
    )
    stages: list[ResolvedStage] = []
    recorded: set[str] = set()
    seconds: dict[str, float | None] = {}
    run = RunContext(output, options, given.stage_options, seconds)
    for listed in given.experiment.stages(run):
        digests = {stage.name: stage.digest for stage in stages}
        stages += resolve_stages(bundle, output, listed, options, given.stage_options, digests, given.resources)
        runs = [StageRun(bundle, output, stage) for stage in stages]
        seconds.update({run.stage.name: run.seconds for run in runs if not run.stage.idle_until})
        recorded = {run.stage.name for run in runs if run.recorded}
        if not {stage.name for stage in stages if not stage.idle_until} <= recorded:
            break
    # also runs of stages that are not listed yet; one of them is EXPERIMENT
    check_stages_of(given.resources, stages, run_ids(bundle / "configs"))
    jobs = _jobs(stages, output, given.resources, on_gpu=options["device"] != "cpu")
    content: dict[str, Any] = {
        "config": dict(config),
        "bundle": str(bundle),
        "stages": jobs,
        EXPERIMENT: jobs.pop(EXPERIMENT),
    }
    path = _list_of(output)
    if not path.is_file() or not recorded.issuperset(jobs) or read_json(path) != content:
        Path(content[EXPERIMENT]["done"]).unlink(missing_ok=True)
    for name in set(jobs) - recorded:
        Path(jobs[name]["done"]).unlink(missing_ok=True)
    write_json(path, content)
    return path


def run_stage(output_dir: Path, name: str) -> None:
    """Run one stage that :func:`list_stages` has listed, unless it is done; :data:`EXPERIMENT` runs all that is left.

    Args:
        output_dir: folder of the experiment.
        name: name of the stage.

    Raises:
        InputError: if there is no such stage, or one that it needs is not done.
        RunStopped: if it failed.
    """
    output = output_dir.resolve()
    path = _list_of(output)
    if not path.is_file():
        raise InputError(f"there is no list of stages in {path}: write it with `medi-monai stages CONFIG`")
    listed = read_json(path)
    if name not in {*listed["stages"], EXPERIMENT}:
        raise unknown_value("stage", name, [*listed["stages"], EXPERIMENT])
    stop_like_ctrl_c()
    if name == EXPERIMENT:
        given = _read(listed["config"])
        run_experiment(
            given.experiment,
            given.bundle,
            given.output,
            given.options,
            given.stage_options,
            given.max_parallel_stages,
            given.resources,
        )
        return
    bundle = Path(listed["bundle"])
    for needed in listed["stages"][name]["needs"]:
        if not StageRun(bundle, output, _resolved(listed["stages"][needed])).recorded:
            raise InputError(f"the stage {name!r} needs {needed!r}, which is not done: run that first")
    run = StageRun(bundle, output, _resolved(listed["stages"][name]))
    if run.done():
        print(f"{name}: already done, {run.stage.result}", flush=True)
    else:
        _run(run)


def _run(run: StageRun) -> None:
    processes = run.stage.processes
    run.start(max(1, torch.get_num_threads() // processes) if processes > 1 else None, to_log=True)
    print(f"{run.stage.name}: started; its output is in {run.log}", flush=True)
    try:
        wait([run.sentinel])
    except KeyboardInterrupt:
        run.interrupt()
        raise
    finally:
        try:
            run.end()
        except RunStopped as error:
            raise RunStopped(f"{error}; its output is in {run.log}") from None
    print(f"{run.stage.name}: took {run.seconds:.0f} s", flush=True)


def _list_of(output: Path) -> Path:
    return output / "stages" / "workflow.json"


def _resolved(job: Mapping[str, Any]) -> ResolvedStage:
    return ResolvedStage(**{field.name: job[field.name] for field in fields(ResolvedStage)})


def _jobs(
    stages: Sequence[ResolvedStage], output: Path, resources: Mapping[str, Mapping[str, Any]], on_gpu: bool
) -> dict[str, dict[str, Any]]:
    """Return an entry of the list for each stage, and for :data:`EXPERIMENT`."""
    # what would use idle time comes before the stages that it prepares
    ahead = {name: [stage.name for stage in stages if name in stage.idle_until] for name in [s.name for s in stages]}
    jobs = {stage.name: {**asdict(stage), "needs": [*stage.needs, *ahead[stage.name]]} for stage in stages}
    counted = [stage for stage in stages if not stage.idle_until]
    for stage in stages:
        gpu = {"gpu": stage.processes} if on_gpu and stage.run_id in ON_DEVICE else {}
        jobs[stage.name]["resources"] = {**gpu, **stage.resources}
        jobs[stage.name]["alone"] = stage in counted and can_only_run_alone(stage, counted)
    own = {**resources.get(DEFAULT, {}), **resources.get(EXPERIMENT, {})}
    jobs[EXPERIMENT] = {"needs": list(jobs), "alone": True, "resources": {**({"gpu": 1} if on_gpu else {}), **own}}
    for stage in stages:
        jobs[stage.name]["log"] = str(output / "stages" / f"{stage.file_name}.log")
    for name, job in jobs.items():
        done = str(output / "stages" / f"{name.replace(' ', '_')}.done")
        command = [sys.executable, "-W", "ignore", "-m", "medi_monai", "stage", str(output), name]
        job |= {"rule": re.sub(r"\W+", "_", name), "command": command, "done": done}
    return jobs


def _read(config: Mapping[str, Any]) -> _Given:
    """Check a config as a run of the bundle does, and return what it gives for the experiment."""
    values = dict(config)
    own = values.pop(WORKFLOW, None) or {}
    if not isinstance(own, Mapping):
        raise InputError(f"{WORKFLOW} = {own!r}: give a mapping with {' and '.join(WorkflowSettings.model_fields)}")
    settings = WorkflowSettings(**own)
    check_resources(settings.resources)
    if not values.get("output_dir"):
        raise InputError("output_dir is missing: give the folder for the results of the experiment")
    folder = Path(settings.bundle) if Path(settings.bundle).is_dir() else find_bundle(settings.bundle)
    file = folder / "configs" / "experiment.json"
    if not file.is_file():
        known = [path.name for path in (shipped_dir() / "bundles").iterdir()]
        raise unknown_value("bundle", settings.bundle, known, "A folder of a bundle has configs/experiment.json.")
    # the machine that lists the stages may lack the device on which they are run
    device = _device(values.pop("device", None))
    parser = ConfigParser(
        read_configs([file], file.parent, {**values, "bundle_root": str(folder.resolve()), "device": "cpu"})
    )
    with redirect_stdout(StringIO()):
        parser.get_parsed_content("initialize")
    names = "experiment_def", "output_dir", "options", "stage_options", "max_parallel_stages"
    experiment, output, options, stage_options, most = map(parser.get_parsed_content, names)
    options = {**options, "device": device}
    return _Given(experiment, folder, Path(output).resolve(), options, stage_options, most, settings.resources)


def _device(device: Any) -> str:
    try:
        return str(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    except (RuntimeError, TypeError):
        raise InputError(f"device = {device!r}: it has to be cpu, cuda, or a GPU such as cuda:0") from None
