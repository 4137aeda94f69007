"""Run independent stages of an experiment in parallel."""

from __future__ import annotations

import codecs
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from medi_monai.runs.experiment.idle import IdleStages
from medi_monai.runs.experiment.resolved import ResolvedStage, Stage, resolve_stages
from medi_monai.runs.experiment.stages import StageRun
from medi_monai.utils.errors import InputError, RunStopped

__all__ = ["Schedule", "can_only_run_alone"]

#: seconds between checks for new output of parallel stages
POLL = 0.2


class Schedule:
    """Runs each stage as soon as the stages that it needs are done.

    For small networks, two threads are less than twice as fast as one, so two parallel stages with one thread each take
    less time than two successive stages with two threads each. To make results reproducible, the number of threads of a
    stage does not depend on which other stages happen to run: a stage gets all threads if every other stage depends on
    it or it on them; any other stage gets an equal share. Stages that only use idle time run beside these
    (:class:`medi_monai.runs.experiment.idle.IdleStages`). Parallel stages print to ``stages/NAME.log``, and these logs
    are printed here one after the other.

    Args:
        bundle: folder of the bundle.
        output: folder of the experiment.
        options: options by id; each stage gets those that are ids of its config.
        stage_options: options by kind of stage.
        max_parallel: maximum number of parallel stages; by default 2, or 1 if ``options["device"]`` is not a CPU or
            there is only one thread.
        resources: resources of stages, of which only ``processes`` counts here; see :func:`resolve_stages`.

    Attributes:
        seconds: run time of each stage by name, in seconds, including stages that were already done; not of stages that
            only use idle time.
    """

    def __init__(
        self,
        bundle: Path,
        output: Path,
        options: Mapping[str, Any],
        stage_options: Mapping[str, Mapping[str, Any]],
        max_parallel: int | None = None,
        resources: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.bundle, self.output = bundle, output
        self.options, self.stage_options, self.resources = options, stage_options, resources
        self.seconds: dict[str, float | None] = {}
        self._threads = torch.get_num_threads()
        on_cpu = str(options.get("device", "cpu")) == "cpu"
        self._max_parallel = max_parallel or (min(2, self._threads) if on_cpu else 1)
        self._digests: dict[str, str] = {}
        self._done: set[str] = set()
        self._shown = _Shown()

    def run(self, stages: Sequence[Stage]) -> None:
        """Run the stages that are not done yet; among those that are ready, earlier ones in the list start first.

        Args:
            stages: stages, which may need each other or stages of earlier calls.

        Raises:
            InputError: if the images of a data set have changed since the cohort was prepared from them.
            RunStopped: if a stage failed; raised once the stages that run in parallel have finished.
            ValueError: if a stage needs one that does not exist.
        """
        resolved = resolve_stages(
            self.bundle, self.output, stages, self.options, self.stage_options, self._digests, self.resources
        )
        self._digests |= {stage.name: stage.digest for stage in resolved}
        counted = [stage for stage in resolved if not stage.idle_until]
        waiting = list(counted)
        idle = IdleStages([stage for stage in resolved if stage.idle_until and self._max_parallel > 1])
        running: list[StageRun] = []
        failure: Exception | None = None
        try:
            while running or (waiting and failure is None):
                while failure is None and len(running) < self._max_parallel and (stage := self._ready(waiting)):
                    waiting.remove(stage)
                    idle.stop_for(stage.name)
                    try:
                        if (run := self._start(stage, counted)) is not None:
                            running.append(run)
                            self._shown.add(run)
                    except (InputError, RunStopped) as error:
                        failure = error
                if running and failure is None:
                    self._start_idle(idle, [stage.name for stage in waiting])
                if running:
                    wait([run.sentinel for run in running], POLL if self._max_parallel > 1 else None)
                for run in [run for run in running if not run.is_alive()]:
                    running.remove(run)
                    try:
                        self._end(run)
                    except RunStopped as error:
                        failure = failure or error
                        if running:
                            self._shown.note(f"{error}; {running[0].stage.name!r} is finished first")
                for note in idle.ended():
                    self._shown.note(note)
                self._shown.show()
        finally:
            idle.stop_all()
            if running:
                self._stop(running)
            for note in idle.ended(wait=True):
                self._shown.note(note)
        if failure is not None:
            raise failure
        # list run times in the order of the stages, not in the order in which they ended
        self.seconds |= {stage.name: self.seconds.pop(stage.name) for stage in counted}

    def _stop(self, running: Sequence[StageRun]) -> None:
        for run in running:
            run.interrupt()
        try:
            for run in running:
                with suppress(RunStopped):
                    self._end(run)
        except KeyboardInterrupt:
            for run in running:
                run.interrupt()
            raise
        finally:
            self._shown.show()

    def _ready(self, waiting: Sequence[ResolvedStage]) -> ResolvedStage | None:
        return next((stage for stage in waiting if self._done.issuperset(stage.needs)), None)

    def _start(self, stage: ResolvedStage, stages: Sequence[ResolvedStage]) -> StageRun | None:
        run = StageRun(self.bundle, self.output, stage)
        if run.done():
            self._shown.note(f"{stage.name}: already done, {stage.result}")
            self._done.add(stage.name)
            self.seconds[stage.name] = run.seconds
            return None
        parallel = self._max_parallel > 1
        threads = self._threads if can_only_run_alone(stage, stages) else max(1, self._threads // self._max_parallel)
        run.start(threads if parallel else None, to_log=parallel)
        if run.log is not None and self._shown.busy:
            self._shown.note(f"{stage.name}: started in parallel; its output is in {run.log}, and follows here")
        return run

    def _start_idle(self, idle: IdleStages, to_come: Sequence[str]) -> None:
        while (stage := idle.next_stage(self._done, to_come)) is not None:
            run = StageRun(self.bundle, self.output, stage)
            if run.done():
                continue
            run.start(max(1, self._threads // self._max_parallel), to_log=True, idle=True)
            self._shown.note(f"{stage.name}: started in idle time; its output is in {run.log}")
            idle.add(run)

    def _end(self, run: StageRun) -> None:
        run.end()
        if not self._shown.shows(run):
            self._shown.note(f"{run.stage.name}: finished in parallel after {run.seconds:.0f} s")
        self._done.add(run.stage.name)
        self.seconds[run.stage.name] = run.seconds


class _Shown:
    """Prints the logs of parallel stages, one stage after the other."""

    def __init__(self) -> None:
        self._runs: deque[StageRun] = deque()
        self._offset, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")
        self._within_line = False

    @property
    def busy(self) -> bool:
        """Whether the log of a stage is being printed."""
        return bool(self._runs)

    def shows(self, run: StageRun) -> bool:
        """Return whether a stage's output is visible: it has no log, or its log is the one being printed."""
        return run.log is None or (self.busy and self._runs[0] is run)

    def add(self, run: StageRun) -> None:
        if run.log is not None:
            self._runs.append(run)

    def note(self, text: str) -> None:
        """Print a text on a line of its own."""
        self._print(("\n" if self._within_line else "") + text + "\n")

    def show(self) -> None:
        while self._runs:
            run = self._runs[0]
            with open(run.log or "", "rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset += len(new)
            self._print(self._decoder.decode(new, final=run.ended))
            if not run.ended:
                return
            self._runs.popleft()
            self._offset = 0
            self._decoder.reset()

    def _print(self, text: str) -> None:
        # ignore errors, such as of a closed pipe: the output is also in the logs
        if text and sys.stdout is not None:
            with suppress(OSError, ValueError):
                coding = sys.stdout.encoding or "utf-8"
                sys.stdout.write(text.encode(coding, "replace").decode(coding))
                sys.stdout.flush()
            self._within_line = not text.endswith("\n")


def can_only_run_alone(stage: ResolvedStage, stages: Sequence[ResolvedStage]) -> bool:
    """Return whether a stage can never run in parallel: every other stage depends on it, or it on them."""
    needs = {other.name: set(other.needs) for other in stages}
    for _ in stages:
        needs = {name: own.union(*(needs.get(needed, set()) for needed in own)) for name, own in needs.items()}
    others = set(needs) - {stage.name}
    return all(name in needs[stage.name] or stage.name in needs[name] for name in others)
