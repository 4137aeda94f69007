"""What a case is: a run that works, and one change to it. A case is data: a new one is a line in ``kinds``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: what has to come of a case: refused in one line; the result of the undisturbed run; one of both; anything in order
REFUSED, SAME, REFUSED_OR_SAME, ANY = "refused", "same", "refused or same", "any"
#: an option that is taken out of the command line
WITHOUT = object()


@dataclass(frozen=True)
class Change:
    """What is done to a run that works.

    Attributes:
        name: of the fault, in words.
        expected: what has to come of it.
        options: for the command line, beside or instead of those of the recipe.
        edits: calls of functions of :mod:`tests.faults.edits` on the files of the case, by name.
        overlay: name and bytes of a config file that comes last.
        kill: a signal, and when it is sent, as a share of the undisturbed run's time; or ``before`` or ``after``, and
            the write at which it is killed, as a share of all; then the command is repeated.
        again: options for the repeated command; where these cannot be, it is repeated as it was.
        file_size: largest size of a file in bytes, as a full disk is.
        limits: of the system, as ``ulimit`` sets them, by the names of :mod:`resource`, addresses beyond those that the
            imports take; then the command is repeated without them.
        folder: name of the folder in which the run is started.
        stdout: ``closed``, or ``head`` as by ``| head -1``.
        environment: variables.
        config: instead of that of the recipe.
        run_id: instead of that of the recipe.
    """

    name: str
    expected: str = REFUSED
    options: dict[str, Any] = field(default_factory=dict)
    edits: tuple[tuple, ...] = ()
    overlay: tuple[str, bytes] | None = None
    kill: tuple[str, float] | None = None
    again: dict[str, Any] = field(default_factory=dict)
    file_size: int | None = None
    limits: dict[str, int] = field(default_factory=dict)
    folder: str = "case"
    stdout: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    config: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Case:
    """One change to one run, with the words that repeat it."""

    kind: str
    run: str
    change: Change
    seed: int = 0
    number: int = 0

    @property
    def command(self) -> str:
        """What repeats this case alone."""
        return f"python -m tests.faults --run {self.run} --kind {self.kind} --seed {self.seed} --only {self.number}"


def spelled(value: Any) -> str:
    """A value as a user would write it behind an option."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
