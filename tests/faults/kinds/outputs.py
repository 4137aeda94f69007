"""Output folders that cannot be written, hold what is the user's, or lie in each other."""

from __future__ import annotations

from random import Random

from tests.faults.cases import ANY, REFUSED, REFUSED_OR_SAME, SAME, Change
from tests.faults.recipes import Recipe

OF_THE_USER = (
    "summary.json", "audit.json", "audit.html", "grid.png", "manifest.csv", "report.html", "metrics.json", "probe.json",
    "cohort.csv", "model.pt", "model.json", "schema.json", "plan.csv", "images/1.png", "patches/x.png", "notes.txt",
    "sampling.json", "classifier.json", "classifier.pt", "alignment.json", "rejected.csv", "quality.html",
    "checkpoint_1.pt", "samples/step_00000004.png", "checkpoints.json", "features/x.npz", "earlier-1/notes.txt",
    "confusion.csv",
)  # fmt: skip


def outputs(recipe: Recipe, rng: Random) -> list[Change]:
    """Folders that are files, cannot be written, are links, or are those of the data; files of the same names."""
    given = [name for name in ("output_dir", "ckpt_dir", "aligned_dir") if recipe.options.get(name) in recipe.outputs]
    changes = []
    for option in given:
        folder = recipe.options[option]
        changes += [
            Change(f"{option} is a file", edits=(("write", folder, b"x"),)),
            Change(f"{option} is in a file", options={option: "file/out"}, edits=(("write", "file", b"x"),)),
            Change(f"{option} cannot be written", edits=(("make_folder", folder), ("permit", folder, 0o555))),
            Change(f"{option} cannot be read", edits=(("make_folder", folder), ("permit", folder, 0))),
            Change(f"{option} is a loop of links", edits=(("write", folder, b"x"), ("to_loop", folder))),
            Change(f"{option} is a FIFO", edits=(("write", folder, b"x"), ("to_fifo", folder))),
            Change(f"{option} is in /proc", options={option: "/proc/x"}),
            Change(f"{option} is /dev/null", options={option: "/dev/null"}),
            Change(f"{option} is too long", options={option: "x" * 300}),
            Change(f"{option} is far too long", options={option: "/".join(["x" * 200] * 30)}),
            Change(f"{option} has a zero byte", options={option: "a\\x00b"}, expected=ANY),
            Change(f"{option} is the bundle", options={option: "bundle"}, expected=ANY),
            Change(f"{option} is configs", options={option: "bundle/configs"}, expected=ANY),
            Change(f"{option} is here", options={option: "."}, expected=ANY),
            Change(f"{option} is empty", options={option: ""}, expected=ANY),
            Change(
                f"{option} is a link to an empty folder",
                REFUSED_OR_SAME,
                edits=(("make_folder", "real"), ("link_folder", folder, "real")),
            ),
        ]
        for name in recipe.reads:
            # what is the user's own is no place for results
            expected = REFUSED if name == "data" else ANY
            changes.append(Change(f"{option} is {name}", expected, {option: name}))
            link = ("link_folder", folder, name)
            changes.append(Change(f"{option} is a link to {name}", expected, edits=(link,)))
        changes += [Change(f"{option} is within {name}", ANY, {option: f"{name}/out"}) for name in recipe.reads]
        for name in rng.sample(OF_THE_USER, 8):
            edit = ("write", f"{folder}/{name}", b"of the user's")
            changes.append(Change(f"{name} of the user's in {option}", ANY, edits=(edit,)))
    if len(given) > 1:
        one, other = given[:2]
        changes.append(Change(f"{one} is {other}", ANY, {one: recipe.options[other]}))
        changes.append(Change(f"{one} is within {other}", ANY, {one: f"{recipe.options[other]}/in"}))
    changes.append(Change("after an equal run", SAME, edits=(("finished",),)))
    if recipe.run == "preparing":
        changes.append(Change("after a run of other settings", ANY, {"split_seed": 5}, (("finished",),)))
    return changes
