"""Stages in idle time: which start, when they stop, and what is told of them."""

from pathlib import Path

import pytest

from medi_monai.runs.experiment.idle import IdleStages
from medi_monai.runs.experiment.resolved import Stage
from medi_monai.utils.errors import RunStopped


def stage(name, *needs, until=("use",)):
    return Stage(name, "work", ["work.json"], Path(name), {}, needs, idle_until=until)


class Run:
    """A started stage whose process is at our command."""

    def __init__(self, stage, error=None):
        self.stage, self.error, self.alive, self.interrupts, self.seconds = stage, error, True, 0, 12.3

    def is_alive(self):
        return self.alive

    def interrupt(self):
        self.interrupts += 1

    def end(self):
        self.alive = False
        if self.error:
            raise RunStopped(self.error)


def test_a_stage_starts_once_what_it_needs_is_done_and_one_at_a_time():
    idle = IdleStages([stage("a", "x"), stage("b")])
    run = Run(idle.next_stage([], ["use"]))
    assert run.stage.name == "b"
    idle.add(run)
    assert idle.next_stage(["x"], ["use"]) is None
    run.alive = False
    assert idle.ended() == ["b: finished after 12 s in idle time"] and idle.ended() == []
    assert idle.next_stage(["x"], ["use"]).name == "a" and idle.next_stage(["x"], ["use"]) is None


@pytest.mark.parametrize("to_come", [[], ["use"], ["other"]])
def test_a_stage_is_of_no_use_once_one_that_would_use_it_has_started(to_come):
    idle = IdleStages([stage("a", until=("use", "other"))])
    assert idle.next_stage([], to_come) is None
    assert idle.next_stage([], ["use", "other"]) is None


def test_a_stage_stops_once_for_a_stage_that_uses_it_and_for_no_other():
    idle, run = IdleStages([]), Run(stage("a", until=("use", "other")), "was interrupted")
    idle.add(run)
    idle.stop_for("unrelated")
    assert run.interrupts == 0
    idle.stop_for("other")
    idle.stop_for("use")
    idle.stop_all()
    assert run.interrupts == 1 and idle.ended() == []
    assert idle.ended(wait=True) == ["a: stopped after 12 s in idle time; 'use' does the rest"]


def test_a_failure_is_told_and_stops_nothing():
    idle, run = IdleStages([]), Run(stage("a"), "the stage 'a' ended with 1")
    idle.add(run)
    run.alive = False
    assert idle.ended() == ["a: the stage 'a' ended with 1; 'use' does it instead"]
