"""What a user gives is checked before MONAI reads it: by its ``ConfigWorkflow``, which everything else goes by."""

import json
import sys
from pathlib import Path

import monai.bundle
import pytest
from monai.bundle import ConfigWorkflow

from medi_monai.runs.settings import GROUPS
from medi_monai.runs.workflow import read_configs, run_ids
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import Count, setting

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_medi_diffusion"
CONFIGS = BUNDLE / "configs"
TRAIN = str(CONFIGS / "train.json")


def workflow(*files, run_id="training", **options):
    return ConfigWorkflow(config_file=list(files) or TRAIN, run_id=run_id, bundle_root=str(BUNDLE), **options)


@pytest.fixture
def overlay(tmp_path):
    def write(text, name="overlay.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def given(flow, name):
    return flow.parser.get_parsed_content(name)


def test_text_arrives_as_it_was_written_from_an_overlay_and_from_python(overlay):
    file = overlay('missing: ["#N/A"]\ncolumns: {image: "{image}", patient: "Case #"}\nholdout_values: ["@site"]\n')
    flow = workflow(TRAIN, file, output_dir="run #2")
    assert given(flow, "missing") == ["#N/A"] and given(flow, "output_dir") == "run #2"
    assert given(flow, "columns")["patient"] == "Case #" and given(flow, "holdout_values") == ["@site"]
    assert flow.parser.get_parsed_content("settings::cohort").missing == ["#N/A"]


def test_text_of_the_command_line_is_what_was_typed(monkeypatch):
    # Fire reads `run #2` as the name `run`, with a comment
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", "training", "--output_dir", "run #2"])
    assert given(workflow(output_dir="run"), "output_dir") == "run #2"


def test_switches_numbers_and_null_come_as_they_are_meant():
    flow = workflow(resume="true", stride="null", max_steps=3)
    assert given(flow, "resume") is True and given(flow, "stride") is None
    # a reference to another id goes on to mean it
    assert given(flow, "decay_steps") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_step": 3}, "unknown option '--max_step': did you mean '--max_steps'"),
        ({"max_steps": "many"}, "max_steps = 'many': it has to be a whole number of 1 or more"),
        ({"output_dir": "$NOWHERE/x"}, "NOWHERE is not set"),
        ({"run_id": "trainig"}, "unknown run id 'trainig': did you mean 'training'"),
        ({"run_id": "train"}, "unknown run id 'train'"),
        ({"run_id": "sampling"}, "the run 'sampling' is in .*inference.json, but .*train.json has"),
        ({"tracking": "mlflow"}, r'needs the package mlflow: pip install "medi_monai\[mlflow\]"'),
        ({"tracking": "gone.json"}, "no config file gone.json"),
    ],
)
def test_a_mistake_is_one_line_from_python(options, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=message) as error:
        workflow(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split_sheme: sites\n", "unknown id in .*overlay.yaml: 'split_sheme': did you mean 'split_scheme'"),
        ("max_step: 3\n", "'max_step': did you mean 'max_steps'"),
        ("max_steps: 0\n", "max_steps = 0: it has to be"),
        ("dataset_dir: $SCRATCH_NOWHERE/data\n", "SCRATCH_NOWHERE is not set"),
    ],
)
def test_a_mistake_in_an_overlay_is_one_line(overlay, text, message):
    with pytest.raises(InputError, match=message):
        workflow(TRAIN, overlay(text))


def test_an_overlay_may_hold_settings_of_other_runs_and_parts_of_its_own(overlay):
    flow = workflow(TRAIN, overlay("classifier_folds: 5\nmy_rate: 0.125\nlearning_rate: '@my_rate'\n"))
    assert given(flow, "learning_rate") == 0.125


def test_an_overlay_extends_a_list(overlay):
    flow = workflow(TRAIN, overlay("+metadata_columns: ['#stage']\n"))
    assert given(flow, "metadata_columns") == ["center", "race", "gender", "age_at_index", "#stage"]


def test_without_a_config_file_the_runs_are_listed():
    with pytest.raises(InputError, match="add --config_file.*training is in .*train.json"):
        ConfigWorkflow(config_file=None, bundle_root=str(BUNDLE))


def test_the_reason_comes_first_where_a_run_fails(tmp_path):
    with pytest.raises(InputError, match="class_only.json has to be the last") as error:
        monai.bundle.run("training", config_file=TRAIN, bundle_root=str(BUNDLE), arm="cls", output_dir=str(tmp_path))
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_other_bundles_are_left_to_monai(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    file = tmp_path / "configs" / "train.json"
    file.write_text(json.dumps({"a": "#x", "run": "$1"}))
    flow = ConfigWorkflow(config_file=str(file), workflow_type=None, anything=3)
    assert flow.parser.get_parsed_content("a") == "::x" and flow.run() == [1]


def test_runs_are_known_with_their_configs():
    runs = run_ids(CONFIGS)
    assert (
        runs["training"] == "train.json" and runs["evaluation"] == "evaluate.json" and runs["auditing"] == "audit.json"
    )


def test_a_setting_is_added_by_its_declaration_and_a_line_of_a_config(tmp_path, monkeypatch):
    class More(GROUPS["training"]):
        throw_away: Count = setting(7, "a setting of this test")

    monkeypatch.setitem(GROUPS, "training", More)
    assert read_configs([CONFIGS / "train.json"], CONFIGS)["throw_away"] == 7
    file = tmp_path / "train.json"
    file.write_text(TRAIN and Path(TRAIN).read_text().replace('"seed": 0,', '"seed": 0, "throw_away": 9,'))
    assert read_configs([file], tmp_path)["throw_away"] == 9
    with pytest.raises(InputError, match="throw_away = 0: it has to be a whole number of 1 or more"):
        read_configs([file], tmp_path, {"throw_away": 0})
