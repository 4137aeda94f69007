"""Tables and images that are wrong, damaged, or of another form."""

from __future__ import annotations

from random import Random

from tests.faults.cases import ANY, REFUSED, REFUSED_OR_SAME, SAME, Change
from tests.faults.edits import IMAGE_FORMS
from tests.faults.recipes import Recipe

#: cells that mean something to some program on the way
CELLS = [
    "", " ", "nan", "NaN", "NA", "None", "null", "-", "?", "#N/A", "1e400", "-1", "0", "1_0", "1.0", "../../x",
    "/etc/passwd", "a\nb", "a\rb", '"', "'", "<b>x</b>", "=1+1", "@x", "$x", "%x", "ä", "\u200b", "a" * 3000, "a/b",
    "a|b", "\x00",
]  # fmt: skip


def tables(recipe: Recipe, rng: Random) -> list[Change]:
    """Missing columns, headers that repeat, no rows, other encodings and separators, cells of all sorts."""
    changes: list[Change] = []
    for table in recipe.tables:

        def change(words: str, expected: str, *edit: object, table: str = table) -> None:
            changes.append(Change(f"{table}: {words}", expected, edits=(("change_table", table, *edit),)))  # noqa: B023

        for column in rng.sample(range(12), 4):
            change(f"without column {column}", ANY, "without column", column)
            change(f"column {column} renamed", ANY, "renamed column", column)
        column, cell = rng.randrange(12), rng.choice(CELLS)
        change(f"column {column} twice", REFUSED, "column twice", column)
        change("no rows", REFUSED, "no rows")
        change("rows twice", ANY, "rows twice")
        change(f"column {column} all {cell[:20]!r}", ANY, "all cells", column, cell)
        for _ in range(6):
            column, cell = rng.randrange(12), rng.choice(CELLS)
            change(f"a cell of column {column} is {cell[:20]!r}", ANY, "one cell", column, cell)
        for encoding in ("utf-16", "utf-8-sig", "utf-32"):
            change(encoding, REFUSED_OR_SAME, "encoding", 0, encoding)
        for separator in (";", "\t", "|"):
            change(f"separator {separator!r}", REFUSED_OR_SAME, "separator", 0, separator)
        for ends in ("\r\n", "\r"):
            change(f"lines end with {ends!r}", REFUSED_OR_SAME, "line ends", 0, ends)
        for words in ("short row", "long row", "open quote"):
            change(words, ANY, words)
        change("Parquet by the name of CSV", REFUSED_OR_SAME, "parquet")
        change("all cells quoted", SAME, "quoted")
        change("Latin-1 within", ANY, "insert", 0, "\xfc")
        change("a zero byte within", ANY, "insert", 0, "\x00")
        changes += files(table, rng)
        changes.append(Change(f"{table}: is a link", SAME, edits=(("to_link", table),)))
        changes.append(Change(f"{table}: is binary", edits=(("write", table, rng.randbytes(500)),)))
    return changes


def files(name: str, rng: Random, expected: str = REFUSED) -> list[Change]:
    """What can be in the place of any file that a run needs."""
    return [
        Change(f"{name}: is missing", expected, edits=(("remove", name),)),
        Change(f"{name}: is empty", expected, edits=(("empty", name),)),
        Change(f"{name}: is a folder", expected, edits=(("to_folder", name),)),
        Change(f"{name}: is a FIFO", expected, edits=(("to_fifo", name),)),
        Change(f"{name}: is a loop of links", expected, edits=(("to_loop", name),)),
        Change(f"{name}: is /dev/zero", expected, edits=(("to_device", name, "/dev/zero"),)),
        Change(f"{name}: is /dev/null", expected, edits=(("to_device", name, "/dev/null"),)),
        Change(f"{name}: cannot be read", expected, edits=(("permit", name, 0),)),
    ]


def images(recipe: Recipe, rng: Random) -> list[Change]:
    """One image of a folder: damaged, of another form, or no image; ``*`` stands for a file of the folder."""
    changes = []
    for folder in recipe.images:
        image = f"{folder}/*{rng.randrange(8)}"
        # a cohort has fingerprints of its images; pixels that were only written otherwise are the same
        damaged = REFUSED_OR_SAME if folder == "cohort" else ANY
        changes += files(image, rng, damaged)
        for form in IMAGE_FORMS:
            # the name of a prepared image follows from the bytes of its source
            same = form in ("RGBA", "BMP") and folder != "data"
            expected = REFUSED_OR_SAME if same else damaged
            changes.append(Change(f"{image}: {form}", expected, edits=(("change_image", image, form),)))
        for _ in range(4):
            share = round(rng.random(), 4)
            changes.append(Change(f"{image}: cut at {share}", damaged, edits=(("truncate", image, share),)))
            bit = rng.randrange(8)
            changes.append(Change(f"{image}: bit {bit} at {share}", damaged, edits=(("flip", image, share, bit),)))
            length = rng.choice([1, 16, 64])
            edit = ("fill", image, share, rng.choice([0, 255]), length)
            changes.append(Change(f"{image}: {length} bytes of {edit[3]} at {share}", damaged, edits=(edit,)))
        changes.append(Change(f"{image}: is a link", SAME, edits=(("to_link", image),)))
        changes.append(Change(f"{image}: is binary", damaged, edits=(("write", image, rng.randbytes(300)),)))
    if "on_error" in recipe.options:
        changes += [Change(f"{change.name}, skipped", ANY, {"on_error": "skip"}, change.edits) for change in changes]
    return changes
