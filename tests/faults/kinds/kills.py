"""Runs that are stopped or killed at moments spread evenly over their length, or as a file gets its name."""

from __future__ import annotations

from random import Random

from tests.faults.cases import SAME, Change
from tests.faults.recipes import Recipe

#: cases of one turn
EACH = 10
STOPS = ("SIGINT", "SIGTERM", "SIGHUP")


def kills(recipe: Recipe, rng: Random) -> list[Change]:
    """SIGKILL once in each tenth of the run's time; then the same command, for half of those that resume as they do."""
    moments = [round((tenth + rng.random()) / EACH, 4) for tenth in range(EACH)]
    return [
        Change(
            f"killed at {moment} of its time, then {'resumed' if again else 'repeated'}", SAME, dict(recipe.longer),
            kill=("SIGKILL", moment), again=again,
        )
        for moment, again in zip(moments, _again(recipe, rng))
    ]  # fmt: skip


def kills_at_writes(recipe: Recipe, rng: Random) -> list[Change]:
    """SIGKILL right before or after a file gets its name, counted over all that the run writes; then as above."""
    shares = [round((tenth + rng.random()) / EACH, 4) for tenth in range(EACH)]
    return [
        Change(
            f"killed {when} its write at {share}, then {'resumed' if again else 'repeated'}", SAME,
            dict(recipe.longer), kill=(when, share), again=again,
        )
        for share, again, when in zip(shares, _again(recipe, rng), ("before", "after") * EACH)
    ]  # fmt: skip


def stops(recipe: Recipe, rng: Random) -> list[Change]:
    """Each signal that asks a run to stop, once in each quarter of its time; then resumed, where it resumes."""
    again = {"resume": "true"} if recipe.run in ("training", "aligning") else {}
    moments = [(name, round((part + rng.random()) / 4, 4)) for name in STOPS for part in range(4)]
    return [
        Change(f"{name} at {moment} of its time, then repeated", SAME, dict(recipe.longer), kill=(name, moment),
               again=again)
        for name, moment in moments
    ]  # fmt: skip


def _again(recipe: Recipe, rng: Random) -> list[dict]:
    resumes = {"resume": "true"} if recipe.run in ("training", "aligning") else {}
    turns = [resumes, {}] * (EACH // 2)
    rng.shuffle(turns)
    return turns
