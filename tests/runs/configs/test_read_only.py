import os
import shutil
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from medi_monai.runs.configs.read_only import own_root

BUNDLES = Path(__file__).parents[3] / "bundles"
PATHOLOGY, BRAIN = "pathology_medi_diffusion", "brain_mri_fair_text_diffusion"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Both bundles in a folder of an administrator, and a user with a home."""
    for name in (PATHOLOGY, BRAIN):
        shutil.copytree(BUNDLES / name / "configs", tmp_path / "opt" / name / "configs")
    (tmp_path / "home").mkdir()
    (tmp_path / "slides.csv").write_text("slide_id\ns1\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    access = os.access
    monkeypatch.setattr(
        "os.access",
        lambda path, mode, **more: access(path, mode, **more) and not Path(path).is_relative_to(tmp_path / "opt"),
    )
    return tmp_path


def values(root, config, run_id, *names, **options):
    file = str(root / "opt" / config)
    bundle = str(root / "opt" / Path(config).parts[0])
    flow = ConfigWorkflow(config_file=file, run_id=run_id, bundle_root=bundle, **options)
    return [flow.parser.get_parsed_content(name) for name in names]


def test_models_and_output_of_a_bundle_that_cannot_be_written_go_to_the_user(installed, capsys):
    # not the slides of the demo, which take long to draw
    own = {"dataset_dir": str(installed), "table": "slides.csv", "mapping": None}
    home = str(installed / "home" / "medi_monai" / PATHOLOGY)
    names = ("ckpt_dir", "output_dir", "cohort_dir")
    found = values(installed, f"{PATHOLOGY}/configs/train.json", "training", *names, **own)
    assert found[:2] == [f"{home}/models", f"{home}/output/medi/training"]
    assert found[2].startswith(f"{home}/output/preparing/")
    line = f"the bundle in {installed / 'opt' / PATHOLOGY} cannot be written: models and output are in {home}\n"
    assert capsys.readouterr().out == line
    assert not (installed / "opt" / PATHOLOGY / "models").exists()
    [arms] = values(installed, f"{PATHOLOGY}/configs/evaluate.json", "evaluation", "arms")
    assert arms == {"cls": f"{home}/output/cls/sampling", "medi": f"{home}/output/medi/sampling"}


def test_what_the_user_names_stays(installed):
    names = ("ckpt_dir", "output_dir")
    given = values(installed, f"{BRAIN}/configs/train.json", "training", *names, ckpt_dir="mine", output_dir="run #2")
    assert given == ["mine", "run #2"]


def test_models_that_the_bundle_brings_are_read_until_the_user_has_some(installed):
    (installed / "opt" / BRAIN / "models").mkdir()
    config, home = f"{BRAIN}/configs/inference.json", installed / "home" / "medi_monai" / BRAIN
    assert values(installed, config, "sampling", "ckpt_dir") == [str(installed / "opt" / BRAIN / "models")]
    assert values(installed, f"{BRAIN}/configs/train.json", "training", "ckpt_dir") == [str(home / "models")]
    (home / "models").mkdir()
    assert values(installed, config, "sampling", "ckpt_dir") == [str(home / "models")]


def test_an_experiment_starts_from_the_configs_of_the_bundle(installed):
    config = f"{PATHOLOGY}/configs/experiment.json"
    root, output = values(installed, config, "experiment", "bundle_root", "output_dir")
    assert root == str(installed / "opt" / PATHOLOGY)
    assert output == str(installed / "home" / "medi_monai" / PATHOLOGY / "output" / "experiment")


def test_without_a_home_the_current_folder_is_taken(installed, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    assert own_root(installed / "opt" / PATHOLOGY, "x") == installed / "medi_monai" / "x"


def test_a_bundle_that_can_be_written_is_used_as_it_is(tmp_path):
    assert own_root(tmp_path, "x") is None and own_root(tmp_path / "not there", "x") is None
