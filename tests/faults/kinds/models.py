"""Files of models and checkpoints that are damaged, incomplete, or of another version."""

from __future__ import annotations

from random import Random

from tests.faults.cases import ANY, REFUSED, SAME, Change
from tests.faults.kinds.data import files
from tests.faults.recipes import Recipe

WRONG_VALUES = [None, 5, -1, "x", [], {}, True, [1, "a"], {"a": None}, 1e308, "ä" * 300]
TENSORS = (
    "nan", "infinite", "one key less", "one key more", "another shape", "another type", "no tensor", "a list",
    "nothing", "a number",
)  # fmt: skip


def models(recipe: Recipe, rng: Random) -> list[Change]:
    """Weights with a flipped bit or NaN, records with missing keys, files that are no files."""
    changes = []
    for name in recipe.models:
        weights = name.endswith(".pt")
        changes += files(name, rng)
        changes.append(Change(f"{name}: is a link", SAME, edits=(("to_link", name),)))
        for _ in range(3):
            share, bit = round(rng.random(), 4), rng.randrange(8)
            changes.append(Change(f"{name}: cut at {share}", edits=(("truncate", name, share),)))
            expected = REFUSED if weights else ANY
            changes.append(Change(f"{name}: bit {bit} at {share}", expected, edits=(("flip", name, share, bit),)))
            edit = ("fill", name, share, rng.choice([0, 255]), 64)
            changes.append(Change(f"{name}: 64 bytes of {edit[3]} at {share}", expected, edits=(edit,)))
        if weights:
            for how in TENSORS:
                changes.append(Change(f"{name}: {how}", edits=(("change_tensors", name, how),)))
            changes.append(Change(f"{name}: runs code", edits=(("whole_pickle", name),)))
            changes.append(Change(f"{name}: is text", edits=(("write", name, b"weights"),)))
        else:
            for _ in range(3):
                number, value = rng.randrange(40), rng.choice(WRONG_VALUES)
                changes.append(Change(f"{name}: without key {number}", ANY, edits=(("drop_key", name, number),)))
                edit = ("retype_key", name, number, value)
                changes.append(Change(f"{name}: key {number} is {str(value)[:20]}", ANY, edits=(edit,)))
            for content in (b"{}", b"[]", b"null", b"5", b"{", b'{"a": NaN}', b"\xff\xfe"):
                changes.append(Change(f"{name}: is {content!r}", edits=(("write", name, content),)))
            changes.append(Change(f"{name}: with an unknown key", ANY, edits=(("set_key", name, "newer", 1),)))
    return changes


def checkpoints(recipe: Recipe, rng: Random) -> list[Change]:
    """A training that is to resume from checkpoints that are damaged; files of the user's beside them."""
    if "ckpt_dir" not in recipe.options or recipe.run != "training":
        return []
    last, first, resume = "new/checkpoint_00000004.pt", "new/checkpoint_00000002.pt", {"resume": "true"}
    before = ("finished",)
    changes = []
    for name in (last, first, "new/checkpoints.json"):
        share, bit = round(rng.random(), 4), rng.randrange(8)
        damages = [
            ("cut", ("truncate", name, share)), ("a bit", ("flip", name, share, bit)), ("empty", ("empty", name)),
            ("missing", ("remove", name)), ("a FIFO", ("to_fifo", name)), ("a folder", ("to_folder", name)),
        ]  # fmt: skip
        if name.endswith(".pt"):
            damages += [(how, ("change_tensors", name, how)) for how in TENSORS]
            damages += [("code", ("whole_pickle", name)), ("of another step", ("swap", name, first))]
        for words, edit in damages:
            changes.append(Change(f"resume, {name}: {words} at {share}", ANY, resume, (before, edit)))
    for name in ("checkpoint_best.pt", "checkpoint_00000002_best.pt", "checkpoint_00000001 (copy).pt", "my.pt"):
        edit = ("write", f"new/{name}", b"of the user's")
        changes.append(Change(f"{name} of the user's is kept", ANY, edits=(edit,)))
        changes.append(Change(f"resume beside {name} of the user's", ANY, resume, (before, edit)))
    changes.append(Change("resume without a checkpoint", REFUSED, resume))
    changes.append(Change("resume with other settings", REFUSED, {**resume, "learning_rate": 0.5}, (before,)))
    return changes
