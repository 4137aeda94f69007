"""Folders with names as people have them, that may only be read, or whose files have other dates."""

from __future__ import annotations

from random import Random

from tests.faults.cases import ANY, REFUSED_OR_SAME, SAME, Change
from tests.faults.recipes import Recipe

#: names of folders that mean something to some program on the way
NAMES = [
    "a b", " a", "a ", "Größe", "Gro\u0308ße", "日本", "a#b", "#a", "a@b", "@a", "$a", "a$b", "100%", "%a", "a'b",
    'a"b', "[a]", "[1, 2]", "{a}", "{image}", "a,b", "a;b", "a:b", "a::b", "a=b", "=1+1", "-a", "--a", "~", "~a",
    "a\nb", "a\tb", "a\\b", "*", "?", "a|b", "<b>a<", "&amp;", "...", "a.csv", "earlier-1", ".hidden", "null", "None",
    "true", "5", "1e3", "a\u200bb", "a" * 200, "\udcff", "\x1b[31m", "CON", "patches", "images",
]  # fmt: skip


def names(recipe: Recipe, rng: Random) -> list[Change]:
    """The same run in a folder of another name, or with inputs of other names or dates, or read-only ones."""
    changes = []
    for name in rng.sample(NAMES, 8):
        changes.append(Change(f"in the folder {name[:20]!r}", SAME, folder=name))
    inputs = {option: value for option, value in recipe.options.items() if value in recipe.reads}
    for option, value in inputs.items():
        for name in rng.sample(NAMES, 5):
            # an option that MONAI's parser or the shell's rules read otherwise may be refused
            edit = ("rename", value, name)
            overlay = recipe.overlay and recipe.overlay.startswith(f"{value}/")
            if not overlay:
                changes.append(Change(f"{option} is {name[:20]!r}", REFUSED_OR_SAME, {option: name}, (edit,)))
    for folder in recipe.reads:
        changes.append(Change(f"{folder} may only be read", REFUSED_OR_SAME, edits=(("write_protect", folder),)))
        for seconds, words in ((0, "1970"), (2**32, "2106")):
            changes.append(Change(f"{folder} is of {words}", SAME, edits=(("date", folder, seconds),)))
    changes.append(Change("the bundle may only be read", ANY, edits=(("write_protect", "bundle"),)))
    return changes
