"""Stages beside each other: their order, what each computes with, what is shown, and what a failure leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from medi_monai.runs.experiment.resolved import Stage
from medi_monai.runs.experiment.schedule import Schedule
from medi_monai.utils.errors import RunStopped
from medi_monai.utils.files import read_json

CONFIG = {
    "imports": ["$import os", "$import time", "$import torch", "$from pathlib import Path"],
    "result": "",
    "wait_for": None,
    "seconds": 0.0,
    "code": 0,
    "noted": "$Path(@result).with_suffix('.pid').write_text(str(os.getpid()))",
    "waited": "$[time.sleep(0.05) for _ in range(12000) if @wait_for and not Path(@wait_for).is_file()]",
    "slept": "$time.sleep(@seconds)",
    "work": [
        "$@noted", "$@waited", "$@slept", "$print('made Zoë', torch.get_num_threads())",
        "$Path(@result).write_text(str(torch.get_num_threads())) if not @code else @ended",
    ],
    "ended": "$os._exit(@code) if @code > 0 else os.kill(os.getpid(), -@code)",
}  # fmt: skip


@pytest.fixture
def stage(tmp_path):
    """A stage that waits for a file or for seconds, writes its threads into its result, or ends with a code."""
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "work.json").write_text(json.dumps(CONFIG))

    def make(name, *needs, until=(), **options):
        result = tmp_path / "output" / f"{name}.txt"
        result.parent.mkdir(exist_ok=True)
        own = {"result": str(result), **options}
        return Stage(name, "work", ["work.json"], result, own, needs, idle_until=until)

    return make


@pytest.fixture
def run(tmp_path):
    def run(stages, max_parallel=2, **options):
        schedule = Schedule(tmp_path / "bundle", tmp_path / "output", options, {}, max_parallel)
        schedule.run(stages)
        return schedule.seconds

    return run


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_what_needs_nothing_of_each_other_runs_beside_and_all_is_shown_in_order(
    run, stage, tmp_path, capsys, four_threads
):
    # the first can end only after the second, which waits for the first to begin
    first = stage("first", "begin", wait_for=str(tmp_path / "output" / "second.txt"))
    second = stage("second", "begin", wait_for=str(tmp_path / "output" / "first.pid"))
    stages = [stage("begin"), first, second, stage("last", "first", "second")]
    seconds = run(stages)
    assert list(seconds) == ["begin", "first", "second", "last"]
    shown = capsys.readouterr().out
    # those that all others wait for have all threads
    assert re.findall(r"made Zoë (\d)", shown) == ["4", "2", "2", "4"]
    assert [one.result.read_text() for one in stages] == ["4", "2", "2", "4"]
    assert re.findall(r"^\$ OMP_NUM_THREADS=(\d) python", shown, re.M) == ["4", "2", "2", "4"]
    assert re.findall(r"^(\w+): took \d+ s$", shown, re.M) == ["begin", "first", "second", "last"]
    assert re.findall(r"^second: (started|finished) in parallel", shown, re.M) == ["started", "finished"]
    run(stages)
    assert capsys.readouterr().out.count("already done") == 4


def test_other_options_make_what_needs_them_again_and_nothing_else(run, stage):
    def stages(seconds):
        return [stage("a", seconds=seconds), stage("b"), stage("c", "a"), stage("d", "b")]

    run(stages(0.0), max_parallel=1)
    made = {each.name: each.result.stat().st_mtime_ns for each in stages(0.0)}
    run(stages(0.01), max_parallel=1)
    again = {one.name: one.result.stat().st_mtime_ns for one in stages(0.0)}
    assert {name for name in made if made[name] != again[name]} == {"a", "c"}


def test_after_a_failure_nothing_begins_and_what_runs_is_finished(run, stage, tmp_path, capsys):
    stages = [
        stage("long", wait_for=str(tmp_path / "output" / "bad.pid"), seconds=1.0),
        stage("bad", code=7),
        stage("next"),
    ]
    with pytest.raises(RunStopped, match="the stage 'bad' ended with 7; the same command resumes"):
        run(stages)
    assert "'long' is finished first" in capsys.readouterr().out
    assert stages[0].result.is_file() and not stages[2].result.exists()
    stages[1] = stage("bad")
    run(stages)
    assert capsys.readouterr().out.count("already done") == 1 and stages[2].result.is_file()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (signal.SIGKILL, r"was ended by SIGKILL \(probably out of memory\); the same command"),
        (signal.SIGABRT, "was ended by SIGABRT; the same command resumes"),
    ],
)
def test_a_stage_that_was_killed_says_by_what(run, stage, sent, words):
    with pytest.raises(RunStopped, match=f"the stage 'bad' {words}"):
        run([stage("bad", code=-int(sent))])


def test_one_at_once_prints_as_it_goes_with_all_threads(run, stage, tmp_path):
    run([stage("a"), stage("b")], max_parallel=1)
    assert not list((tmp_path / "output" / "stages").glob("*.log"))


@pytest.mark.parametrize(("device", "max_parallel"), [("cpu", 2), ("cuda:0", 1)])
def test_by_default_two_run_at_once_on_a_cpu(tmp_path, four_threads, device, max_parallel):
    assert Schedule(tmp_path, tmp_path, {"device": device}, {})._max_parallel == max_parallel


def test_idle_time_is_used_beside_other_stages_and_left_to_those_that_need_it(
    run, stage, tmp_path, capsys, four_threads
):
    output = tmp_path / "output"
    ahead = stage("ahead", "begin", until=("use",))
    endless = stage("endless", "begin", until=("use",), seconds=600.0)
    stages = [
        stage("begin"),
        # each waits until the stages in idle time have begun
        stage("one", "begin", wait_for=str(output / "endless.pid")),
        stage("two", "begin", wait_for=str(output / "endless.pid")),
        stage("use", "one", "two"),
    ]
    seconds = run([*stages, ahead, endless])
    assert list(seconds) == ["begin", "one", "two", "use"]
    assert ahead.result.read_text() == "2" and not endless.result.is_file()
    assert [one.result.read_text() for one in stages] == ["4", "2", "2", "4"]
    shown = capsys.readouterr().out
    assert "ahead: finished after" in shown and "endless: stopped after" in shown and "'use' does the rest" in shown
    # all that needs idle time is done
    assert "in idle time" not in (run([*stages, ahead, endless]) and capsys.readouterr().out)


def test_a_failure_in_idle_time_fails_nothing(run, stage, tmp_path, capsys, four_threads):
    bad = stage("bad", "begin", until=("use",), code=7)
    one = stage("one", "begin", wait_for=str(tmp_path / "output" / "bad.pid"), seconds=1.0)
    seconds = run([stage("begin"), one, stage("use", "one"), bad])
    assert list(seconds) == ["begin", "one", "use"]
    assert "bad: the stage 'bad' ended with 7" in capsys.readouterr().out


def test_where_one_stage_runs_at_a_time_there_is_no_idle_time(run, stage):
    ahead = stage("ahead", until=("use",))
    run([stage("begin"), stage("use", "begin"), ahead], max_parallel=1)
    assert not ahead.result.exists()


SCRIPT = """
import json, sys
from pathlib import Path
from medi_monai.runs.experiment.schedule import Schedule
from medi_monai.runs.experiment.resolved import Stage
from medi_monai.utils.errors import report_user_errors
report_user_errors()
bundle, output, stages = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
stages = [Stage(name, "work", ["work.json"], Path(own["result"]), own, needs) for name, own, needs in stages]
Schedule(bundle, output, {}, {}, 2).run(stages)
"""


@pytest.fixture
def begin(tmp_path):
    """Starts a process of its own that runs stages."""
    started = []

    def begin(stages, **options):
        given = json.dumps([(one.name, one.options, one.needs) for one in stages])
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "bundle"), str(tmp_path / "output"), given]
        options = {"start_new_session": True, "stderr": subprocess.PIPE, "text": True, **options}
        started.append(subprocess.Popen(command, **options))
        stop = threading.Timer(100, started[0].kill)
        stop.daemon = True
        stop.start()
        return started[0]

    yield begin
    for process in started:
        with process:
            process.kill()


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["to the group", "to the parent alone"])
def test_an_interrupt_stops_all_and_the_time_of_each_is_noted(begin, stage, tmp_path, send):
    stages = [stage(name, seconds=60.0) for name in "ab"]
    process = begin(stages)
    while not all(one.result.with_suffix(".pid").is_file() for one in stages) and process.poll() is None:
        time.sleep(0.1)
    begun = time.monotonic()
    send(process.pid, signal.SIGINT)
    assert "interrupted" in process.communicate()[1] and process.returncode == -signal.SIGINT
    assert time.monotonic() - begun < 30
    for one in stages:
        record = read_json(tmp_path / "output" / "stages" / f"{one.name}.json")
        assert record["digest"] == "" and record["seconds"] > 0


@pytest.mark.parametrize(
    ("place", "coding"), [("/dev/full", "utf-8"), (os.devnull, "latin-1")], ids=["nowhere to print", "another encoding"]
)
def test_what_cannot_be_printed_does_not_stop_the_stages(begin, stage, tmp_path, place, coding):
    stages = [stage("a"), stage("b"), stage("c", "a", "b")]
    with open(place, "w") as file:
        process = begin(stages, stdout=file, env={**os.environ, "PYTHONIOENCODING": coding})
    # Python says with 120 that it could not print the last of it
    error = process.communicate()[1]
    assert process.returncode in (0, 120), error
    assert all(read_json(tmp_path / "output" / "stages" / f"{one.name}.json")["digest"] for one in stages)
    assert "made Zoë" in (tmp_path / "output" / "stages" / "c.log").read_text(encoding="utf-8")


def test_a_stage_that_needs_what_is_not_there_is_a_mistake_of_ours(run, stage):
    with pytest.raises(ValueError, match="'b' needs one that does not exist"):
        run([stage("a"), stage("b", "x")])


def test_an_experiment_that_was_moved_is_not_done_again(stage, tmp_path, capsys):
    def run_in(output):
        output.mkdir(exist_ok=True)
        result = output / "made.txt"
        own = {"result": str(result), "wait_for": str(tmp_path / "bundle" / "configs" / "work.json")}
        Schedule(tmp_path / "bundle", output, {}, {}, 1).run([Stage("made", "work", ["work.json"], result, own)])

    stage("bundle")
    run_in(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    capsys.readouterr()
    run_in(tmp_path / "there")
    assert "made: already done" in capsys.readouterr().out
    # beside it is not below it
    run_in(tmp_path / "there too")
    assert (tmp_path / "there too" / "made.txt").is_file()
