"""Features that are damaged, contradict each other, or do not fit their table; stores of features that are damaged."""

from __future__ import annotations

from random import Random

from tests.faults.cases import ANY, REFUSED, SAME, Change
from tests.faults.edits import FEATURE_FORMS
from tests.faults.kinds.data import files
from tests.faults.recipes import Recipe

#: column of the class and of the center in ``tiles.csv``
LABEL, CENTER = 4, 5
#: of a run whose store of features is there already
STORE = "cohort/features/**"


def features(recipe: Recipe, rng: Random) -> list[Change]:
    """Files of slides that hold no features, those of another encoder, or no numbers; a single class or center."""
    if "feature_source" not in recipe.options:
        return []
    # not s1, which is the other slide of "two encoders"
    name = f"data/features/s{rng.randrange(2, 36)}.npz"
    changes = [Change(f"{name}: {how}", edits=(("change_features", name, how),)) for how in FEATURE_FORMS]
    changes += files(name, rng)
    for _ in range(3):
        share, bit = round(rng.random(), 4), rng.randrange(8)
        changes.append(Change(f"{name}: cut at {share}", edits=(("truncate", name, share),)))
        changes.append(Change(f"{name}: bit {bit} at {share}", ANY, edits=(("flip", name, share, bit),)))
    changes.append(Change(f"{name}: is binary", edits=(("write", name, rng.randbytes(300)),)))
    changes += [Change(f"{change.name}, skipped", ANY, {"on_error": "skip"}, change.edits) for change in changes]
    changes.append(Change(f"{name}: HDF5", SAME, edits=(("change_features", name, "HDF5"),)))
    table = "data/tiles.csv"
    for words, edit in (
        ("one class", ("all cells", LABEL, "LUAD")),
        ("one center", ("all cells", CENTER, "North")),
        ("one slide", ("all cells", 1, "s3")),
        ("rows twice", ("rows twice",)),
    ):
        changes.append(Change(f"{table}: {words}", edits=(("change_table", table, *edit),)))
    changes.append(Change("no such folder", options={"feature_source": "data/gone"}))
    changes.append(Change("the folder above", SAME, {"feature_source": "data"}))
    for column in ("gone", "sex", "slide"):
        columns = {"slide": "slide", "patient": "patient", "split": column}
        changes.append(Change(f"the split is in {column}", options={"columns": columns}))
    return changes


def stores(recipe: Recipe, rng: Random) -> list[Change]:
    """Stored features of an earlier run that are damaged, or not finished."""
    if recipe.run != "embedding":
        return []
    changes = []
    for file in ("features.npy", "store.json", "rows.parquet"):
        name, share = f"{STORE}/{file}", round(0.9 * rng.random(), 4)
        for words, edit in (
            ("is empty", ("empty", name)),
            (f"cut at {share}", ("truncate", name, share)),
            ("is text", ("write", name, b"features")),
            ("is a folder", ("to_folder", name)),
        ):
            changes.append(Change(f"{file}: {words}", REFUSED, edits=(("finished",), edit)))
    changes.append(Change("nothing is missing", SAME, edits=(("finished",),)))
    changes.append(Change("a block is not finished", SAME, edits=(("finished",), ("remove", f"{STORE}/done/0"))))
    return changes
