"""A short form of the suite of faults: about 75 cases over the runs that take the least. The rest is run by hand."""

from pathlib import Path
from random import Random

import pytest

from tests.faults.__main__ import passed_in, recorded, table_of, try_all
from tests.faults.cases import Change
from tests.faults.kinds import KINDS, generate
from tests.faults.recipes import RECIPES
from tests.faults.trial import Outcome

#: run and kind, and how many cases of it
SHORT = {
    "pathology/preparing": {"options": 2, "overlays": 6, "tables": 1, "images": 1, "outputs": 3},
    "pathology/auditing": {"options": 2, "overlays": 6, "tables": 1},
    "pathology/training": {"options": 2, "overlays": 4, "checkpoints": 1, "outputs": 2},
    "pathology/sampling": {
        "options": 3,
        "models": 8,
        "outputs": 2,
        "names": 2,
        "disk_full": 1,
        "limits": 1,
        "stdout": 1,
    },
    "pathology/shortcuts": {"options": 1, "tables": 1, "features": 6},
    "pathology/embedding": {"options": 1, "tables": 1, "images": 1, "stores": 2},
    "brain/preparing": {"options": 3, "overlays": 4, "tables": 2, "images": 2, "outputs": 1},
}
SEED = 3


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, forks):
    cases = []
    for run, kinds in SHORT.items():
        for kind, count in kinds.items():
            cases += generate(kind, run, count, SEED)
    return try_all(cases, tmp_path_factory.mktemp("faults"), [forks])


def test_every_fault_ends_in_one_line_or_the_right_result(outcomes):
    assert len(outcomes) == sum(count for kinds in SHORT.values() for count in kinds.values())
    faults = [(outcome.case.command, outcome.faults) for outcome in outcomes if outcome.faults]
    assert not faults, table_of(outcomes)


@pytest.mark.parametrize("kind", KINDS)
def test_cases_of_a_seed_are_the_same_whatever_their_number(kind):
    runs = {"checkpoints": "training", "features": "shortcuts", "stores": "embedding"}
    run = f"pathology/{runs.get(kind, 'sampling')}"
    few, many = generate(kind, run, 5, 3), generate(kind, run, 40, 3)
    assert few == many[:5] and len(many) > 5
    assert generate(kind, run, 40, 4) != many
    assert all(isinstance(change, Change) for change in KINDS[kind](RECIPES[run], Random(0)))


def test_every_run_of_both_bundles_has_a_recipe():
    root = Path(__file__).parents[2] / "bundles"
    configs = {file.name for file in root.glob("*/configs/*.json") if '"run":' in file.read_text()}
    assert configs == {recipe.config for recipe in RECIPES.values()}


def test_a_record_leaves_out_what_passed_last(tmp_path):
    record = tmp_path / "record.jsonl"
    assert passed_in(record) == set()
    case, other = generate("stdout", "pathology/sampling", 2, 0)
    lines = [
        Outcome(case, ("hang",), None, 1.0, ""),
        Outcome(case, (), 0, 1.0, ""),
        Outcome(other, ("hang",), 1, 1.0, ""),
    ]
    record.write_text("\n".join(map(recorded, lines)) + "\n")
    assert passed_in(record) == {("pathology/sampling", "stdout", 0, 0)}
