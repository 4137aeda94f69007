"""Names from data that are markup, formulas, paths or math stay text: on pages, in tables, and in names of files."""

import io
import json
from html.parser import HTMLParser
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.faults.judge import snapshot
from tests.faults.recipes import RECIPES
from tests.faults.world import LOCK, Runner, World, command_of, make_data

CLASSES = ("<script>alert(1)</script>", "=1+1")
CENTERS = ('"><img src=x onerror=alert(1)>', "../../up\\..\\", "line\nbreak $\\frac{")
SEXES = ("'; DROP TABLE--", "{{ 7*7 }}")
#: a run, options of its own, and what its output becomes
RUNS = [
    ("pathology/preparing", {}, {"out": "cohort"}),
    ("pathology/auditing", {}, {"out": "audit"}),
    ("pathology/training", {}, {"new": "models", "out": "training"}),
    ("pathology/sampling", {}, {"out": "medi"}),
    ("pathology/evaluation", {"arms": {"medi": "medi"}}, {"out": "evaluation"}),
    ("pathology/probing", {"arms": {"medi": "medi"}}, {"out": "probing"}),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which all runs have ended, and what lay around it before."""
    root = tmp_path_factory.mktemp("text")
    runner = Runner(root / "cache")
    world = World(root, runner)
    with LOCK:
        make_data(root)
    path = root / "pathology" / "data" / "tiles.csv"
    table = pd.read_csv(path, dtype=str)
    for column, names in (("project_id", CLASSES), ("center", CENTERS), ("sex", SEXES)):
        table[column] = table[column].map(dict(zip(sorted(set(table[column])), names)))
    table.to_csv(path, index=False)
    case = world.folder_of(RECIPES["pathology/preparing"], root / "above" / "upper" / "case")
    for number, (name, options, becomes) in enumerate(RUNS):
        ended = runner.run(command_of(RECIPES[name], **options), case, root / f"{number}.txt", 120.0)
        assert ended["code"] == 0, (name, ended["output"][-3000:])
        for output, target in becomes.items():
            (case / output).rename(case / target)
    runner.close()
    return case


class Markup(HTMLParser):
    """What of a page would run or load."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.suspects, self.text, self.in_script = [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.in_script = tag == "script"
        of_data = [(name, value) for name, value in attributes if name.startswith("on") or value == "x"]
        self.suspects += [(tag, *pair) for pair in of_data]

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        (self.scripts if self.in_script else self.text).append(data)


def test_pages_show_names_and_run_none(finished):
    pages = sorted(finished.rglob("*.html"))
    assert {path.parent.name for path in pages} >= {"cohort", "audit", "evaluation", "probing"}
    for path in pages:
        markup = Markup(path.read_text())
        assert markup.suspects == [] and "alert(1)" not in " ".join(markup.scripts), path
        assert "49" not in map(str.strip, markup.text), path
    shown = " ".join(" ".join(Markup(path.read_text()).text) for path in pages)
    assert CLASSES[0] in shown and CLASSES[1] in shown and CENTERS[0] in shown


def test_tables_hold_names_as_they_were_given(finished):
    cohort = pd.read_csv(finished / "cohort" / "cohort.csv", dtype=str, keep_default_na=False)
    assert set(cohort["project_id"]) == set(CLASSES) and set(cohort["sex"]) == set(SEXES)
    centers = {" ".join(center.split()) for center in cohort["center"]}
    assert centers == {" ".join(center.split()) for center in CENTERS}
    manifest = pd.read_csv(finished / "medi" / "manifest.csv", dtype=str, keep_default_na=False)
    assert set(manifest["project_id"]) == set(CLASSES) and set(manifest["center"]) <= set(cohort["center"])


def test_files_stay_in_their_folders_under_names_that_every_system_takes(finished):
    around = {name.split("/")[0] for name in snapshot(finished.parents[1])}
    assert around == {"upper"}
    made = {target for _, _, becomes in RUNS for target in becomes.values()}
    assert {path.name for path in finished.iterdir()} - {"out_cohort"} == {"bundle", "data"} | made
    for name in snapshot(finished):
        for part in PurePosixPath(name).parts:
            assert part.isprintable() and not set(part) & set('<>:"|?*\\') and part not in (".", ".."), name


def test_pictures_are_pictures_and_their_text_is_a_record(finished):
    pictures = sorted(finished.rglob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert np.asarray(image).size
            if "medi/images" in str(path):
                told = [json.loads(value) for value in image.text.values() if value.startswith("{")]
                assert [record["project_id"] in CLASSES and record["center"] in CENTERS for record in told] == [True]
