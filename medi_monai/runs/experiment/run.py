"""The run ``experiment``: run stages of a bundle, each once, and write the results and page of the experiment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from medi_monai.runs.experiment.resolved import Stage
from medi_monai.runs.experiment.schedule import Schedule
from medi_monai.utils.errors import InputError
from medi_monai.utils.records import check_results, claim_results
from medi_monai.utils.run_dir import finish_run

__all__ = ["Experiment", "Outcome", "RunContext", "check_experiment", "run_experiment"]

#: type of the results of an experiment
R = TypeVar("R", covariant=True)


@dataclass(frozen=True)
class RunContext:
    """Options and times of the stages of an experiment.

    Attributes:
        output: folder of the experiment.
        options: options by id; each stage gets those that are ids of its config.
        stage_options: options by kind of stage.
        seconds: run time so far of each stage by name, in seconds; None for a stage that never ran.
    """

    output: Path
    options: Mapping[str, Any]
    stage_options: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float | None]

    @property
    def settings(self) -> dict[str, Any]:
        """All options in one mapping; options of a single kind of stage have the key ``kind: name``."""
        own = {f"{kind}: {name}": v for kind, options in self.stage_options.items() for name, v in options.items()}
        return {**self.options, **own}


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """Outcome of an experiment.

    Attributes:
        results: results that the experiment wrote.
        figures: figures for ``summary.json``.
        digests: SHA-256 of the inputs.
        page: path of the report.
    """

    results: R
    figures: Mapping[str, Any]
    digests: Mapping[str, str]
    page: Path


class Experiment(Protocol[R]):
    """Interface of an experiment: its checks, stages and page."""

    @property
    def config(self) -> str:
        """Name of a config file that only bundles with this experiment have."""

    def check(self, output: Path, options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> dict:
        """Return the options of the stages; raise an :class:`InputError` for one that a later stage would refuse."""

    def stages(self, run: RunContext) -> Iterator[Sequence[Stage]]:
        """Yield lists of stages; all stages of a list are done before the next list is requested."""

    def finish(self, run: RunContext) -> Outcome[R]:
        """Read the results of the stages and write the page."""


def check_experiment(
    experiment: Experiment[Any],
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
) -> tuple[Path, Path, dict]:
    """Check an experiment and its folder before the first stage; see :func:`run_experiment`.

    Returns:
        The folders of the bundle and the experiment, and the options of the stages.

    Raises:
        InputError: see :func:`run_experiment`.
    """
    bundle, output = Path(bundle_root).resolve(), Path(output_dir).resolve()
    if not (bundle / "configs" / experiment.config).is_file():
        raise InputError(
            f"{bundle} is not a bundle with this experiment (no configs/{experiment.config}); give --bundle_root"
        )
    check_results(output, "experiment")
    checked = experiment.check(output, options, stage_options)
    claim_results(output, "experiment")
    return bundle, output, checked


def run_experiment(
    experiment: Experiment[R],
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    max_parallel_stages: int | None = None,
    resources: Mapping[str, Mapping[str, Any]] | None = None,
) -> R:
    """Run the stages of an experiment, and write its results, its page and ``summary.json``.

    Each stage is a run of the bundle in its own process; its command is printed and can be run by hand. A stage is
    skipped if its result exists and was made with the same options and the same preceding stages.

    Args:
        experiment: stages, checks and page of the experiment.
        bundle_root: folder of the bundle.
        output_dir: folder of the experiment.
        options: options by id; each stage gets those that are ids of its config.
        stage_options: options by kind of stage, which only stages of this kind get; they take precedence.
        max_parallel_stages: maximum number of independent stages that run in parallel; None for two on a CPU and one on
            a GPU.
        resources: resources of stages, of which only ``processes`` counts here; see
            :func:`medi_monai.runs.experiment.resolved.resolve_stages`.

    Returns:
        The results of the experiment.

    Raises:
        InputError: for a folder without the bundle; before the first stage, for an option that a late stage would
            refuse; and if the images of ``dataset_dir`` have changed since earlier stages were run.
        RunStopped: if a stage failed; the stage prints the reason, and repeating the command resumes the experiment.
    """
    bundle, output, options = check_experiment(experiment, bundle_root, output_dir, options, stage_options)
    start = time.perf_counter()
    schedule = Schedule(bundle, output, options, stage_options, max_parallel_stages, resources)
    run = RunContext(output, options, stage_options, schedule.seconds)
    for stages in experiment.stages(run):
        schedule.run(stages)
    outcome = experiment.finish(run)
    finish_run(
        "experiment",
        output,
        made={"stages": schedule.seconds},
        figures={**outcome.figures, "seconds": round(time.perf_counter() - start, 1)},
        settings=run.settings,
        digests=outcome.digests,
        where=outcome.page,
    )
    return outcome.results
