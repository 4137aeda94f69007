"""``python -m tests.faults``: generated faults over every run of both bundles, with a table of what was tried."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from random import Random

from tests.faults.cases import Case
from tests.faults.kinds import KINDS, generate
from tests.faults.recipes import RECIPES
from tests.faults.trial import Outcome, try_case
from tests.faults.world import Runner, World


def try_all(
    cases: Sequence[Case],
    root: Path,
    runners: Sequence[Runner],
    minutes: float = float("inf"),
    record: Path | None = None,
) -> list[Outcome]:
    """Carry out cases, several at once; prints each one with faults.

    Args:
        cases: in any order.
        root: keeps the inputs of the runs, so that another call finds them, and the folders of cases with faults.
        runners: as many cases are carried out at once.
        minutes: after which no other case begins.
        record: a file to which a line of JSON is added for each case.
    """
    jobs: Queue[tuple[int, Case]] = Queue()
    for numbered in enumerate(cases):
        jobs.put(numbered)
    worlds = [World(root, runner) for runner in runners]
    outcomes: list[Outcome] = []
    end = time.monotonic() + 60 * minutes

    def work(world: World) -> None:
        while time.monotonic() < end:
            try:
                number, case = jobs.get_nowait()
            except Empty:
                return
            outcome = try_case(world, case, root / "cases" / str(number))
            outcomes.append(outcome)
            if record is not None:
                with record.open("a") as file:
                    file.write(recorded(outcome) + "\n")
            if outcome.faults:
                print(_shown(outcome), flush=True)

    threads = [threading.Thread(target=work, args=(world,)) for world in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def recorded(outcome: Outcome) -> str:
    case = outcome.case
    named = {"run": case.run, "kind": case.kind, "seed": case.seed, "number": case.number, "name": case.change.name}
    return json.dumps({**named, "faults": outcome.faults, "seconds": round(outcome.seconds, 2)})


def passed_in(record: Path) -> set[tuple[str, str, int, int]]:
    """Run, kind, seed and number of the cases that a record holds last without faults."""
    last = {}
    for line in record.read_text().splitlines() if record.exists() else ():
        case = json.loads(line)
        last[case["run"], case["kind"], case["seed"], case["number"]] = not case["faults"]
    return {case for case, passed in last.items() if passed}


def _shown(outcome: Outcome) -> str:
    case = outcome.case
    last = [line for line in outcome.output.splitlines() if line.strip()][-3:]
    lines = [f"\n{case.run} · {case.kind} · {case.change.name!r}", f"  {case.command}"]
    lines += [f"  FAULT {fault}" for fault in outcome.faults] + [f"    | {line[:220]}" for line in last]
    return "\n".join(lines)


def table_of(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table: runs by kinds, each with the number of cases and, where there are any, of those with faults."""
    tried = Counter((outcome.case.run, outcome.case.kind) for outcome in outcomes)
    wrong = Counter((outcome.case.run, outcome.case.kind) for outcome in outcomes if outcome.faults)
    runs = [name for name in RECIPES if any(run == name for run, _ in tried)]
    kinds = [name for name in KINDS if any(kind == name for _, kind in tried)]

    def cell(pairs: list[tuple[str, str]]) -> str:
        count, bad = sum(tried[pair] for pair in pairs), sum(wrong[pair] for pair in pairs)
        return f"{count} ({bad} failed)" if bad else str(count or "")

    lines = ["| Run | " + " | ".join(kinds) + " | all |", "|---" * (len(kinds) + 2) + "|"]
    for run in runs:
        cells = [cell([(run, kind)]) for kind in kinds]
        lines.append(f"| {run} | " + " | ".join(cells) + f" | {cell([(run, kind) for kind in kinds])} |")
    totals = [cell([(run, kind) for run in runs]) for kind in kinds]
    everything = cell([(run, kind) for run in runs for kind in kinds])
    return "\n".join([*lines, "| all | " + " | ".join(totals) + f" | {everything} |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a case has faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--run", action="append", choices=[*RECIPES], help="of one run; may be repeated (all)")
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="of one kind; may be repeated (all)")
    parser.add_argument("--count", type=int, default=20, help="cases of each kind and run (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    parser.add_argument("--only", type=int, help="number of the one case to try")
    parser.add_argument("--processes", type=int, default=1, help="cases at once (1)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no other case begins")
    parser.add_argument("--experiments", action="store_true", help="also the runs `experiment`, which take minutes")
    parser.add_argument("--folder", type=Path, help="keeps inputs and failed cases; found again by another call")
    parser.add_argument("--record", type=Path, help="a line for each case; those that it says passed are left out")
    given = parser.parse_args(arguments)
    runs = given.run or [name for name in RECIPES if given.experiments or not name.endswith("experiment")]
    count = given.count if given.only is None else given.only + 1
    cases = [
        case for run in runs for kind in given.kind or KINDS for case in generate(kind, run, count, given.seed)
        if given.only in (None, case.number)
    ]  # fmt: skip
    if given.record:
        passed = passed_in(given.record)
        cases = [case for case in cases if (case.run, case.kind, case.seed, case.number) not in passed]
    # whoever stops early has tried some of each
    Random(given.seed).shuffle(cases)
    if not cases:
        parser.error("there is no such case: the kind does not concern the run, it has fewer cases, or all have passed")
    root = given.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    root.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    runners = [Runner(root.resolve() / "cache") for _ in range(min(given.processes, len(cases)))]
    outcomes = try_all(cases, root.resolve(), runners, given.minutes, given.record)
    for runner in runners:
        runner.close()
    print("\n" + table_of(outcomes))
    faults = Counter(fault.split(":")[0] for outcome in outcomes for fault in outcome.faults)
    minutes = (time.monotonic() - start) / 60
    machine = f"{platform.system()} {platform.machine()}"
    print(f"\n{len(outcomes)} cases in {minutes:.1f} minutes on {machine}, seed {given.seed}")
    print(f"faults: {dict(faults) or 'none'}")
    if given.folder is None and not faults:
        shutil.rmtree(root)
    elif faults:
        print(f"folders of cases with faults: {root / 'cases'}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
