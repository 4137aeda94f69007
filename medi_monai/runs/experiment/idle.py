"""Run stages of an experiment in the time that the processors would otherwise be idle."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from medi_monai.runs.experiment.resolved import ResolvedStage
from medi_monai.runs.experiment.stages import StageRun
from medi_monai.utils.errors import InputError, RunStopped

__all__ = ["IdleStages"]


class IdleStages:
    """Stages that prepare what later stages would otherwise do themselves, one at a time, with the lowest priority.

    The system gives their process a processor only if no other process needs it, so they do not count among parallel
    stages. A stage starts while another one runs, and is stopped as soon as one of its ``idle_until`` starts, which
    then does the rest; if it fails, that stage does it all.

    Args:
        stages: the stages, in the order in which they are started.
    """

    def __init__(self, stages: Sequence[ResolvedStage]) -> None:
        self._waiting = list(stages)
        self._running: list[StageRun] = []
        self._stopped: set[str] = set()

    def next_stage(self, done: Collection[str], to_come: Collection[str]) -> ResolvedStage | None:
        """Return the next stage to start, and no longer hold it; None while one runs, or if none is of use now.

        Args:
            done: names of finished stages.
            to_come: names of stages that are not yet started.
        """
        self._waiting = [stage for stage in self._waiting if set(stage.idle_until) <= set(to_come)]
        if self._running:
            return None
        stage = next((stage for stage in self._waiting if set(stage.needs) <= set(done)), None)
        if stage is not None:
            self._waiting.remove(stage)
        return stage

    def add(self, run: StageRun) -> None:
        """Take over a stage that was started."""
        self._running.append(run)

    def stop_for(self, name: str) -> None:
        """Stop the stages that prepare what the named stage, which is about to start, needs."""
        for run in self._running:
            if name in run.stage.idle_until:
                self._interrupt(run)

    def stop_all(self) -> None:
        """Stop all stages."""
        for run in self._running:
            self._interrupt(run)

    def ended(self, wait: bool = False) -> list[str]:
        """Return a note on each stage that has ended since the last call, or, with ``wait``, on all that still run."""
        runs = [run for run in self._running if wait or not run.is_alive()]
        self._running = [run for run in self._running if run not in runs]
        return [self._end(run) for run in runs]

    def _interrupt(self, run: StageRun) -> None:
        if run.stage.name not in self._stopped:
            self._stopped.add(run.stage.name)
            run.interrupt()

    def _end(self, run: StageRun) -> str:
        name = run.stage.name
        later = run.stage.idle_until[0]
        try:
            run.end()
        except (InputError, RunStopped) as error:
            if name in self._stopped:
                return f"{name}: stopped after {run.seconds:.0f} s in idle time; {later!r} does the rest"
            return f"{name}: {error}; {later!r} does it instead"
        return f"{name}: finished after {run.seconds:.0f} s in idle time"
