"""One case from its folder to its faults."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.cases import ANY, REFUSED, SAME, Case, Change
from tests.faults.edits import apply
from tests.faults.judge import (
    digests_of,
    everything,
    faults_of_files,
    faults_of_result,
    faults_of_stop,
    faults_of_words,
    snapshot,
)
from tests.faults.kinds.kills import STOPS
from tests.faults.recipes import RECIPES, Recipe
from tests.faults.world import Undisturbed, World, command_of, spawns

#: of an edit: the run has been carried out before
FINISHED = ("finished",)
#: a run that was killed before its first checkpoint does not resume
NOTHING_SAVED = "there is no checkpoint to resume from"


@dataclass(frozen=True)
class Outcome:
    """What came of a case: its faults, none where all is in order, and the end of what it printed."""

    case: Case
    faults: tuple[str, ...]
    code: int | None
    seconds: float
    output: str


def try_case(world: World, case: Case, work: Path) -> Outcome:
    """Carry out a case in a folder of its own, which is gone afterwards unless there are faults."""
    recipe, change = RECIPES[case.run], case.change
    shutil.rmtree(work, ignore_errors=True)
    folder = world.folder_of(recipe, work / change.folder)
    (work / "home").mkdir()
    environment = {"HOME": str(work / "home"), **change.environment}
    if FINISHED in change.edits:
        _end(world, recipe, Case(case.kind, case.run, Change("")), work, environment)
    made = set(snapshot(folder)) if FINISHED in change.edits else set()
    for edit in change.edits:
        if edit != FINISHED:
            apply(folder, edit)
    if change.overlay and change.overlay[1] is not None:
        (folder / change.overlay[0]).write_bytes(change.overlay[1])
    present = snapshot(folder)
    before = _of_the_user(present, made, recipe, change)
    commands = _commands(case)
    expected = SAME if len(commands) > 1 else change.expected
    right = world.undisturbed(recipe, change) if expected not in (ANY, REFUSED) else None
    faults: list[str] = []
    code, seconds, output = None, 0.0, ""
    while commands:
        command, disturbed = commands.pop(0)
        ended = _run(world, recipe, command, work, environment, disturbed, right)
        if change.kill and not disturbed and ended["code"] == 1 and NOTHING_SAVED in ended["output"]:
            commands.append((replace(case, change=replace(change, again={})), False))
        output, seconds = output + ended["output"], seconds + ended["seconds"]
        code = ended["code"]
        told = disturbed and change.kill is not None
        # who has no time left to compute is told to stop
        timed_out = disturbed and "RLIMIT_CPU" in change.limits
        faults += faults_of_words(ended["output"], code, killed=told or timed_out)
        if told and change.kill and change.kill[0] in STOPS:
            faults += faults_of_stop(ended["output"], code)
        faults += ["processes of the run outlive it"] if ended["left"] else []
        faults += faults_of_files(folder, before, present, may_leave=bool(told))
        if faults or (disturbed and (change.file_size or change.limits) and code == 0):
            break
    if not faults or expected == SAME:
        left = everything(folder, recipe.outputs) if change.kill else digests_of(folder, recipe.results)
        results = left if right else {}
        faults += faults_of_result(expected, code, results, right.results if right else {})
    for path in (path for path in [folder, *folder.rglob("*")] if path.is_dir() and not path.is_symlink()):
        path.chmod(0o755)
    if not faults:
        shutil.rmtree(work)
    return Outcome(case, tuple(faults), code, seconds, output)


def _commands(case: Case) -> list[tuple[Case, bool]]:
    """The command lines of a case, each with whether it is disturbed."""
    if case.change.kill is None and case.change.file_size is None and not case.change.limits:
        return [(case, False)]
    return [(case, True), (case, False)]


def _run(
    world: World,
    recipe: Recipe,
    case: Case,
    work: Path,
    environment: dict,
    disturbed: bool,
    right: Undisturbed | None,
):
    change = case.change
    log = work / f"log{len(list(work.glob('log*')))}.txt"
    more: dict = {"environment": environment, "stdout": change.stdout}
    if change.kill and right:
        how, share = change.kill
        more |= {"spawn": spawns(change), "alone_after": 60}
        if disturbed and spawns(change):
            more["kill"] = (how, share * right.seconds)
        elif disturbed:
            more["at_write"] = (how, max(1, round(share * right.writes)))
    if disturbed and change.file_size:
        more["file_size"] = change.file_size
    if disturbed and change.limits:
        more["limits"] = change.limits
    again = {} if disturbed else change.again
    return world.runner.run(command_of(recipe, case, again), work / change.folder, log, recipe.seconds, **more)


def _end(world: World, recipe: Recipe, case: Case, work: Path, environment: dict) -> None:
    ended = world.runner.run(
        command_of(recipe, case),
        work / case.change.folder,
        work / "before.txt",
        recipe.seconds,
        environment=environment,
    )
    if ended["code"] != 0:
        raise RuntimeError(f"{recipe.name} does not run: {ended['output'][-2000:]}")


def _of_the_user(files: dict[str, str], made: set[str], recipe: Recipe, change: Change) -> dict[str, str]:
    """What must be there afterwards as it was: all but what the run itself has made earlier."""
    written = {edit[1] for edit in change.edits if edit[0] == "write"}
    own = {name for name in made if name.split("/")[0] in recipe.outputs} - written
    return {name: digest for name, digest in files.items() if name not in own}
