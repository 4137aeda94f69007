import json
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from medi_monai.cohort.demo.brain_cohort import make_brain_cohort

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "tutorials"


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


#: as little work as can be
FEW_PATCHES = {"max_patches_per_slide": 4, "num_workers": 1}
QUICK = {
    "prepare": FEW_PATCHES,
    "train": {
        "channels": [16, 32], "attention_levels": [False, True], "num_res_blocks": 1, "max_steps": 8,
        "warmup_steps": 3, "batch_size": 8, "val_interval": 4, "sample_every": 8, "num_validation": 16,
    },
    "inference": {"num_steps": 2, "images_per_combination": 2},
}  # fmt: skip


def test_the_quickstart_tells_its_story(bundle, executed, tmp_path):
    settings = {"MEDI_TUTORIAL_OPTIONS": json.dumps(QUICK), "MEDI_BUNDLE": bundle.root}
    notebook = executed("01_quickstart.ipynb", MEDI_TUTORIAL_OUTPUT=tmp_path / "output", **settings)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    for run_id, count in (("preparing", 1), ("training", 2), ("sampling", 2)):
        assert printed.count(f"{run_id}: done. Results: ") == count
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
    assert "values of site occur in only one project_id" in printed
    for page in ("quality.html", "audit.html"):
        assert (tmp_path / "output" / page).stat().st_size > 10_000


def test_the_shortcut_tutorial_tells_its_story(bundle, executed, tmp_path):
    options = {"prepare": FEW_PATCHES | {"max_patches_per_slide": 8}, "probe": {"num_repeats": 2, "num_workers": 1}}
    settings = {"MEDI_TUTORIAL_OPTIONS": json.dumps(options), "MEDI_BUNDLE": bundle.root}
    notebook = executed("03_is_there_a_shortcut.ipynb", MEDI_TUTORIAL_OUTPUT=tmp_path / "output", **settings)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = " ".join(output.get("data", {}).get("text/plain", "") for output in shown)
    for words in ("center", "same class, another center", "stain_normalized", "worst_group_accuracy"):
        assert words in tables
    assert (tmp_path / "output" / "probing" / "report.html").stat().st_size > 10_000


def test_notebooks_are_stored_without_outputs():
    for path in TUTORIALS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") for cell in cells), f"{path.name} holds outputs: clear them"


BRAINS = {
    "prepare": {"image_size": 16},
    "train": {
        "image_size": 16, "channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": [1, 1],
        "num_head_channels": 8, "norm_num_groups": 4, "text_steps": 3, "max_steps": 3, "batch_size": 4,
        "warmup_steps": 1, "num_validation": 8,
    },
    "classify": {"image_size": 16, "max_steps": 5, "batch_size": 16},
    "inference": {"num_steps": 2, "num_images": 18},
    "align": {
        "max_steps": 2, "batch_size": 4, "pool_size": 4, "num_validation": 4, "val_interval": 1, "num_steps": 2,
        "anchor_batch_size": 2, "num_images": 8, "draws": 4,
    },
    "evaluate": {"min_images": 4, "num_replicates": 10, "num_halves": 1, "neighbors": 2},
}  # fmt: skip


def test_the_alignment_tutorial_tells_its_story(executed, tmp_path):
    pytest.importorskip("transformers")
    data = make_brain_cohort(tmp_path / "data", num_patients=40, slices_per_patient=2, image_size=32)
    options = {**BRAINS, "prepare": {**BRAINS["prepare"], "dataset_dir": str(data)}}
    brains = tmp_path / "brains"
    shutil.copytree(ROOT / "bundles" / "brain_mri_fair_text_diffusion", brains)
    settings = {"MEDI_BRAIN_BUNDLE": brains, "MEDI_TUTORIAL_OPTIONS": json.dumps(options)}
    notebook = executed("04_align_subgroups.ipynb", MEDI_TUTORIAL_OUTPUT=tmp_path / "output", **settings)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert "FLAIR MR slice" in tables[0] and "judge" in tables[2] and "ci95" in tables[3]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert (tmp_path / "output" / "evaluation" / "report.html").stat().st_size > 10_000
