"""Match the names of feature files to the slides or patients of a table."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass

from medi_monai.cohort.tables.files import IMAGE_SUFFIXES
from medi_monai.utils.errors import InputError, nearest
from medi_monai.utils.text import alike, listed, plural

__all__ = ["NameMatches", "match_names"]


@dataclass(frozen=True)
class NameMatches:
    """Which files belong to which names of a table.

    Args:
        files_of: files of each name, in order; none for a name without a file.
        strays: files that belong to no name.
        inexact: files whose name is not that of the table, with the name that they belong to.
    """

    files_of: dict[str, list[str]]
    strays: list[str]
    inexact: dict[str, str]

    @property
    def absent(self) -> list[str]:
        """Names without a file."""
        return [name for name, files in self.files_of.items() if not files]

    def about_absent(self, kind: str, where: object) -> str:
        """Return what to say about names without a file: how many, an example, and the nearest name of a file.

        Args:
            kind: what the names are, such as ``slide``.
            where: where the files are.
        """
        first = self.absent[0]
        close = nearest(first, self.strays, 1)
        hint = f"; the nearest name of a file without a {kind} is {close[0]!r}" if close else ""
        return (
            f"{len(self.absent):,} of {plural(len(self.files_of), kind)} of the table have no features in {where}: "
            f"{listed(map(repr, self.absent), 3)}{hint}"
        )


def match_names(files: Sequence[str], names: Sequence[str], several: bool = False) -> NameMatches:
    """Find the name of a table that each file belongs to.

    A file belongs to the name that it has itself, apart from the suffix of a slide, case, spaces and Unicode form. If
    there is none, it belongs to the longest name that it begins with, followed by a point, as file names of TCGA are
    (``TCGA-….<UUID>``); for patients, by any character other than a letter or digit.

    Args:
        files: names of the files, without suffix.
        names: slides or patients of the table.
        several: whether a name is a patient, who may have several files.

    Raises:
        InputError: for several files of one slide.
    """
    given = list(dict.fromkeys(names))
    by_look: dict[str, str | None] = {}
    for own in given:
        # names that only look alike are matched by themselves alone
        by_look[_look(own)] = None if _look(own) in by_look else own
    by_look |= {name: name for name in given}
    starts = sorted(look for look, name in by_look.items() if name is not None)
    files_of: dict[str, list[str]] = {name: [] for name in given}
    strays, inexact = [], {}
    exact = {file: by_look.get(file) or by_look.get(alike(file)) for file in files}
    for file in sorted(files, key=lambda file: (exact[file] is None, file)):
        name: str | None = exact[file] or by_look.get(_longest_start(alike(file), starts, several))
        taken = [] if name is None or several else files_of[name]
        if name is None or (taken and exact[file] is None and exact[taken[0]] is not None):
            strays.append(file)
            continue
        if taken:
            raise InputError(f"{taken[0]!r} and {file!r} are both features of {name!r}: keep one of them")
        files_of[name].append(file)
        if exact[file] is None:
            inexact[file] = name
    return NameMatches(files_of, strays, inexact)


def _look(name: str) -> str:
    base, suffix = os.path.splitext(name)
    return alike(base if suffix.lower() in IMAGE_SUFFIXES else name)


def _longest_start(file: str, starts: list[str], several: bool) -> str:
    for length in range(len(file) - 1, 0, -1):
        follows = file[length]
        if follows == "." or (several and not follows.isalnum()):
            at = bisect.bisect_left(starts, file[:length])
            if at < len(starts) and starts[at] == file[:length]:
                return starts[at]
    return ""
