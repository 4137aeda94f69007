import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parents[2] / "tutorials"


@pytest.fixture
def executed(bundle, tmp_path, monkeypatch):
    """A notebook run on small settings in a folder of its own, on the demo slides that other tests have made."""

    def execute(name, **settings):
        for key, value in {**bundle.environment, **settings}.items():
            monkeypatch.setenv(key, str(value))
        shutil.copy(TUTORIALS / name, tmp_path)
        notebook = nbformat.read(tmp_path / name, as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return notebook

    return execute


def test_the_quickstart_tells_its_story(bundle, executed, tmp_path):
    settings = {"MEDI_TUTORIAL_STEPS": 8, "MEDI_TUTORIAL_IMAGES": 2, "MEDI_BUNDLE": bundle.root}
    notebook = executed("01_quickstart.ipynb", MEDI_TUTORIAL_OUTPUT=tmp_path / "output", **settings)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    for run_id, count in (("preparing", 1), ("training", 2), ("sampling", 2)):
        assert printed.count(f"{run_id}: done, the results are in") == count
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) == 3 and "DEMO-SPINDLE" in tables[0] and "slope" in tables[2]
    assert (tmp_path / "output" / "comparison.png").is_file()


def test_the_cohort_tutorial_tells_its_story(bundle, executed, tmp_path):
    notebook = executed("02_slides_to_cohort.ipynb", MEDI_TUTORIAL_PATCHES=2, MEDI_TUTORIAL_OUTPUT=tmp_path / "output")
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "equal from files and from slides: True" in printed
    assert "values of site occur in one project_id alone" in printed
    for page in ("quality.html", "audit.html"):
        assert (tmp_path / "output" / page).stat().st_size > 10_000


def test_the_shortcut_tutorial_tells_its_story(bundle, executed, tmp_path):
    settings = {"MEDI_TUTORIAL_PATCHES": 8, "MEDI_TUTORIAL_REPEATS": 2, "MEDI_BUNDLE": bundle.root}
    notebook = executed("03_is_there_a_shortcut.ipynb", MEDI_TUTORIAL_OUTPUT=tmp_path / "output", **settings)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = " ".join(output.get("data", {}).get("text/plain", "") for output in shown)
    for words in ("center", "same class, another center", "stain_normalised", "worst_group_accuracy"):
        assert words in tables
    assert (tmp_path / "output" / "probing" / "report.html").stat().st_size > 10_000


def test_notebooks_are_stored_without_outputs():
    for path in TUTORIALS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells), f"{path.name} holds outputs: clear them"
