"""Stages of an experiment beside each other: what does not need each other runs at the same time."""

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

from medi_monai.engines.stages import Stage, StageRun
from medi_monai.utils.errors import InputError, RunStopped

__all__ = ["Schedule"]

#: between two looks at what runs beside each other have printed, in seconds
LOOK = 0.2


class Schedule:
    """Runs stages, each as soon as those that it needs are done.

    Two threads do hardly more than one in small networks, so that two stages with a thread each are done almost twice
    as soon as one after the other with two. What a stage computes with does not depend on which others happen to run:
    a stage that every other has to wait for, or waits for, has all threads, and any other its share, so that the same
    command has the same result. What runs beside each other prints into ``stages/NAME.log``, which is shown here one
    after the other.

    Args:
        bundle: folder of the bundle.
        output: folder of the experiment.
        options: by the ids of the bundle's configs; each stage takes those that its config has.
        stage_options: options of one kind of stage alone.
        at_once: stages beside each other; two by default, one where ``options["device"]`` is no CPU or there is but
            one thread.

    Attributes:
        seconds: how long each stage took, by name; those that were done before, when they ran.
    """

    def __init__(
        self,
        bundle: Path,
        output: Path,
        options: Mapping[str, Any],
        stage_options: Mapping[str, Mapping[str, Any]],
        at_once: int | None = None,
    ) -> None:
        self.bundle, self.output = bundle, output
        self.options, self.stage_options = options, stage_options
        self.seconds: dict[str, float | None] = {}
        self._threads = torch.get_num_threads()
        on_cpu = str(options.get("device", "cpu")) == "cpu"
        self._at_once = at_once or (min(2, self._threads) if on_cpu else 1)
        self._digests: dict[str, str] = {}

    def run(self, stages: Sequence[Stage]) -> None:
        """Run those that are not done; earlier ones first where more could begin than may run at once.

        Raises:
            InputError: where the images behind a stage are others by now.
            RunStopped: where a stage failed; what runs beside it is waited for.
        """
        waiting, shown = list(stages), _Shown()
        running: list[StageRun] = []
        failure: Exception | None = None
        try:
            while running or (waiting and failure is None):
                while failure is None and len(running) < self._at_once and (stage := self._ready(waiting)):
                    waiting.remove(stage)
                    try:
                        if (run := self._start(stage, stages)) is not None:
                            running.append(run)
                            shown.add(run)
                    except (InputError, RunStopped) as error:
                        failure = error
                if running:
                    wait([run.sentinel for run in running], LOOK if self._at_once > 1 else None)
                for run in [run for run in running if not run.is_alive()]:
                    running.remove(run)
                    try:
                        self._end(run)
                    except RunStopped as error:
                        failure = failure or error
                        if running:
                            print(f"\n{error}; {running[0].stage.name!r} is finished first", flush=True)
                shown.show()
        finally:
            # interrupted, and so are they
            for run in running:
                with suppress(RunStopped):
                    self._end(run)
                shown.show()
        if failure is not None:
            raise failure
        # in the order of the stages, not in that in which they ended
        self.seconds |= {stage.name: self.seconds.pop(stage.name) for stage in stages}

    def _ready(self, waiting: Sequence[Stage]) -> Stage | None:
        return next((stage for stage in waiting if all(name in self._digests for name in stage.needs)), None)

    def _start(self, stage: Stage, stages: Sequence[Stage]) -> StageRun | None:
        before = [self._digests[name] for name in stage.needs]
        run = StageRun(self.bundle, self.output, stage, self.options, self.stage_options, before)
        if run.done():
            print(f"{stage.name}: done already, {stage.result}", flush=True)
            self._digests[stage.name], self.seconds[stage.name] = run.digest, run.seconds
            return None
        beside = self._at_once > 1
        threads = self._threads if _alone(stage, stages) else max(1, self._threads // self._at_once)
        run.start(threads if beside else None, to_log=beside)
        return run

    def _end(self, run: StageRun) -> None:
        run.end()
        self._digests[run.stage.name], self.seconds[run.stage.name] = run.digest, run.seconds


class _Shown:
    """Prints what runs beside each other have printed into their logs, one run after the other."""

    def __init__(self) -> None:
        self._runs: deque[StageRun] = deque()
        self._place, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, run: StageRun) -> None:
        if run.log is not None:
            self._runs.append(run)

    def show(self) -> None:
        while self._runs:
            run = self._runs[0]
            with open(run.log or "", "rb") as file:
                file.seek(self._place)
                new = file.read()
            self._place += len(new)
            sys.stdout.write(self._decoder.decode(new, final=run.ended))
            sys.stdout.flush()
            if not run.ended:
                return
            self._runs.popleft()
            self._place = 0
            self._decoder.reset()


def _alone(stage: Stage, stages: Sequence[Stage]) -> bool:
    """Whether each of the others needs this stage, or is needed by it."""
    needs = {one.name: set(one.needs) for one in stages}
    for _ in stages:
        needs = {name: own.union(*(needs.get(one, set()) for one in own)) for name, own in needs.items()}
    others = set(needs) - {stage.name}
    return all(name in needs[stage.name] or stage.name in needs[name] for name in others)
