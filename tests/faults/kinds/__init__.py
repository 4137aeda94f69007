"""Kinds of faults. A kind is a function of a recipe and a random generator that returns changes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.faults.cases import Case, Change
from tests.faults.kinds.commands import options, overlays
from tests.faults.kinds.data import images, tables
from tests.faults.kinds.features import features, stores
from tests.faults.kinds.kills import kills, kills_at_writes, stops
from tests.faults.kinds.machine import disk_full, limits, signals, stdout
from tests.faults.kinds.models import checkpoints, models
from tests.faults.kinds.names import names
from tests.faults.kinds.outputs import outputs
from tests.faults.recipes import RECIPES, Recipe

KINDS: dict[str, Callable[[Recipe, Random], list[Change]]] = {
    "options": options, "overlays": overlays, "tables": tables, "images": images, "models": models,
    "checkpoints": checkpoints, "outputs": outputs, "names": names, "signals": signals, "kills": kills,
    "kills_at_writes": kills_at_writes, "stops": stops, "disk_full": disk_full, "limits": limits, "stdout": stdout,
    "features": features, "stores": stores,
}  # fmt: skip


def generate(kind: str, run: str, count: int, seed: int) -> list[Case]:
    """Cases of a kind for a run: another count continues the same list, another seed is another list.

    Args:
        kind: of ``KINDS``.
        run: name of a recipe.
        count: of cases; fewer where the kind does not concern the run.
        seed: of all that is drawn.
    """
    changes: list[Change] = []
    for turn in range(1000):
        rng = Random(f"{seed} {kind} {run} {turn}")
        more = KINDS[kind](RECIPES[run], rng)
        rng.shuffle(more)
        known = set(map(repr, changes))
        new = [change for change in more if repr(change) not in known]
        changes += new
        if len(changes) >= count or not new:
            break
    return [Case(kind, run, change, seed, number) for number, change in enumerate(changes[:count])]
