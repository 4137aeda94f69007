"""The run ``experiment``: stages of a bundle, each done once, and what an experiment makes of their results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from medi_monai.runs.experiment.schedule import Schedule
from medi_monai.runs.experiment.stages import Stage
from medi_monai.utils.errors import InputError
from medi_monai.utils.run_dir import finish_run

__all__ = ["Experiment", "Outcome", "RunContext", "run_experiment"]

#: results of an experiment
R = TypeVar("R", covariant=True)


@dataclass(frozen=True)
class RunContext:
    """What the stages of an experiment are run with.

    Attributes:
        output: folder of the experiment.
        options: by the ids of the bundle's configs; each stage takes those that its config has.
        stage_options: options of one kind of stage alone.
        seconds: how long each stage took so far, by name; None for one that never ran.
    """

    output: Path
    options: Mapping[str, Any]
    stage_options: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float | None]

    @property
    def settings(self) -> dict[str, Any]:
        """All options in one mapping, those of one kind of stage as ``kind: name``."""
        own = {f"{kind}: {name}": v for kind, options in self.stage_options.items() for name, v in options.items()}
        return {**self.options, **own}


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What an experiment ends with.

    Attributes:
        results: that it wrote.
        figures: for the summary.
        digests: SHA-256 of what it was made from.
        page: the report.
    """

    results: R
    figures: Mapping[str, Any]
    digests: Mapping[str, str]
    page: Path


class Experiment(Protocol[R]):
    """What one experiment adds to the runner: its stages, its checks and its page."""

    @property
    def config(self) -> str:
        """A config file by which a bundle of this experiment is known."""

    def check(self, output: Path, options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> dict:
        """Raise an :class:`InputError` for what a late stage would refuse; returns the options of the stages."""

    def stages(self, run: RunContext) -> Iterator[Sequence[Stage]]:
        """Lists of stages; each list has been run before the next one is asked for."""

    def finish(self, run: RunContext) -> Outcome[R]:
        """Read the results of the stages and write the page."""


def run_experiment(
    experiment: Experiment[R],
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    max_parallel_stages: int | None = None,
) -> R:
    """Run the stages of an experiment, and write its results, its page and ``summary.json``.

    Each stage is a run of the bundle in a process of its own; its command is printed, and can be given by hand. A stage
    is skipped where its result exists and was made with the same options and by the same stages before it.

    Args:
        experiment: its stages, checks and page.
        bundle_root: the bundle.
        output_dir: folder of everything.
        options: by the ids of the bundle's configs; each stage takes those that its config has.
        stage_options: options of one kind of stage alone: what has one name in several of them.
        max_parallel_stages: that run at the same time, where none needs the other; None takes two on a CPU.

    Returns:
        The results of the experiment.

    Raises:
        InputError: for a folder without the bundle, and for an option that a late stage would refuse, before the first
            one; also where the images of ``dataset_dir`` have changed since earlier stages were run.
        RunStopped: where a stage failed; its own message says why, and the same command resumes.
    """
    bundle, output = Path(bundle_root).resolve(), Path(output_dir).resolve()
    if not (bundle / "configs" / experiment.config).is_file():
        raise InputError(
            f"{bundle} is not a bundle with this experiment (no configs/{experiment.config}); give --bundle_root"
        )
    options = experiment.check(output, options, stage_options)
    start = time.perf_counter()
    schedule = Schedule(bundle, output, options, stage_options, max_parallel_stages)
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
