"""Signals, a full disk, and a standard output that nobody reads."""

from __future__ import annotations

from random import Random

from tests.faults.cases import ANY, REFUSED_OR_SAME, SAME, Change
from tests.faults.recipes import Recipe


def signals(recipe: Recipe, rng: Random) -> list[Change]:
    """A signal at a random moment, then the same command (a training: with ``--resume true`` where it says so)."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGKILL")
    moments = [(name, round(rng.uniform(0, 1.05), 3)) for name in names]
    return [Change(f"{name} at {moment} of its time", SAME, kill=(name, moment)) for name, moment in moments]


def disk_full(recipe: Recipe, rng: Random) -> list[Change]:
    """No file may be larger than so many bytes; then the same command without the limit."""
    sizes = [1, 64, 512, 4096, 8192, 32768, rng.randrange(1, 200_000), rng.randrange(1, 20_000)]
    return [Change(f"files end at {size} bytes", REFUSED_OR_SAME, file_size=size) for size in sizes]


def limits(recipe: Recipe, rng: Random) -> list[Change]:
    """Few open files, little memory or time, as ``ulimit`` or a scheduler sets them; then the command without them."""
    changes = []
    for number in (8, 12, 16, 24, 40, 64):
        changes.append(Change(f"{number} open files", REFUSED_OR_SAME, limits={"RLIMIT_NOFILE": number}))
    for megabytes in (10, 200, 1050, rng.randrange(1000, 3000)):
        most = {"RLIMIT_AS": megabytes * 2**20}
        changes.append(Change(f"{megabytes} MB more of addresses", REFUSED_OR_SAME, limits=most))
    for seconds in (1, 2):
        changes.append(Change(f"{seconds} s of computing", REFUSED_OR_SAME, limits={"RLIMIT_CPU": seconds}))
    return changes


def stdout(recipe: Recipe, rng: Random) -> list[Change]:
    """Standard output closed or cut, and terminals, homes and folders that are not there."""
    return [
        Change("standard output is closed", SAME, stdout="closed"),
        Change("standard output is read by head", SAME, stdout="head"),
        Change("a terminal of ASCII", SAME, environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}),
        Change("no HOME", ANY, environment={"HOME": "/gone", "XDG_CACHE_HOME": ""}),
        Change("no TMPDIR", ANY, environment={"TMPDIR": "/gone"}),
        Change("no MEDI_CACHE", ANY, environment={"MEDI_CACHE": "/proc/gone"}),
        Change("one column wide", SAME, environment={"COLUMNS": "1"}),
    ]
