"""Names from data that are markup, formulas, paths or math stay text: on pages, in tables, and in names of files."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.faults.judge import snapshot
from tests.faults.recipes import RECIPES
from tests.faults.world import LOCK, STEPS, World, command_of, make_data

#: tables that people open, and no run reads
PEOPLE = ("rejected.csv", "metrics.csv", "probe.csv", "shortcuts.csv", "confusion.csv")

CLASSES = ("<script>alert(1)</script>" + "x" * 275, "=1+1")
CENTERS = ('"><img src=x onerror=alert(1)>', "../../up\\..\\\tend", "line\nbreak $\\frac{ 🧠 מרכז")
SEXES = ("'; DROP TABLE--", "{{ 7*7 }}")
LESIONS = ("=1+1", "<b onclick=alert(1)>left</b>", "../right/" + "y" * 300)
PATIENTS = ("@", "../", "<i>", "患者 ")
#: runs whose results no other run reads, each with its page; the others are made for these
RUNS = {
    "pathology/auditing": "audit.html",
    "pathology/shortcuts": "report.html",
    **{f"pathology/{run}": "report.html" for run in ("evaluation", "evaluation_alignment", "probing", "experiment")},
    "brain/resampling": None,
    "brain/evaluation": "report.html",
    "brain/experiment": "evaluation/report.html",
}


def rename(path, **columns):
    table = pd.read_csv(path, dtype=str)
    for column, names in columns.items():
        table[column] = table[column].map(dict(zip(sorted(set(table[column])), names)))
    table["patient"] = [PATIENTS[number % 4] + patient for number, patient in enumerate(table["patient"])]
    table.to_csv(path, index=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, forks):
    """A folder in which all runs of both bundles have ended."""
    root = tmp_path_factory.mktemp("text") / "above" / "upper"
    world = World(root, forks)
    with LOCK:
        make_data(root)
    rename(root / "pathology" / "data" / "tiles.csv", project_id=CLASSES, center=CENTERS, sex=SEXES)
    rename(root / "brain" / "data" / "slices.csv", lesion=LESIONS)
    for name in RUNS:
        case = world.folder_of(RECIPES[name], root / "cases" / name)
        ended = forks.run(command_of(RECIPES[name]), case, root / "log.txt", 240.0)
        assert ended["code"] == 0, (name, ended["output"][-3000:])
    return root


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
    pages = [path for path in sorted(finished.rglob("*.html")) if "bundle" not in path.parts]
    made = {str(path.relative_to(finished)) for path in pages}
    assert made >= {f"cases/{run}/out/{page}" for run, page in RUNS.items() if page is not None}
    assert made >= {f"{bundle}/cohort/audit.html" for bundle in ("pathology", "brain")}
    shown = {}
    for path in pages:
        markup = Markup(path.read_text())
        assert markup.suspects == [] and "alert(1)" not in " ".join(markup.scripts), path
        assert "49" not in map(str.strip, markup.text), path
        bundle = next(name for name in ("pathology", "brain") if name in path.relative_to(finished).parts)
        shown[bundle] = shown.get(bundle, "") + " ".join(markup.text)
    assert CLASSES[0][:40] in shown["pathology"] and CLASSES[1] in shown["pathology"]
    assert CENTERS[0] in shown["pathology"] and LESIONS[1] in shown["brain"]


def test_tables_that_runs_read_hold_names_as_they_were_given(finished):
    def cells(name):
        return pd.read_csv(finished / name, dtype=str, keep_default_na=False)

    names = ("pathology/cohort/cohort.csv", "pathology/medi/manifest.csv", "brain/cohort/cohort.csv")
    cohort, manifest, brain = map(cells, names)
    assert set(cohort["project_id"]) == set(CLASSES) and set(cohort["sex"]) == set(SEXES)
    centers = {" ".join(center.split()) for center in cohort["center"]}
    assert centers == {" ".join(center.split()) for center in CENTERS}
    assert set(manifest["project_id"]) == set(CLASSES) and set(manifest["center"]) <= set(cohort["center"])
    assert set(brain["lesion"]) == set(LESIONS)
    assert all(patient.startswith(PATIENTS) for patient in (*cohort["patient"], *brain["patient"]))


def test_no_cell_of_other_tables_begins_a_formula(finished):
    tables = [path for path in finished.rglob("*.csv") if path.name in PEOPLE and "bundle" not in path.parts]
    assert {path.name for path in tables} == set(PEOPLE)
    for path in tables:
        with open(path, newline="", encoding="utf-8") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert not cell.startswith(("=", "+", "@", "\t", "\r")) and not re.match(r"-\D", cell), (path, cell)
    assert any("'=1+1" in path.read_text() for path in tables)


def test_files_stay_in_their_folders_under_names_that_every_system_takes(finished):
    assert [path.name for path in finished.parents[1].iterdir()] == ["above"]
    assert [path.name for path in finished.parent.iterdir()] == ["upper"]
    steps = {target.split("/")[0] for _, _, becomes in STEPS for target in becomes.values() if target}
    for bundle in ("pathology", "brain"):
        names = {path.name for path in (finished / bundle).iterdir()}
        assert {name for name in names if not re.fullmatch(r"log\d+.txt|made\d+", name)} <= steps | {"bundle", "data"}
    for run in RUNS:
        names = {path.name for path in (finished / "cases" / run).iterdir()}
        assert names - {"out", "out_cohort"} == {"bundle", *RECIPES[run].reads}
    for name in snapshot(finished):
        for part in PurePosixPath(name).parts:
            assert part.isprintable() and not set(part) & set('<>:"|?*\\') and part not in (".", ".."), name
            assert len(part.encode()) < 256


def test_pictures_are_pictures_and_their_text_is_a_record(finished):
    pictures = [path for path in sorted(finished.rglob("*.png")) if "cases" not in path.parts]
    assert pictures and {"grid.png", "before_and_after.png"} <= {path.name for path in pictures}
    for path in pictures:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert np.asarray(image).size
            if "medi/images" in str(path):
                told = [json.loads(value) for value in image.text.values() if value.startswith("{")]
                assert [record["project_id"] in CLASSES and record["center"] in CENTERS for record in told] == [True]
